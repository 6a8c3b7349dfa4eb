"""Preprocessing as users hold it: transforms of open_clip, timm, torchvision, processors of transformers, or numbers.

The harness shows a tower uint8 pixels that it normalises itself, because degradations and pixel statistics work on
these. So a transform is taken apart into what comes before normalisation, and mean and standard deviation; on a few
pictures both ways must then give the same numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mcdo import arguments
from mcdo.encoders.encoder import Preprocessing
from mcdo.encoders.weights import brief
from mcdo.errors import McdoError, nearest

_REQUIRED = ("mean", "std", "size", "interpolation")
_FORMS = (
    "give a transform of open_clip, timm or torchvision that ends in Normalize, an image processor of transformers, "
    "timm's data configuration, or a dict of mean, std, size, interpolation (resize_mode: shortest, longest, squash)"
)
_TOLERANCE = 1e-4
"""Of normalised pixels; one level in 255 is 0.0157 there at a standard deviation of 0.25."""
_HALF_A_LEVEL = 0.5 / 255
"""Of pixels in [0, 1]: what rounding to whole levels changes."""

ToUint8 = Callable[[Image.Image], Tensor]


def preprocessing_of(where: str, given: Any) -> Preprocessing:
    """Take a preprocessing apart.

    Args:
        where: named in errors.
        given: see the module.

    Raises:
        McdoError: for anything else, for steps that are random or cannot be taken apart, for a mapping without one of
            the four, and for pictures that come out not square.

    """
    if isinstance(given, Preprocessing):
        return given
    whole = _transform(where, given) if isinstance(given, Mapping) else getattr(given, "image_processor", given)
    if not callable(whole):
        raise McdoError(f"{where}: preprocessing is {type(given).__name__}; {_FORMS}")
    to_uint8, mean, std = _processor(where, whole) if hasattr(whole, "image_mean") else _steps(where, whole)
    shown = _try(where, whole, to_uint8, mean, std)
    words = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(whole).split()))
    digest = hashlib.sha256(b"".join(pixels.numpy().tobytes() for pixels in shown)).hexdigest()[:16]
    return Preprocessing(to_uint8, shown[0].shape[-1], mean, std, f"{words}, gives {digest}")


def _transform(where: str, given: Mapping[str, Any]) -> Any:
    """The library's own transform for these settings."""
    if "input_size" in given:  # timm's data configuration
        from timm.data import create_transform

        _require(where, given, ("input_size", *(key for key in _REQUIRED if key != "size")))
        try:
            return create_transform(**{**given, "is_training": False})
        except Exception as error:  # whatever the library makes of a value
            raise McdoError(f"{where}: timm makes no transform of its configuration: {brief(error)}") from error
    from open_clip.transform import PreprocessCfg, image_transform_v2

    _require(where, given, _REQUIRED)
    known = {field.name for field in fields(PreprocessCfg)}
    for key in given:
        if key not in known:
            raise McdoError(f"{where}: preprocessing has the unknown key {key!r}; the nearest: {nearest(key, known)}")
    choices = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "longest", "squash")}
    for key, values in choices.items():
        if key in given and given[key] not in values:
            raise McdoError(f"{where}: preprocessing has {key} = {given[key]!r}: say {' or '.join(values)}")
    return image_transform_v2(PreprocessCfg(**given), is_train=False)


def _require(where: str, given: Mapping[str, Any], keys: Iterable[str]) -> None:
    absent = [key for key in keys if given.get(key) is None]
    if absent:
        raise McdoError(f"{where}: preprocessing does not state {', '.join(absent)}; {_FORMS}")


def _processor(where: str, processor: Any) -> tuple[ToUint8, tuple[float, ...], tuple[float, ...]]:
    """An image processor of transformers, up to its last step."""
    if hasattr(processor, "max_num_patches"):
        raise McdoError(
            f"{where}: {type(processor).__name__} gives rows of patches, and a module is shown pictures; load the "
            "checkpoint with the key hf:PATH"
        )

    def to_uint8(image: Image.Image) -> Tensor:
        return _as_uint8(processor(images=image, do_normalize=False, return_tensors="pt")["pixel_values"][0])

    return to_uint8, *normalisation(where, processor)


def normalisation(where: str, processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of an image processor of transformers.

    Raises:
        McdoError: for one that does not scale pixels by 1/255, and for others than three colours.

    """
    if not processor.do_rescale or abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise McdoError(f"{where}: {type(processor).__name__} does not scale pixels by 1/255")
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    return _triple(f"{where}: image_mean", mean), _triple(f"{where}: image_std", std)


def _steps(where: str, whole: Any) -> tuple[ToUint8, tuple[float, ...], tuple[float, ...]]:
    """What a transform does before it normalises, and with what it does."""
    if all(hasattr(whole, name) for name in ("crop_size", "resize_size", "mean", "std")):  # torchvision's presets
        before: list[Any] = _preset(whole)
        mean, std = whole.mean, whole.std
    else:
        *before, last = list(getattr(whole, "transforms", ()) or (None,))
        if not all(hasattr(last, name) for name in ("mean", "std")):
            raise McdoError(f"{where}: preprocessing ({type(whole).__name__}) does not end in Normalize; {_FORMS}")
        mean, std = last.mean, last.std

    def to_uint8(image: Image.Image) -> Tensor:
        shown: Any = image
        for step in before:
            shown = step(shown)
        return _as_uint8(shown)

    return to_uint8, _triple(f"{where}: mean", mean), _triple(f"{where}: std", std)


def _preset(whole: Any) -> list[Any]:
    from torchvision.transforms import v2

    options = {"interpolation": whole.interpolation, "antialias": whole.antialias}
    return [v2.Resize(whole.resize_size, **options), v2.CenterCrop(whole.crop_size)]


def _as_uint8(shown: Any) -> Tensor:
    """uint8 [3, H, W] of a picture, of an array, of uint8 pixels, or of floats in [0, 1]."""
    if isinstance(shown, Image.Image):
        shown = np.asarray(shown.convert("RGB"))
    if isinstance(shown, np.ndarray):
        array = torch.from_numpy(np.array(shown))
        shown = array.permute(2, 0, 1) if array.dim() == 3 and array.shape[-1] == 3 else array
    pixels: Tensor = torch.as_tensor(shown).as_subclass(Tensor)
    if pixels.dtype != torch.uint8:
        pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.contiguous()


def _triple(where: str, values: Any) -> tuple[float, ...]:
    found = [values] * 3 if arguments.number(values) is not None else list(values)
    if len(found) != 3:
        raise McdoError(f"{where} = {values}: give one number for each of three colours")
    return tuple(arguments.real(where, float(value)) for value in found)


def _try(
    where: str, whole: Any, to_uint8: ToUint8, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """What pictures of three shapes become; both ways must agree, twice."""
    generator, shown = np.random.default_rng(0), []
    scale, shift = torch.tensor(std)[:, None, None], torch.tensor(mean)[:, None, None]
    if any(each <= 0 for each in std):
        raise McdoError(f"{where}: std = {std}: it must be positive")
    if any(each > 1 for each in mean):
        raise McdoError(f"{where}: mean = {mean}: pixels lie between 0 and 1 here; divide mean and std by 255")
    for height, width in ((300, 200), (97, 131), (512, 512)):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        try:
            pixels = to_uint8(image)
            expected = [_output(whole, image) for _ in range(2)]
        except Exception as error:  # whatever the steps of a user raise
            raise McdoError(f"{where}: preprocessing fails on a picture: {brief(error)}; {_FORMS}") from error
        if pixels.dim() != 3 or len(pixels) != 3 or pixels.shape[1] != pixels.shape[2]:
            raise McdoError(
                f"{where}: preprocessing makes {list(pixels.shape)} of a picture of {height} x {width}; only squares "
                "of three colours are shown to an encoder here, so crop or squash"
            )
        ours = (pixels.float() / 255 - shift) / scale
        apart = max(float((ours - its).abs().max()) if its.shape == ours.shape else np.inf for its in expected)
        most = _TOLERANCE * max(1.0, *(1 / each for each in std))
        if hasattr(whole, "image_mean"):  # its steps have their order: some resize floats, and are rounded after it
            most += _HALF_A_LEVEL / min(std)
        if not apart <= most:
            raise McdoError(
                f"{where}: preprocessing cannot be taken apart: uint8 pixels, then (x / 255 - mean) / std, differ from "
                f"it by up to {apart:.2g}. Resize and crop before the picture becomes floats, normalise last and "
                f"leave out random steps; or {_FORMS}"
            )
        shown.append(pixels)
    if len({pixels.shape for pixels in shown}) > 1:
        raise McdoError(f"{where}: preprocessing makes squares of different sizes of different pictures; fix one size")
    return tuple(shown)


def _output(whole: Any, image: Image.Image) -> Tensor:
    if hasattr(whole, "image_mean"):
        return torch.as_tensor(whole(images=image, return_tensors="pt")["pixel_values"][0])
    return torch.as_tensor(whole(image)).as_subclass(Tensor)
