"""The image processors of transformers: from a picture to pixels, by the settings beside a checkpoint.

transformers fills in its own defaults for whatever is not stated and passes over mistyped keys; both are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from mcdo.encoders.encoder import Preprocessing
from mcdo.encoders.hf_settings import check_processor
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.spec import EncoderSpec, square_side
from mcdo.encoders.weights import absent
from mcdo.errors import McdoError, nearest, refused_as
from mcdo.names import utf8_path
from mcdo.schema import checked, read_json

_FILES = ("preprocessor_config.json", "processor_config.json")
_KNOWN = {
    *("crop_size", "do_center_crop", "do_convert_rgb", "do_pad", "default_to_square", "data_format", "device"),
    *("input_data_format", "disable_grouping", "feature_extractor_type", "image_processor_type", "pad_size"),
    *("processor_class", "return_tensors"),
}
"""What files of other versions of transformers state beside the processor's own settings."""


def preprocessing(spec: EncoderSpec, folder: Path, naflex: bool) -> Preprocessing:
    """What the image processor of a checkpoint does, but for scaling and normalisation, which the harness does.

    Raises:
        McdoError: for settings that are absent, mistyped or not handled.

    """
    with refused_as(f"{spec.key}: the image processor of {folder} cannot be read"):
        return _preprocessing(spec, folder, naflex)


def _preprocessing(spec: EncoderSpec, folder: Path, naflex: bool) -> Preprocessing:
    path, stated = _settings(spec.key, spec.name, folder)
    processor = _processor(folder)
    _check_stated(path, stated, type(processor)().to_dict(), naflex)
    if not processor.do_rescale or abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise McdoError(f"{spec.key}: the image processor of {spec.name} does not scale pixels by 1/255")
    to_uint8 = _square(processor, spec.resolution) if naflex else _resized(processor)
    shape = tuple(to_uint8(Image.new("RGB", (spec.resolution + 8, spec.resolution))).shape)
    if shape != (3, spec.resolution, spec.resolution):
        raise McdoError(
            f"{spec.key}: the image processor of {spec.name} gives {shape}, not {spec.resolution} px squares"
        )
    normal = processor.do_normalize
    mean = tuple(processor.image_mean) if normal else (0.0,) * 3
    std = tuple(processor.image_std) if normal else (1.0,) * 3
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = spec.resolution if naflex else dict(processor.size)
    identity = (
        f"{type(processor).__name__} resize {size}, crop {dict(crop) if crop else None}, "
        f"resample {int(processor.resample)}, mean {mean}, std {std}"
    )
    return Preprocessing(to_uint8, spec.resolution, mean, std, identity)


def shown_side(key: str, source: str, folder: Path) -> int:
    """Side of the squares that the image processor of a checkpoint makes. Raises McdoError for any other shape."""
    with refused_as(f"{key}: the image processor of {folder} cannot be read"):
        _settings(key, source, folder)
        shape = tuple(_resized(_processor(folder))(Image.new("RGB", (640, 480))).shape)
        return square_side(f"{key}: the image processor of {source}", shape[-2:])


def _processor(folder: Path) -> Any:
    with quiet_libraries():
        return AutoImageProcessor.from_pretrained(utf8_path(folder), local_files_only=True, trust_remote_code=False)


def _resized(processor: Any) -> Any:
    """The processor without its last two steps, which are the harness's own."""

    def to_uint8(image: Image.Image) -> Tensor:
        batch = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        out: Tensor = batch["pixel_values"][0]
        return out if out.dtype == torch.uint8 else out.round().clamp(0, 255).to(torch.uint8)

    return to_uint8


def _square(processor: Any, side: int) -> Any:
    def to_uint8(image: Image.Image) -> Tensor:
        resized = image.convert("RGB").resize((side, side), Image.Resampling(int(processor.resample)))
        return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()

    return to_uint8


def _settings(key: str, source: str, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise absent(key, f"the image processor's settings ({_FILES[0]})", source)
    held = read_json(path, dict[str, Any])
    stated = checked(held.get("image_processor", held), dict[str, Any], f"{path}: image_processor")
    check_processor(path, stated)
    return path, stated


def _check_stated(path: Path, stated: Mapping[str, Any], defaults: Mapping[str, Any], naflex: bool) -> None:
    known = {*defaults, *_KNOWN}
    for key in stated:
        if key not in known:
            raise McdoError(f"{path} has the unknown key {key!r}; the nearest: {nearest(key, known, 1)}")
    normal = stated.get("do_normalize", defaults["do_normalize"])
    needed = ["resample", *(() if naflex else ("size",)), *(("image_mean", "image_std") if normal else ())]
    lacking = [key for key in needed if stated.get(key) is None]
    if lacking:
        raise McdoError(
            f"{path} does not state {', '.join(lacking)}, for which transformers would put in the values of another "
            "model; add what the weights were trained with"
        )
