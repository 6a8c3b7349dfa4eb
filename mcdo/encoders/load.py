"""From a key to a loaded encoder."""

from __future__ import annotations

from typing import Any, cast

import torch

from mcdo import arguments
from mcdo.encoders.encoder import PROBE_TEXTS, Encoder
from mcdo.encoders.registered import FACTORIES, FAMILY, UnloadedSpec, is_registered, make, unloaded_spec
from mcdo.encoders.registry import REGISTRY
from mcdo.encoders.spec import EncoderSpec, Precision, check_precision
from mcdo.errors import McdoError, nearest, refused_as

_OPEN_CLIP_PREFIXES = ("local-dir:", "hf-hub:")
_HF_PREFIX = "hf:"
_IMAGE_PREFIXES = ("timm:", "tv:")
DEVICES = ("cpu", "cuda", "mps")


def load_encoder(
    key: str,
    device: str | torch.device = "cpu",
    *,
    weights: str = "pretrained",
    seed: int = 0,
    backend: str | None = None,
    precision: Precision = "float32",
) -> Encoder:
    """Load an encoder: a known key, ``local-dir:PATH``, ``hf-hub:ID`` (open_clip) or ``hf:ID_OR_PATH``.

    Image encoders without text are also ``timm:NAME`` and ``tv:NAME`` (torchvision), with ``@PATH`` behind it for
    weights of one's own.

    Keys are mcdo's own, those given to :func:`mcdo.register_encoder`, those that installed packages offer, and
    ``python:PACKAGE.MODULE:FACTORY``.

    ``weights`` is "pretrained", or "random" for an untrained model drawn from ``seed``. ``backend="hf"`` loads a
    registered encoder's HuggingFace checkpoint instead of the open_clip one. ``precision`` other than float32 carries
    linear maps out in it (autocast); weights, features and moments stay float32 or better.
    Raises McdoError for an unknown key (with the nearest), for weights that are not on this disk (with the command
    that gets them), for weights that do not fit the model or would have to be unpickled, and for an own configuration
    whose image tower fails on a picture.
    """
    arguments.instance("key", key, str, "give a registered key, local-dir:PATH, hf-hub:ID or hf:ID_OR_PATH")
    seed = arguments.seed(seed)
    if weights not in ("pretrained", "random"):
        raise McdoError(f"weights={weights!r}: say 'pretrained' or 'random'")
    check_precision(precision)
    spec, target = find_spec(key, backend), available(device)
    if key.startswith(_IMAGE_PREFIXES):
        made = _image_backend(key).load(key, random=weights == "random", seed=seed, device=target)
        made.precision = precision
        return cast("Encoder", made)
    if spec.backend == "own":
        if weights == "random":
            raise McdoError(f"{key}: random weights are its factory's to make; register one that makes them")
        encoder = make(key, target, precision)
        encoder.precision = precision
        return encoder
    if spec.backend == "hf":
        from mcdo.encoders import hf_backend

        encoder = hf_backend.load(spec, random=weights == "random", seed=seed, device=target)
    else:
        from mcdo.encoders import open_clip_backend

        encoder = open_clip_backend.load(spec, random=weights == "random", seed=seed, device=target)
    encoder.precision = precision
    if key not in REGISTRY:
        _try(encoder)
    return encoder


def _try(encoder: Encoder) -> None:
    """Raise McdoError for an image tower that fails on a picture: libraries build some that cannot be carried out."""
    what = f"{encoder.key}: the image tower that its configuration describes fails on a picture"
    with torch.no_grad(), refused_as(what):
        encoder.forward_image(encoder.blank(1))


def located(key: str) -> str:
    """Where the weights of an encoder are, without loading them; of one that a factory makes, the factory.

    Raises McdoError as :func:`load_encoder` does where they are not on this disk.
    """
    spec = find_spec(key)
    if key.startswith(_IMAGE_PREFIXES):
        return str(_image_backend(key).located(key))
    if spec.backend == "own":
        return f"made by {key}"
    if spec.backend == "hf":
        from mcdo.encoders import hf_backend

        return str(hf_backend.located(spec))
    from mcdo.encoders import open_clip_backend

    return str(open_clip_backend.located(spec))


def reads_prompts(key: str) -> bool | None:
    """Whether an encoder has a text tower, as far as that can be told without loading it; else None.

    Raises McdoError as :func:`load_encoder` does for an unknown key, or a configuration that cannot be read.
    """
    spec = find_spec(key)
    if key.startswith(_IMAGE_PREFIXES):
        return False
    if spec.backend == "own":
        return None
    if spec.backend == "hf":
        from mcdo.encoders import hf_backend

        return hf_backend.reads_prompts(spec)
    return True


def check_tokenizer(key: str) -> None:
    """Raise McdoError where the tokenizer of an encoder cannot be used from this disk, without loading the model."""
    spec = find_spec(key)
    if spec.backend == "own":
        return
    if spec.backend == "hf":
        from mcdo.encoders.hf_backend import tokenizer
    else:
        from mcdo.encoders.open_clip_backend import tokenizer
    words = tokenizer(spec)
    if words is not None:
        with refused_as(f"{key}: the tokenizer cannot be used"):
            words(list(PROBE_TEXTS))


def _image_backend(key: str) -> Any:
    if key.startswith("timm:"):
        from mcdo.encoders import timm_backend

        return timm_backend
    from mcdo.encoders import torchvision_backend

    return torchvision_backend


def find_spec(key: str, backend: str | None = None) -> EncoderSpec:
    """What is known of an encoder without loading it. Raises McdoError for an unknown key, with the nearest."""
    if backend not in (None, "open_clip", "hf"):
        raise McdoError(f"backend={backend!r}: say 'open_clip' or 'hf'")
    if key.startswith(_HF_PREFIX):
        return _hf_spec(key, key.removeprefix(_HF_PREFIX))
    if key.startswith(_OPEN_CLIP_PREFIXES):
        from mcdo.encoders.open_clip_backend import own_spec

        return own_spec(key)
    if key.startswith(_IMAGE_PREFIXES):
        if backend is not None:
            raise McdoError(f"{key} has no other backend; leave backend={backend!r} out")
        return UnloadedSpec(key, FAMILY, "own", key, 0, 0, "softmax")
    if is_registered(key):
        if backend is not None:
            raise McdoError(f"{key} is made by a factory, which no backend={backend!r} replaces; leave backend out")
        return unloaded_spec(key)
    if key not in REGISTRY:
        raise McdoError(
            f"unknown encoder {key!r}; the nearest: {nearest(key, FACTORIES)}. There are: {FACTORIES}. An encoder of "
            "one's own is local-dir:PATH, hf-hub:ID, hf:ID_OR_PATH, timm:NAME, tv:NAME, "
            "python:PACKAGE.MODULE:FACTORY, or what mcdo.register_encoder was given"
        )
    spec = REGISTRY[key]
    if backend != "hf":
        return spec
    if spec.hf_id is None:
        raise McdoError(f"{key} has no HuggingFace checkpoint to fall back to; leave backend out")
    return _hf_spec(key, spec.hf_id, spec)


def _hf_spec(key: str, source: str, registered: EncoderSpec | None = None) -> EncoderSpec:
    from mcdo.encoders.hf_backend import own_spec

    return own_spec(key, source, registered)


def device_named(device: str | torch.device) -> torch.device:
    """A device of a kind that the harness knows; whether it is there is another question.

    Raises:
        McdoError: for any other name, with the nearest.

    """
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise _unknown_device(device) from error
    if target.type not in DEVICES:
        raise _unknown_device(device)
    return target


def _unknown_device(device: object) -> McdoError:
    likely = nearest(str(device).split(":")[0].lower(), DEVICES)
    return McdoError(f"unknown device {str(device)!r}; the nearest: {likely}. One of several is cuda:1")


def best_device(asked: str) -> str:
    """What "auto" stands for here; any other name as it is."""
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def available(device: str | torch.device) -> torch.device:
    """The device of that name; McdoError if this machine has none."""
    target = device_named(device)
    present = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }.get(target.type, 1)
    if (target.index or 0) >= present:
        raise McdoError(
            f"the device {device} is not available to torch on this machine, which has {present} of its kind; "
            "use another, or install its driver"
        )
    return target
