"""The image processors of transformers: from a picture to pixels, by the settings beside a checkpoint.

transformers fills in its own defaults for whatever is not stated and passes over mistyped keys; both are refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from mcdo.encoders.encoder import Preprocessing
from mcdo.encoders.hf_settings import check_processor
from mcdo.encoders.preprocessing import normalisation, preprocessing_of
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.spec import EncoderSpec
from mcdo.encoders.weights import absent
from mcdo.errors import McdoError, nearest, refused_as
from mcdo.names import utf8_path
from mcdo.schema import checked, read_json

_FILES = ("processor_config.json", "preprocessor_config.json")
"""In the order in which transformers takes them: the former where it holds the settings of images."""
_ONCE = "FeatureExtractor"
"""How image processors were called once; files of that time name them so."""
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
    processor = _processor(folder, path, stated)
    _check_stated(path, stated, type(processor)().to_dict(), naflex)
    where = f"{spec.key}: the image processor of {spec.name}"
    if naflex:
        return _squashed(where, processor, spec.resolution)
    found = preprocessing_of(where, processor)
    if found.resolution != spec.resolution:
        raise McdoError(f"{where} gives squares of {found.resolution} px, and the tower takes {spec.resolution} px")
    return found


def shown_side(key: str, source: str, folder: Path) -> int:
    """Side of the squares that the image processor of a checkpoint makes. Raises McdoError for any other shape."""
    with refused_as(f"{key}: the image processor of {folder} cannot be read"):
        processor = _processor(folder, *_settings(key, source, folder))
        return preprocessing_of(f"{key}: the image processor of {source}", processor).resolution


def _processor(folder: Path, path: Path, stated: Mapping[str, Any]) -> Any:
    kind = stated.get("image_processor_type") or stated.get("feature_extractor_type") or ""
    with quiet_libraries():
        if not kind.endswith(_ONCE):
            return AutoImageProcessor.from_pretrained(utf8_path(folder), local_files_only=True, trust_remote_code=False)
        renamed = kind.removesuffix(_ONCE) + "ImageProcessor"
        if not hasattr(transformers, renamed):
            raise McdoError(f"{path} names {kind}, and transformers has no {renamed}")
        return getattr(transformers, renamed).from_dict(dict(stated))


def _squashed(where: str, processor: Any, side: int) -> Preprocessing:
    """A processor of variable shape, of which squares alone are asked for: a picture of another shape is squashed.

    Raises:
        McdoError: where the processor would show squares of another side.

    """
    mean, std = normalisation(where, processor)
    own = int(processor.patch_size) * math.isqrt(int(processor.max_num_patches))
    if own != side:
        raise McdoError(f"{where} gives squares of {own} px, and the tower has positions for {side} px")
    from torchvision.transforms import v2

    resize = v2.Resize((side, side), interpolation=int(processor.resample), antialias=True)

    def to_uint8(image: Image.Image) -> Tensor:
        return torch.as_tensor(resize(v2.functional.pil_to_tensor(image.convert("RGB")))).contiguous()

    _check_squares(where, processor, to_uint8, mean, std)
    name = type(processor).__name__
    return Preprocessing(
        to_uint8, side, mean, std, f"{name} squashed to {side}, resample {int(processor.resample)}, {mean}, {std}"
    )


def _check_squares(
    where: str, processor: Any, to_uint8: Callable[[Image.Image], Tensor], mean: Sequence[float], std: Sequence[float]
) -> None:
    """Raise McdoError unless squares become what the processor makes of them, within one level of rounding."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for side in (97, 512):
        image = coarse.resize((side, side), Image.Resampling.BICUBIC)
        pixels = (to_uint8(image) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        theirs = torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0])
        ours = patches(pixels[None], int(processor.patch_size))[0]
        apart = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else math.inf
        if not apart <= 1.01 / 255 / min(std):
            raise McdoError(
                f"{where} makes other pixels of a square of {side} px than resizing with resample = "
                f"{int(processor.resample)} does, by {apart:.2g}; look at resample and do_resize there"
            )


def patches(pixels: Tensor, side: int) -> Tensor:
    """``[B, 3, H, W]`` as rows of square patches, ``[B, n, side² * 3]``, as SigLIP2's towers of variable shape take."""
    B, C, H, W = pixels.shape
    rows, columns = H // side, W // side
    return pixels.reshape(B, C, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1).reshape(B, rows * columns, -1)


def _settings(key: str, source: str, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The file that transformers reads, and what it says of images."""
    for name in _FILES:
        path = folder / name
        held = read_json(path, dict[str, Any]) if path.is_file() else {}
        stated = held.get("image_processor") if name == _FILES[0] else held
        if stated:
            where = f"{path}: image_processor" if name == _FILES[0] else path
            check_processor(path, checked(stated, dict[str, Any], where))
            return path, stated
    raise absent(key, f"the image processor's settings ({_FILES[1]})", source)


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
