"""An ``open_clip_config.json``, checked before anything is built from it.

open_clip fills in whatever is not stated (OpenAI's mean and crop, for SigLIP weights as well), lets a mistyped key of
the preprocessing pass, and answers other mistakes with a traceback or a download. Here each is an error that names the
file, the key and the nearest real one.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.transform import PreprocessCfg

from mcdo import arguments
from mcdo.encoders.spec import square_side
from mcdo.errors import McdoError, nearest

CONFIG = "open_clip_config.json"
MODES = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "longest", "squash"), "mode": ("RGB",)}
STATED = ("mean", "std")
"""Keys of the preprocessing without which pretrained weights mean nothing."""
ASSUMED = ("interpolation", "resize_mode")
"""Keys that many published files leave to open_clip's default, which is then part of what is recorded."""
_CLIP_VOCABULARY = 49408


def read_configuration(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``model_cfg`` and ``preprocess_cfg`` of a file.

    Raises:
        McdoError: for a file that is none, an unknown key, or a value that open_clip could not use.

    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        model, preprocess = contents["model_cfg"], contents.get("preprocess_cfg") or {}
        arguments.whole("embed_dim", model["embed_dim"], least=1)
        parts = {"vision_cfg": model["vision_cfg"], "text_cfg": model["text_cfg"], "preprocess_cfg": preprocess}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise TypeError("vision_cfg, text_cfg and preprocess_cfg must be objects")
    except (OSError, ValueError, KeyError, TypeError, McdoError) as error:
        raise McdoError(f"{path} is not an open_clip configuration: {type(error).__name__} {error}") from error
    mistyped = [key for key in contents if key != "preprocess_cfg" and get_close_matches(key, ["preprocess_cfg"])]
    _check_keys(path, "the file", mistyped, {"preprocess_cfg"})
    _check_model(path, model)
    _check_preprocessing(path, preprocess, square_side(path, model["vision_cfg"].get("image_size", 224)))
    return model, preprocess


def assumed(preprocess: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the preprocessing that are not stated, so that open_clip's defaults stand in."""
    return tuple(key for key in (*STATED, *ASSUMED) if preprocess.get(key) is None)


def check_stated(path: str, preprocess: Mapping[str, Any]) -> None:
    """Raise McdoError unless mean and standard deviation are stated, for weights that were trained with some."""
    absent = [key for key in STATED if key in assumed(preprocess)]
    if absent:
        raise McdoError(
            f"{path}: preprocess_cfg does not state {' and '.join(absent)}, so images would be shown as OpenAI's CLIP "
            "sees them; add what the weights were trained with, such as "
            '{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}'
        )


def _check_model(path: Path, model: Mapping[str, Any]) -> None:
    vision, text = model["vision_cfg"], model["text_cfg"]
    kinds = (CLIP, CustomTextCLIP, CoCa)
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters} - {"self", "cast_dtype"}
    _check_keys(path, "model_cfg", model, known | {"custom_text"})
    _check_keys(path, "model_cfg.vision_cfg", vision, _names(CLIPVisionCfg))
    _check_keys(path, "model_cfg.text_cfg", text, _names(CLIPTextCfg))
    _check_keys(path, "model_cfg.multimodal_cfg", model.get("multimodal_cfg") or {}, _names(MultimodalCfg))
    name = vision.get("timm_model_name")
    if name is not None and not (isinstance(name, str) and ":" not in name and timm.is_model(name)):
        raise McdoError(
            f"{path}: model_cfg.vision_cfg.timm_model_name = {name!r} is no architecture of timm {timm.__version__}; "
            f"the nearest: {nearest(str(name), timm.list_models())}"
        )
    vocabulary = text.get("vocab_size", _CLIP_VOCABULARY)
    if not any(text.get(key) for key in ("hf_tokenizer_name", "hf_model_name")) and vocabulary != _CLIP_VOCABULARY:
        raise McdoError(
            f"{path}: model_cfg.text_cfg has a vocabulary of {vocabulary} and names no tokenizer, so that of CLIP with "
            f"{_CLIP_VOCABULARY} tokens would stand in; add hf_tokenizer_name and put the tokenizer's files beside it"
        )


def _names(configuration: Any) -> set[str]:
    return {field.name for field in fields(configuration)}


def _check_keys(path: Path, where: str, keys: Iterable[str], known: set[str]) -> None:
    for key in keys:
        if key not in known:
            raise McdoError(f"{path}: {where} has the unknown key {key!r}; the nearest: {nearest(key, known, 1)}")


def _check_preprocessing(path: Path, preprocess: Mapping[str, Any], side: int) -> None:
    _check_keys(path, "preprocess_cfg", preprocess, _names(PreprocessCfg))
    for key, choices in MODES.items():
        value = preprocess.get(key)
        if value is not None and value not in choices:
            raise McdoError(f"{path}: preprocess_cfg.{key} = {value!r}: say {' or '.join(choices)}")
    for key in STATED:
        value = preprocess.get(key)
        if value is not None and not _is_triple(value, positive=key == "std"):
            raise McdoError(f"{path}: preprocess_cfg.{key} = {value!r}: give three numbers, one for each colour")
    size = preprocess.get("size")
    if (
        size is not None
        and square_side(f"{path}: preprocess_cfg", size[-2:] if isinstance(size, list) else size) != side
    ):
        raise McdoError(f"{path}: preprocess_cfg.size = {size}, but the image tower takes {side} px; leave size out")


def _is_triple(value: Any, positive: bool) -> bool:
    found = [arguments.number(each) for each in value] if isinstance(value, (list, tuple)) else []
    return len(found) == 3 and all(
        each is not None and math.isfinite(each) and (each > 0 or not positive) for each in found
    )
