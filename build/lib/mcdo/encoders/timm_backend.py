"""Builds image encoders with timm: ``timm:NAME``, or ``timm:NAME@PATH`` for weights of one's own.

Features are what the classifier would read. The weights are a file on this disk, or the model's own in the HuggingFace
cache; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict

from mcdo.encoders.encoder import Encoder
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.weights import brief, cached, checkpoint_in, loading_failed, missing, refuse_pickles, refuse_surplus
from mcdo.errors import McdoError, nearest
from mcdo.names import utf8_path

PREFIX = "timm:"


def load(key: str, *, random: bool, seed: int, device: torch.device) -> Encoder:
    """Build, load and check the model that ``key`` names.

    Raises:
        McdoError: for an unknown name, for weights that are not on this disk, and for weights that do not fit the model
            without interpolating or leaving out any.

    """
    checkpoint = None if random else located(key)
    model = _built(key, _name(key), seed)
    if checkpoint is not None:
        _load_weights(key, model, checkpoint)
    settings = resolve_model_data_config(model)
    model.reset_classifier(0)
    return Encoder.of(model, settings, name=key, device=device, random_weights=random)


def _built(key: str, name: str, seed: int) -> Any:
    try:
        with quiet_libraries(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return timm.create_model(name, pretrained=False)
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
        given = Path(path).expanduser()
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
        _check_positions(key, checkpoint, model, state)
        renamed = getattr(_module_of(model), "checkpoint_filter_fn", None)
        model.load_state_dict(state if renamed is None else renamed(state, model), strict=True)
    except McdoError:
        raise
    except Exception as error:  # damaged files, other models' tensors, ...
        raise loading_failed(key, checkpoint, error) from error


def _module_of(model: Any) -> Any:
    import sys

    return sys.modules[type(model).__module__]


def _check_positions(key: str, checkpoint: Path, model: Any, state: dict[str, Any]) -> None:
    own = model.state_dict()
    for name, value in state.items():
        if "pos_embed" in name and name in own and value.shape != own[name].shape:
            raise McdoError(
                f"{key}: {checkpoint} holds {name} of shape {tuple(value.shape)}, and the model has "
                f"{tuple(own[name].shape)}, so positions would have to be interpolated; name the model of their size"
            )
