"""Builds image encoders with torchvision: ``tv:NAME``, or ``tv:NAME@PATH`` for weights of one's own.

Features are what the last layer of the classifier would read. The weights are a file on this disk, or torchvision's own
where torch keeps what it has downloaded before; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from mcdo.encoders.encoder import Encoder
from mcdo.encoders.weights import checkpoint_in, loading_failed, refuse_pickles, refuse_surplus
from mcdo.errors import McdoError, nearest
from mcdo.names import utf8_path

PREFIX = "tv:"
_CLASSIFIERS = ("fc", "head", "heads", "classifier")


def load(key: str, *, random: bool, seed: int, device: torch.device) -> Encoder:
    """Build, load and check the model that ``key`` names.

    Raises:
        McdoError: for an unknown name, for weights that are not on this disk or do not fit, and for a model whose
            classifier is no linear layer.

    """
    name = _name(key)
    checkpoint = None if random else located(key)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = models.get_model(name, weights=None)
    weights = models.get_model_weights(name)
    entry = weights.DEFAULT
    if checkpoint is not None:
        entry = next((each for each in weights if Path(each.url).name == checkpoint.name), entry)
        _load_weights(key, model, checkpoint)
    _take_off_classifier(key, model)
    return Encoder.of(model, entry.transforms(), name=key, device=device, random_weights=random)


def _name(key: str) -> str:
    name, known = key.removeprefix(PREFIX).partition("@")[0], models.list_models(module=models)
    if name not in known:
        raise McdoError(f"{key}: torchvision has no classification model {name!r}; the nearest: {nearest(name, known)}")
    return name


def located(key: str) -> Path:
    """The file of weights. Raises McdoError where it is not on this disk, or the name is unknown."""
    entry, path = models.get_model_weights(_name(key)).DEFAULT, key.partition("@")[2]
    if path:
        given = Path(path).expanduser()
        if not given.exists():
            raise McdoError(f"{key}: there is no {given}; give a file of weights, or a folder that holds one")
        return checkpoint_in(given) if given.is_dir() else given
    found = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if not found.is_file():
        raise McdoError(
            f"{key}: the weights {entry} are not on this disk. Get them with\n"
            f"    curl --create-dirs -o {found} {entry.url}\n"
            f"(later runs need no network), or name your own with {key}@PATH. Random weights must be asked for by "
            "name: weights='random'."
        )
    return found


def _load_weights(key: str, model: nn.Module, checkpoint: Path) -> None:
    refuse_surplus(checkpoint, sum(each.numel() for each in model.parameters()))
    refuse_pickles(checkpoint)
    place = utf8_path(checkpoint.parent) / checkpoint.name
    try:
        state = load_file(place) if checkpoint.suffix == ".safetensors" else torch.load(place, "cpu", weights_only=True)
        model.load_state_dict(state, strict=True)
    except Exception as error:  # damaged files, other models' tensors, ...
        raise loading_failed(key, checkpoint, error) from error


def _take_off_classifier(key: str, model: nn.Module) -> None:
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.partition(".")[0] in _CLASSIFIERS
    ]
    if not linear:
        raise McdoError(f"{key}: its classifier is no linear layer; give the module that you mean to mcdo.Encoder.of")
    parent, _, child = linear[-1].rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
