"""From a key to a loaded encoder."""

from __future__ import annotations

from typing import get_args

import torch

from mcdo.encoders.encoder import Encoder
from mcdo.encoders.registry import REGISTRY
from mcdo.encoders.spec import EncoderSpec, Precision
from mcdo.errors import McdoError, nearest

_OPEN_CLIP_PREFIXES = ("local-dir:", "hf-hub:")
_HF_PREFIX = "hf:"


def load_encoder(
    key: str,
    device: str | torch.device = "cpu",
    *,
    weights: str = "pretrained",
    seed: int = 0,
    backend: str | None = None,
    precision: Precision = "float32",
) -> Encoder:
    """Load an encoder: a registered key, ``local-dir:PATH``, ``hf-hub:ID`` (open_clip) or ``hf:ID_OR_PATH``.

    ``weights`` is "pretrained", or "random" for an untrained model drawn from ``seed``. ``backend="hf"`` loads a
    registered encoder's HuggingFace checkpoint instead of the open_clip one. ``precision`` other than float32 carries
    linear maps out in it (autocast); weights, features and moments stay float32 or better.
    Raises McdoError for an unknown key (with the nearest), for weights that are not on this disk (with the command
    that gets them), and for weights that do not fit the model or would have to be unpickled.
    """
    if weights not in ("pretrained", "random"):
        raise McdoError(f"weights={weights!r}: say 'pretrained' or 'random'")
    if precision not in get_args(Precision):
        raise McdoError(f"precision={precision!r}: say {', '.join(get_args(Precision))}")
    spec, target = find_spec(key, backend), _device(device)
    if spec.backend == "hf":
        from mcdo.encoders import hf_backend

        encoder = hf_backend.load(spec, random=weights == "random", seed=seed, device=target)
    else:
        from mcdo.encoders import open_clip_backend

        encoder = open_clip_backend.load(spec, random=weights == "random", seed=seed, device=target)
    encoder.precision = precision
    return encoder


def find_spec(key: str, backend: str | None = None) -> EncoderSpec:
    """What is known of an encoder without loading it. Raises McdoError for an unknown key, with the nearest."""
    if backend not in (None, "open_clip", "hf"):
        raise McdoError(f"backend={backend!r}: say 'open_clip' or 'hf'")
    if key.startswith(_HF_PREFIX):
        return _hf_spec(key, key.removeprefix(_HF_PREFIX))
    if key.startswith(_OPEN_CLIP_PREFIXES):
        from mcdo.encoders.open_clip_backend import own_spec

        return own_spec(key)
    if key not in REGISTRY:
        raise McdoError(
            f"unknown encoder {key!r}; the nearest: {nearest(key, REGISTRY)}. "
            "An encoder of one's own is local-dir:PATH, hf-hub:ID or hf:ID_OR_PATH"
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


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise McdoError(f"unknown device {device!r}; such as cpu, cuda, cuda:1 or mps") from error
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(target.type, True)
    if not usable:
        raise McdoError(
            f"the device {device} is not available to torch on this machine; use cpu, or install its driver"
        )
    return target
