"""An ``open_clip_config.json``, checked before anything is built from it.

open_clip fills in whatever is not stated (OpenAI's mean and crop, for SigLIP weights as well), lets a mistyped key of
the preprocessing pass, hands some settings on to other libraries (one of them runs code that lies in the folder), and
answers other mistakes with a traceback or a download. Here every setting is on a list with its type and range.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
from msgspec import UNSET, Meta, UnsetType

from mcdo.encoders.spec import square_side
from mcdo.errors import McdoError, nearest
from mcdo.schema import Count, Positive, Record, Share, checked, read_json

CONFIG = "open_clip_config.json"
STATED = ("mean", "std")
"""Keys of the preprocessing without which pretrained weights mean nothing."""
ASSUMED = ("interpolation", "resize_mode")
"""Keys that many published files leave to open_clip's default, which is then part of what is recorded."""
_CLIP_VOCABULARY = 49408

Layers = Annotated[int, Meta(ge=1, le=512)]
Width = Annotated[int, Meta(ge=1, le=2**16)]
Side = Annotated[int, Meta(ge=1, le=2**13)]
Ratio = Annotated[float, Meta(gt=0, le=64)]
HubName = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)?$", max_length=200)]
"""OWNER/NAME, NAME or nothing: no path, no prefix, no address."""


class Activation(Record, frozen=True):
    """Arguments of the activation."""

    approximate: Literal["none", "tanh"] = "none"


class Norm(Record, frozen=True):
    """Arguments of the normalisation."""

    eps: Annotated[float, Meta(gt=0, le=1)] = 1e-5
    elementwise_affine: bool = True
    bias: bool = True


class Blocks(Record, frozen=True):
    """What image and text towers have in common."""

    width: Width | UnsetType = UNSET
    mlp_ratio: Ratio | UnsetType = UNSET
    ls_init_value: float | None = None
    final_ln_after_pool: bool = False
    output_tokens: bool = False
    act_kwargs: Activation | None = None
    norm_kwargs: Norm | None = None
    block_type: Literal["default", "custom"] | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


class Vision(Blocks, frozen=True):
    """``vision_cfg``."""

    layers: Layers | Annotated[tuple[Layers, ...], Meta(min_length=4, max_length=4)] | UnsetType = UNSET
    head_width: Width | UnsetType = UNSET
    patch_size: Side | None = None
    image_size: Side | Annotated[tuple[Side, ...], Meta(min_length=2, max_length=2)] = 224
    patch_dropout: Share = 0.0
    attentional_pool: bool | Literal["parallel", "cascade"] = False
    attn_pooler_queries: Width = 256
    attn_pooler_heads: Width = 8
    no_ln_pre: bool = False
    pos_embed_type: Literal["learnable", "sin_cos_2d"] = "learnable"
    pool_type: Literal["tok", "avg", "none"] = "tok"
    timm_model_name: str | None = None
    timm_model_pretrained: bool = False
    timm_pool: Literal["", "avg", "avgmax", "max", "token", "map", "abs_attn", "rot_attn"] = "avg"
    timm_proj: Literal["", "linear", "mlp", "none"] | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: Share = 0.0
    timm_drop_path: Share | None = None


class TokenizerSettings(Record, frozen=True):
    """``tokenizer_kwargs``: cleaning of the text, and nothing that reaches another library."""

    clean: Literal["canonicalize", "lower", "whitespace"] = "whitespace"
    strip_sep_token: bool = False
    language: Annotated[str, Meta(pattern=r"^\w{2,12}$")] | None = None


class Text(Blocks, frozen=True):
    """``text_cfg``."""

    layers: Layers | UnsetType = UNSET
    context_length: Annotated[int, Meta(ge=1, le=2**16)] = 77
    vocab_size: Annotated[int, Meta(ge=1, le=2**22)] = _CLIP_VOCABULARY
    hf_tokenizer_name: HubName | None = None
    tokenizer_mode: Literal["", "clips"] | None = None
    tokenizer_kwargs: TokenizerSettings | None = None
    heads: Width = 8
    embed_cls: bool = False
    pad_id: Count = 0
    eos_id: Count = 2
    no_causal_mask: bool = False
    pool_type: Literal["first", "last", "argmax", "eos", "none"] = "argmax"
    proj_bias: bool = False
    proj_type: Literal["linear", "none"] | None = "linear"
    hf_model_name: HubName | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: Literal["linear", "mlp"] | None = "mlp"
    hf_pooler_type: Literal["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"] | None = None
    """open_clip's max_pooler fails on every text: it hands whole numbers to a function that takes truths."""


class Multimodal(Text, frozen=True):
    """``multimodal_cfg``: CoCa's decoder, which is never run here."""

    dim_head: Width = 64
    n_queries: Width = 256
    attn_pooler_heads: Width = 8


class Model(Record, frozen=True):
    """``model_cfg``."""

    embed_dim: Width
    vision_cfg: Vision
    text_cfg: Text
    multimodal_cfg: Multimodal | None = None
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: float | None = None
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False
    output_dict: bool = False


class Preprocess(Record, frozen=True):
    """``preprocess_cfg``."""

    size: Side | Annotated[tuple[Side, ...], Meta(min_length=1, max_length=3)] | None = None
    mode: Literal["RGB"] | None = None
    mean: Annotated[tuple[float, ...], Meta(min_length=3, max_length=3)] | None = None
    std: Annotated[tuple[Positive, ...], Meta(min_length=3, max_length=3)] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Meta(ge=0, le=255)] | None = None


def read_configuration(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``model_cfg`` and ``preprocess_cfg`` of a file, as they stand there.

    Raises:
        McdoError: for a file that is none, an unknown key, or a value that open_clip could not use.

    """
    contents = read_json(path, dict[str, Any], "an open_clip configuration has model_cfg and preprocess_cfg")
    mistyped = [key for key in contents if key != "preprocess_cfg" and get_close_matches(key, ["preprocess_cfg"])]
    if mistyped:
        raise McdoError(f"{path}: the file has the unknown key {mistyped[0]!r}; the nearest: preprocess_cfg")
    stated = {"model_cfg": contents.get("model_cfg"), "preprocess_cfg": contents.get("preprocess_cfg") or {}}
    found = checked(stated, _Configuration, path)
    _check_model(path, found.model_cfg)
    _check_size(path, found.preprocess_cfg, square_side(path, found.model_cfg.vision_cfg.image_size))
    return stated["model_cfg"], stated["preprocess_cfg"]


class _Configuration(Record, frozen=True):
    model_cfg: Model
    preprocess_cfg: Preprocess


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


def _check_model(path: Path, model: Model) -> None:
    name = model.vision_cfg.timm_model_name
    if name is not None and not (":" not in name and timm.is_model(name)):
        raise McdoError(
            f"{path}: model_cfg.vision_cfg.timm_model_name = {name!r} is no architecture of timm {timm.__version__}; "
            f"the nearest: {nearest(name, timm.list_models())}"
        )
    text = model.text_cfg
    if not text.hf_tokenizer_name and (text.hf_model_name or text.vocab_size != _CLIP_VOCABULARY):
        held = f"the tower {text.hf_model_name}" if text.hf_model_name else f"a vocabulary of {text.vocab_size}"
        raise McdoError(
            f"{path}: model_cfg.text_cfg has {held} and names no tokenizer, so that of CLIP with {_CLIP_VOCABULARY} "
            "tokens would stand in; add hf_tokenizer_name and put the tokenizer's files beside it"
        )


def _check_size(path: Path, preprocess: Preprocess, side: int) -> None:
    size = preprocess.size
    if size is None:
        return
    if square_side(f"{path}: preprocess_cfg", size[-2:] if isinstance(size, tuple) else size) != side:
        raise McdoError(f"{path}: preprocess_cfg.size = {size}, but the image tower takes {side} px; leave size out")


def least_parameters(model: Mapping[str, Any]) -> int:
    """Fewer parameters than a checked ``model_cfg`` describes: attention and embedding of towers that it sizes."""
    vision, text = model["vision_cfg"], model["text_cfg"]
    own = 0 if vision.get("timm_model_name") or isinstance(vision.get("layers"), list) else _attention(vision)
    if text.get("hf_model_name"):
        return own
    return own + _attention(text) + int(text.get("vocab_size", _CLIP_VOCABULARY)) * int(text.get("width", 512))


def _attention(tower: Mapping[str, Any]) -> int:
    return int(tower.get("layers", 12)) * 4 * int(tower.get("width", 512)) ** 2
