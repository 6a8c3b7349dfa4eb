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
from mcdo.encoders.spec import EncoderSpec, Precision
from mcdo.encoders.state import refuse_packed
from mcdo.encoders.weights import brief
from mcdo.errors import McdoError, nearest

Features = str | int | Callable[[Any], Tensor] | None
Picked = Callable[[Any], Tensor]


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
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper: maps are seen one by one in the module
    refuse_packed(name, module)
    target, pick = available(device or _device(module)), _pick(name, features, module)
    prepared = preprocessing_of(name, preprocessing)
    side = prepared.resolution
    module = module.to(device=target, dtype=torch.float32).eval()
    shown = torch.zeros(2, 3, side, side, device=target)
    try:
        with torch.no_grad(), eagerly(module):
            output = module(shown)
    except Exception as error:  # whatever a module of a user raises
        raise McdoError(
            f"{name}: the module fails on two pictures of {side} px, float32 [2, 3, {side}, {side}]: {brief(error)}"
            f"{_tower_of(module)}"
        ) from error
    found = pick(output)
    if not isinstance(found, Tensor) or found.dim() < 2:
        raise McdoError(f"{name}: its features are {_words(found)}; they must be a tensor [B, D], one row per picture")
    spec = EncoderSpec(
        key=name,
        family=FAMILY,
        backend="own",
        name=name,
        resolution=side,
        feature_dim=int(found.shape[-1]),
        loss="softmax",
    )
    towers = Towers(lambda pixels: pick(module(pixels)), None, (("", module),), ())
    made = Encoder(
        spec, module, towers, prepared, None, random_weights=random_weights, device=target, precision=precision
    )
    made.as_features(found)  # raises where they are no [B, D]
    return made


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
