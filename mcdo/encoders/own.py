"""An encoder of any module that turns pixels into features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcdo.encoders.encoder import Encoder, Towers, eagerly
from mcdo.encoders.load import available
from mcdo.encoders.preprocessing import preprocessing_of
from mcdo.encoders.registered import FAMILY
from mcdo.encoders.spec import EncoderSpec, Precision, check_precision
from mcdo.encoders.state import refuse_packed
from mcdo.encoders.weights import brief
from mcdo.errors import McdoError, nearest

Features = str | int | Callable[[Any], Tensor] | None
Picked = Callable[[Any], Tensor]
_MIXED, _ROUNDING = 1e-2, 1e-4
"""By how much features may follow the size of a batch: of what sets two pictures apart, and of the largest number."""


def encoder_of(
    module: nn.Module,
    preprocessing: Any,
    name: str,
    features: Features = None,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    random_weights: bool = False,
) -> Encoder:
    """See :meth:`mcdo.Encoder.of`."""
    if not isinstance(module, nn.Module):
        raise McdoError(f"{name}: {type(module).__name__} is no torch.nn.Module")
    check_precision(precision)
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper: maps are seen one by one in the module
    refuse_packed(name, module)
    target, pick = available(device or _device(module)), _pick(name, features, module)
    prepared = preprocessing_of(name, preprocessing)
    side = prepared.resolution
    module = _placed(name, module, target)
    tower = _reader(module, pick)
    found, *alone = (_features(name, module, tower, shown) for shown in _shown(side, target))
    spec = EncoderSpec(
        key=name,
        family=FAMILY,
        backend="own",
        name=name,
        resolution=side,
        feature_dim=int(found.shape[-1]),
        loss="softmax",
    )
    towers = Towers(tower, None, (("", module),), ())
    made = Encoder(
        spec, module, towers, prepared, None, random_weights=random_weights, device=target, precision=precision
    )
    _check_alone(name, made.as_features(found), torch.cat([made.as_features(each) for each in alone]))
    return made


def _placed(name: str, module: nn.Module, target: torch.device) -> nn.Module:
    try:
        return module.float().to(target).eval()  # .to(float32) would make complex numbers real
    except NotImplementedError as error:  # of a tensor that has a shape and no values
        raise McdoError(
            f"{name}: the module cannot be put on {target}: {brief(error)}; load its weights first"
        ) from error


def _reader(module: nn.Module, pick: Picked) -> Picked:
    def features(pixels: Tensor) -> Tensor:
        return pick(module(pixels.clone()))  # a module may write into what it is given, and others read the same

    return features


def _shown(side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Two different pictures, and each alone."""
    pair = torch.randn(2, 3, side, side, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).to(device)
    return pair, pair[:1], pair[1:]


def _features(name: str, module: nn.Module, tower: Picked, shown: Tensor) -> Tensor:
    try:
        with torch.no_grad(), eagerly(module):
            found = tower(shown)
    except McdoError:
        raise
    except Exception as error:  # whatever a module of a user raises
        raise McdoError(
            f"{name}: the module fails on pixels, float32 {list(shown.shape)}: {brief(error)}{_tower_of(module)}"
        ) from error
    if not isinstance(found, Tensor) or found.dim() < 2:
        raise McdoError(f"{name}: its features are {_words(found)}; they must be a tensor [B, D], one row per picture")
    return found


def _check_alone(name: str, pair: Tensor, alone: Tensor) -> None:
    """Raise McdoError where the features of a picture follow another picture of its batch, or nothing."""
    apart, off = float((pair[0] - pair[1]).abs().max()), float((pair - alone).abs().max())
    if off > max(_MIXED * apart, _ROUNDING * float(pair.abs().max())):
        raise McdoError(
            f"{name}: the features of a picture alone and beside another differ, by {off:.2g}: the module mixes the "
            "pictures of a batch (a BatchNorm without running statistics, a mean over the batch) or draws random "
            "numbers of its own; switch that off in the module"
        )


def _tower_of(module: nn.Module) -> str:
    """Which part of a model of images and texts to give; "" for what is none."""
    if hasattr(module, "get_image_features"):
        return (
            f". {type(module).__name__} wants texts beside: give its image tower with the projection "
            "(CLIPVisionModelWithProjection.from_pretrained(...) with features='image_embeds', SiglipVisionModel with "
            "features='pooler_output'), or load the folder with the key hf:PATH, which takes the text tower as well"
        )
    if isinstance(getattr(module, "visual", None), nn.Module):
        return f". {type(module).__name__} reads texts beside: give its image tower, .visual"
    return ""


def _device(module: nn.Module) -> torch.device:
    return next((value.device for value in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def _pick(name: str, features: Features, module: nn.Module) -> Picked:
    """From what the module returns to its features."""

    def picked(output: Any) -> Tensor:
        if callable(features):
            return features(output)
        if features is None:
            if isinstance(output, Tensor):
                return output
            said = f"{name}: the module returns {_words(output)}; say with features= which of it is [B, D]"
            raise McdoError(said + _tower_of(module))
        try:
            keyed = not isinstance(features, str) or isinstance(output, Mapping)
            found: Tensor = output[features] if keyed else getattr(output, features)  # type: ignore[arg-type]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            fields = _fields(output)
            likely = f"; the nearest: {nearest(str(features), fields)}" if fields else ""
            raise McdoError(f"{name}: the module returns {_words(output)}, without {features!r}{likely}") from error
        return found

    return picked


def _fields(output: Any) -> list[str]:
    if isinstance(output, Mapping):
        return [str(key) for key in output]
    return [key for key, value in getattr(output, "__dict__", {}).items() if isinstance(value, Tensor)]


def _words(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    if isinstance(output, Sequence) and not isinstance(output, str):
        return f"{type(output).__name__} of {', '.join(map(_words, output))}"
    fields = _fields(output)
    return f"{type(output).__name__}" + (f" with {', '.join(fields)}" if fields else "")
