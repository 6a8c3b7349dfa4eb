"""Builds image encoders with torchvision: ``tv:NAME``, or ``tv:NAME@PATH`` for weights of one's own.

Features are what the last layer of the classifier would read, however many classes it has. The weights are a file on
this disk, or torchvision's own where torch keeps what it has downloaded before; nothing is downloaded. Of several that
torchvision has, ``tv:NAME.TAG`` names one, such as ``tv:resnet50.IMAGENET1K_V1``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torchvision import models

from mcdo import arguments
from mcdo.encoders.encoder import Encoder
from mcdo.encoders.weights import checkpoint_in, loading_failed, refuse_other_numbers, refuse_pickles, refuse_surplus
from mcdo.errors import McdoError, nearest
from mcdo.names import utf8_path

PREFIX = "tv:"
_WRAPPERS = ("model", "state_dict")
"""Under which trainers keep the weights."""
_MEAN = "model_ema"
"""Under which torchvision's trainer keeps the running mean of weights, which is what it publishes."""
_CLASSIFIERS = ("fc", "head", "heads", "classifier")


def load(key: str, *, random: bool, seed: int, device: torch.device) -> Encoder:
    """Build, load and check the model that ``key`` names.

    Raises:
        McdoError: for an unknown name, for weights that are not on this disk or do not fit, for weights of one's own
            where torchvision shows pictures in several ways, and for a model whose classifier is no linear layer.

    """
    name, entry = _named(key)
    checkpoint = None if random else located(key)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = models.get_model(name, weights=None)
    if checkpoint is not None:
        entry = _shown_as(key, name, entry, checkpoint, model)
        model = _pretrained(key, name, entry, checkpoint, model)
    model.set_submodule(_classifier(key, model), nn.Identity())
    return Encoder.of(model, entry.transforms(), name=key, device=device, random_weights=random)


def _named(key: str) -> tuple[str, Any]:
    """The model, and the entry of its weights: that of the tag, or the default one."""
    name, _, tag = key.removeprefix(PREFIX).partition("@")[0].partition(".")
    known = models.list_models(module=models)
    if name not in known:
        raise McdoError(f"{key}: torchvision has no classification model {name!r}; the nearest: {nearest(name, known)}")
    entries = models.get_model_weights(name)
    if tag and tag not in entries.__members__:
        raise McdoError(
            f"{key}: torchvision has no weights {tag!r} of {name}; there are: {', '.join(entries.__members__)}"
        )
    return name, entries[tag] if tag else entries.DEFAULT


def _shown_as(key: str, name: str, entry: Any, checkpoint: Path, model: nn.Module) -> Any:
    """The entry whose way of showing pictures is that of the weights.

    Raises:
        McdoError: for weights of one's own, where there are several ways and no tag names one.

    """
    if "." in key.partition("@")[0]:
        return entry
    entries = models.get_model_weights(name)
    published = next((each for each in entries if Path(each.url).name == checkpoint.name), None)
    if published is not None:
        return published
    shifting = hasattr(model, "transform_input")
    if shifting or len({repr(each.transforms()) for each in entries}) > 1:
        tags = ", ".join(each.name for each in entries)
        raise McdoError(
            f"{key}: torchvision shows pictures to weights of {name} in several ways"
            f"{' (its own weights have the model shift colours, transform_input)' if shifting else ''}; name those "
            f"whose way is that of yours, {PREFIX}{name}.TAG@PATH ({tags}), or give the module to mcdo.Encoder.of"
        )
    return entry


def located(key: str) -> Path:
    """The file of weights. Raises McdoError where it is not on this disk."""
    (_, entry), path = _named(key), key.partition("@")[2]
    if path:
        given = arguments.path(path)
        if not given.exists():
            raise McdoError(f"{key}: there is no {given}; give a file of weights, or a folder that holds one")
        return checkpoint_in(given) if given.is_dir() else given
    found = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if not found.is_file():
        raise McdoError(
            f"{key}: the weights {entry} are not on this disk. Get them with\n"
            f"    curl --create-dirs -o {found} {entry.url}\n"
            f"(later runs need no network), or name your own with {key}@PATH. Random weights must be asked for by "
            "name: weights='random', --random-weights=KEY."
        )
    return found


def _pretrained(key: str, name: str, entry: Any, checkpoint: Path, bare: nn.Module) -> nn.Module:
    """The model as torchvision builds it for an entry, with the weights of a file and a classifier of zeros.

    An entry decides more than how pictures are shown: the size of positions, whether the model shifts colours itself,
    and which names tensors once had.
    """
    refuse_surplus(checkpoint, sum(each.numel() for each in bare.parameters()))
    refuse_pickles(checkpoint)
    classifier, place = _classifier(key, bare), utf8_path(checkpoint.parent) / checkpoint.name
    try:
        safe = checkpoint.suffix == ".safetensors"
        held: dict[str, Any] = load_file(place) if safe else torch.load(place, "cpu", weights_only=True)
        if isinstance(held.get("model"), dict) and isinstance(held.get(_MEAN), dict):
            raise McdoError(
                f"{key}: {checkpoint} holds model and {_MEAN}, two sets of weights; save the one that is meant"
            )
        state: dict[str, Any] = next((held[name] for name in _WRAPPERS if isinstance(held.get(name), dict)), held)
        consume_prefix_in_state_dict_if_present(state, "module.")
        refuse_other_numbers(key, checkpoint, state, bare)
        for part, value in bare.get_submodule(classifier).named_parameters():
            state[f"{classifier}.{part}"] = torch.zeros(value.shape)
        with torch.random.fork_rng(devices=[]), patch.object(type(entry), "get_state_dict", lambda *_, **__: state):
            model: nn.Module = models.get_model(name, weights=entry)
            return model
    except McdoError:
        raise
    except Exception as error:  # damaged files, other models' tensors, ...
        raise loading_failed(key, checkpoint, error) from error


def _classifier(key: str, model: nn.Module) -> str:
    """Name of the last linear layer."""
    linear: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.partition(".")[0] in _CLASSIFIERS
    ]
    if not linear:
        raise McdoError(f"{key}: its classifier is no linear layer; give the module that you mean to mcdo.Encoder.of")
    return linear[-1]
