"""Builds image encoders with timm: ``timm:NAME``, or ``timm:NAME@PATH`` for weights of one's own.

Features are what the classifier would read, however many classes it has. The weights are a file on this disk, or the
model's own in the HuggingFace cache; nothing is downloaded. Weights of one's own are shown pictures as the
``config.json`` beside them says, as timm writes it, or else as those of NAME's tag.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal
from unittest.mock import patch

import timm
import torch
from msgspec import Meta, to_builtins
from msgspec.structs import asdict
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor
from torch.nn import functional

from mcdo import arguments
from mcdo.encoders.encoder import Encoder
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.weights import (
    brief,
    cached,
    checkpoint_in,
    loading_failed,
    missing,
    refuse_other_numbers,
    refuse_pickles,
    refuse_surplus,
)
from mcdo.errors import McdoError, nearest
from mcdo.names import utf8_path
from mcdo.schema import Count, OpenRecord, Positive, Record, Share, Size, Text, checked, read_json

PREFIX, CONFIG = "timm:", "config.json"
_SETTINGS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
"""Of how pictures are shown."""


def load(key: str, *, random: bool, seed: int, device: torch.device) -> Encoder:
    """Build, load and check the model that ``key`` names.

    Raises:
        McdoError: for an unknown name, for weights that are not on this disk, for weights that do not fit the model
            without interpolating or leaving out any, and for weights that were trained with another activation.

    """
    checkpoint, name = None if random else located(key), _name(key)
    beside = None if checkpoint is None or "@" not in key else _beside(key, name, checkpoint)
    if checkpoint is not None and beside is None and _trained_as(name) != name.partition(".")[0]:
        raise McdoError(f"{key}: these weights were trained with QuickGELU; name {_trained_as(name)} in its place")
    model = _built(key, name, seed, {} if beside is None else beside.model_args.given())
    settings = resolve_model_data_config(model) if beside is None else beside.shown()
    if checkpoint is not None:
        _load_weights(key, model, checkpoint)
    pool, stated = getattr(model, "global_pool", None), None if beside is None else beside.global_pool
    if isinstance(pool, str) and stated not in (None, pool):
        raise McdoError(f"{key}: {CONFIG} beside the weights pools features by {stated!r}, and the model by {pool!r}")
    model.reset_classifier(0)
    return Encoder.of(model, settings, name=key, device=device, random_weights=random)


class _Shown(OpenRecord, frozen=True):
    """How pictures are shown."""

    input_size: tuple[Literal[3], Size, Size]
    interpolation: Text
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    crop_pct: Positive = 0.875
    crop_mode: Literal["center", "squash", "border"] = "center"
    tag: str | None = None


class _Arguments(Record, frozen=True):
    """What a model may be built with; of the rates of dropout nothing is left in evaluation.

    A side is no ``tuple[Size, Size]``: a union with one of fixed length ends the process in msgspec 0.22.
    """

    num_classes: Count | None = None
    img_size: Size | Annotated[tuple[Size, ...], Meta(min_length=2, max_length=2)] | None = None
    in_chans: Literal[3] | None = None
    global_pool: str | None = None
    dynamic_img_size: bool | None = None
    drop_rate: Share | None = None
    drop_path_rate: Share | None = None

    def given(self) -> dict[str, Any]:
        """Those that are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class _Beside(OpenRecord, frozen=True):
    """``config.json`` as timm writes it beside weights."""

    architecture: Text
    pretrained_cfg: _Shown
    model_args: _Arguments = _Arguments()
    global_pool: str | None = None

    def shown(self) -> dict[str, Any]:
        """How pictures are, as timm takes it."""
        return {name: value for name, value in to_builtins(self.pretrained_cfg).items() if name in _SETTINGS}


def _beside(key: str, name: str, checkpoint: Path) -> _Beside | None:
    """What lies beside weights of one's own, if it is timm's.

    Raises:
        McdoError: for settings of another model or such as are not handled; and where there are none, for a name of
            which there are weights that are shown pictures in different ways.

    """
    path, architecture = checkpoint.parent / CONFIG, name.partition(".")[0]
    held = read_json(path, dict[str, Any]) if path.is_file() else {}
    if "architecture" not in held:
        _check_one_way(key, name, architecture)
        return None
    found: _Beside = checked({"pretrained_cfg": held, **held}, _Beside, path)
    trained = _trained_as(f"{found.architecture}.{found.pretrained_cfg.tag}")
    if trained != architecture:
        raise McdoError(f"{key}: {path} is of the architecture {trained!r}; name that one")
    return found


def _trained_as(name: str) -> str:
    """The architecture whose activation a tag's weights were trained with: timm lists some under one with GELU too."""
    architecture, _, tag = name.partition(".")
    listed = timm.list_pretrained(name) if tag else [name]
    notes = [note for each in listed for note in getattr(timm.get_pretrained_cfg(each), "notes", None) or ()]
    native = any("QuickGELU" in note for note in notes) and "quickgelu" not in architecture
    return architecture.replace("_clip_", "_clip_quickgelu_") if native else architecture


def _check_one_way(key: str, name: str, architecture: str) -> None:
    tags = timm.list_pretrained(f"{architecture}.*") if name == architecture else []
    ways = {
        str([_trained_as(each), *(getattr(timm.get_pretrained_cfg(each), of, None) for of in _SETTINGS)])
        for each in tags
    }
    if len(ways) > 1:
        raise McdoError(
            f"{key}: there are weights of {name} that are shown pictures in {len(ways)} ways, or activated; name those "
            f"whose way is that of yours ({', '.join(tags)}), or put timm's config.json beside them"
        )


def _built(key: str, name: str, seed: int, arguments: dict[str, Any]) -> Any:
    try:
        with quiet_libraries(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:  # whatever the library makes of a name
        raise McdoError(f"{key}: timm cannot build {name!r}: {brief(error)}") from error


def _name(key: str) -> str:
    name = key.removeprefix(PREFIX).partition("@")[0]
    if ":" in name or not timm.is_model(name):
        raise McdoError(
            f"{key}: timm {timm.__version__} has no model {name!r}; the nearest: {nearest(name, timm.list_models())}"
        )
    return name


def located(key: str) -> Path:
    """The file of weights. Raises McdoError where it is not on this disk, or the name is unknown."""
    settings, path = timm.get_pretrained_cfg(_name(key)), key.partition("@")[2]
    if path:
        given = arguments.path(path)
        if not given.exists():
            raise McdoError(f"{key}: there is no {given}; give a file of weights, or a folder that holds one")
        return checkpoint_in(given) if given.is_dir() else given
    if settings is None or not settings.hf_hub_id:
        raise McdoError(f"{key}: timm knows of no weights of this model; name them with {key}@PATH")
    found = cached(settings.hf_hub_id, settings.hf_hub_filename or "model.safetensors")
    if found is None:
        raise missing(key, "the weights", settings.hf_hub_id)
    return found


def _load_weights(key: str, model: Any, checkpoint: Path) -> None:
    """Load every tensor of a file into the model, whose own filter may rename and reshape but not interpolate."""
    refuse_surplus(checkpoint, sum(each.numel() for each in model.parameters()))
    refuse_pickles(checkpoint)
    try:
        state = load_state_dict(str(utf8_path(checkpoint.parent) / checkpoint.name), weights_only=True)
        module = sys.modules[type(model).__module__]
        if hasattr(module, "checkpoint_filter_fn"):
            with _no_resampling(key, checkpoint, module):
                state = module.checkpoint_filter_fn(state, model)
        classes = _classes(model, state)
        if classes != model.num_classes:
            model.reset_classifier(classes)
        refuse_other_numbers(key, checkpoint, state, model)
        model.load_state_dict(state, strict=True)
    except McdoError:
        raise
    except Exception as error:  # damaged files, other models' tensors, ...
        raise loading_failed(key, checkpoint, error) from error


def _classes(model: Any, state: dict[str, Any]) -> int:
    """How many a classifier among weights has, which is taken off again; 0 where there is none."""
    named = model.pretrained_cfg.get("classifier") or ()
    names = (named,) if isinstance(named, str) else named
    return next((len(state[f"{each}.weight"]) for each in names if f"{each}.weight" in state), 0)


@contextmanager
def _no_resampling(key: str, checkpoint: Path, module: ModuleType) -> Iterator[None]:
    """Refuse weights for another size of picture, window or patch, which timm would interpolate unasked."""
    within = False

    def watched(resample: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def resampled(held: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            nonlocal within
            outer, within = within, True
            try:
                found = resample(held, *args, **kwargs)
            finally:
                within = outer
            if outer or (found.shape == held.shape and torch.equal(found, held)):  # some call it whatever the size
                return found
            raise McdoError(
                f"{key}: {checkpoint} holds a tensor of shape {tuple(held.shape)} for another size of picture, window "
                "or patch than the model's, so it would have to be interpolated; name the model of its size"
            )

        return resampled

    with ExitStack() as stack:
        for name, value in list(vars(module).items()):
            if name.startswith(("resample_", "resize_")):
                stack.enter_context(patch.object(module, name, watched(value)))
        # MViTv2 does it by hand
        stack.enter_context(patch.object(functional, "interpolate", watched(functional.interpolate)))
        yield
