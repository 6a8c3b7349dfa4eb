"""Builds encoders with open_clip: registered names with a tag, ``local-dir:PATH`` and ``hf-hub:ID``.

The architecture is always built without weights first and the checkpoint loaded into it by path, because open_clip
by itself goes on with random weights in several of the cases where it finds none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.factory import load_checkpoint
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from mcdo.encoders import towers as _towers  # noqa: F401  (registers the embedded tower with timm)
from mcdo.encoders.encoder import Encoder, NamedModules, Preprocessing, Tokenizer, Towers
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.spec import EncoderSpec
from mcdo.encoders.weights import cached, cached_checkpoint, checkpoint_in, loading_failed, missing, refuse_pickles
from mcdo.errors import McdoError

LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class _Source:
    """What open_clip is asked to build, its configuration, and where tokenizer and weights are looked for."""

    build_name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    folder: Path | None = None
    repo: str | None = None


def load(spec: EncoderSpec, *, random: bool, seed: int, device: torch.device) -> Encoder:
    """Build, load and check the encoder that ``spec`` describes. Raises McdoError, never falls back."""
    source = _source(spec.key, spec.source, spec.pretrained)
    checkpoint = None if random else _checkpoint(spec, source)
    with quiet_libraries():
        model = build(source.build_name, seed, source.preprocess_cfg)
        if checkpoint is not None:
            _load_weights(spec.key, model, checkpoint)
    check_activation(spec, model)
    towers = Towers(_first(model.encode_image), _first(model.encode_text), *_tower_modules(model))
    return Encoder(
        spec,
        model,
        towers,
        _preprocessing(spec.key, model),
        lambda: _tokenizer(spec.key, source),
        random_weights=random,
        device=device,
    )


def own_spec(key: str) -> EncoderSpec:
    """The spec of a ``local-dir:`` or ``hf-hub:`` encoder, from the configuration beside its weights."""
    cfg = _source(key, key, None).model_cfg
    vision = cfg["vision_cfg"]
    size = vision.get("image_size", 224)
    return EncoderSpec(
        key=key,
        family="siglip" if vision.get("timm_pool") == "map" else "clip",
        backend="open_clip",
        name=key,
        resolution=size if isinstance(size, int) else int(size[0]),
        feature_dim=int(cfg["embed_dim"]),
        loss="softmax" if cfg.get("init_logit_bias") is None else "sigmoid",
    )


def build(name: str, seed: int, preprocess_cfg: dict[str, Any] | None = None) -> Any:
    """The architecture with random weights from ``seed``, on the CPU; global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every accelerator
        return open_clip.create_model(
            name,
            load_weights=False,
            pretrained_image=False,
            pretrained_text=False,
            force_preprocess_cfg=preprocess_cfg,
        )


def check_activation(spec: EncoderSpec, model: nn.Module) -> None:
    """Raise McdoError unless the model has the activation its weights were trained with."""
    if spec.quick_gelu is None:
        return
    wrong = nn.GELU if spec.quick_gelu else QuickGELU
    found = sum(isinstance(module, wrong) for module in model.modules())
    if found or (spec.quick_gelu and not any(isinstance(module, QuickGELU) for module in model.modules())):
        raise McdoError(
            f"{spec.key}: the {spec.pretrained} weights of {spec.name} were trained with "
            f"{'QuickGELU' if spec.quick_gelu else 'GELU'}, but {found} activations of the built model are "
            f"{wrong.__name__}; use the {'-quickgelu' if spec.quick_gelu else 'plain'} configuration of the model"
        )


def _source(key: str, name: str, tag: str | None) -> _Source:
    if name.startswith(LOCAL_DIR):
        folder = Path(name.removeprefix(LOCAL_DIR)).expanduser()
        return _folder_source(key, folder)
    if name.startswith(HF_HUB):
        repo = name.removeprefix(HF_HUB)
        config = cached(repo, CONFIG)
        if config is None:
            raise missing(key, "configuration and weights", repo)
        found = _folder_source(key, config.parent)
        return _Source(found.build_name, found.model_cfg, found.preprocess_cfg, repo=repo)
    cfg = open_clip.get_model_config(name)
    tag_cfg = get_pretrained_cfg(name, tag or "")
    if cfg is None or not tag_cfg:
        raise McdoError(f"{key}: this version of open_clip has no {name} with the tag {tag}; upgrade open_clip_torch")
    return _Source(name, cfg, tag_cfg, repo=tag_cfg["hf_hub"].rstrip("/"))


def _folder_source(key: str, folder: Path) -> _Source:
    config = folder / CONFIG
    if not config.is_file():
        raise McdoError(f"{key}: {config} is missing; {_folder_hint(folder)}")
    try:
        contents = json.loads(config.read_text(encoding="utf-8"))
        model_cfg = contents["model_cfg"]
        _ = model_cfg["embed_dim"], model_cfg["vision_cfg"], model_cfg["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise McdoError(f"{config} is not an open_clip configuration: {type(error).__name__} {error}") from error
    return _Source(f"{LOCAL_DIR}{folder}", model_cfg, contents.get("preprocess_cfg", {}), folder=folder)


def _folder_hint(folder: Path) -> str:
    if folder.parent.parts[-2:] == ("data", "models"):
        return (
            "the embedded encoders lie in the repository, so install it editable (pip install -e .) from a clone, "
            "or train them anew with make models"
        )
    return "a local directory holds open_clip_config.json, open_clip_model.safetensors and the tokenizer's files"


def _checkpoint(spec: EncoderSpec, source: _Source) -> Path:
    if source.folder is not None:
        return checkpoint_in(source.folder)
    assert source.repo is not None
    return cached_checkpoint(spec.key, source.repo)


def _load_weights(key: str, model: Any, checkpoint: Path) -> None:
    refuse_pickles(checkpoint)
    try:
        load_checkpoint(model, str(checkpoint), strict=True, weights_only=True)
    except (RuntimeError, SafetensorError, KeyError, AssertionError, AttributeError) as error:
        raise loading_failed(key, checkpoint, error) from error
    # open_clip fills in exactly zero for a bias that the checkpoint lacks.
    if model.logit_bias is not None and bool((model.logit_bias == 0).all()):
        raise McdoError(f"{key}: {checkpoint} has no logit_bias, but the configuration asks for one (init_logit_bias)")


def _tower_modules(model: Any) -> tuple[NamedModules, NamedModules]:
    names = ["text"] if hasattr(model, "text") else ["transformer", "token_embedding", "ln_final", "text_projection"]
    text = tuple((name, getattr(model, name)) for name in names if isinstance(getattr(model, name), nn.Module))
    return (("visual", model.visual),), text


def _first(forward: Any) -> Any:
    """Towers that also return tokens return them second."""

    def features(x: Tensor) -> Tensor:
        result = forward(x)
        first: Tensor = result[0] if isinstance(result, tuple) else result
        return first

    return features


def _preprocessing(key: str, model: Any) -> Preprocessing:
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    *resize, to_tensor, _ = image_transform_v2(cfg, is_train=False).transforms
    height, width = cfg.input_size[1:]
    if height != width or not isinstance(to_tensor, MaybeToTensor):
        raise McdoError(f"{key}: the preprocessing of {height} x {width} px is not one this harness can take apart")

    def to_uint8(image: Image.Image) -> Tensor:
        for step in resize:
            image = step(image)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()

    identity = (
        f"open_clip {cfg.resize_mode} {height} px, {cfg.interpolation}, fill {cfg.fill_color}, "
        f"mean {tuple(cfg.mean)}, std {tuple(cfg.std)}"
    )
    return Preprocessing(to_uint8, height, tuple(cfg.mean), tuple(cfg.std), identity)


def _tokenizer(key: str, source: _Source) -> Tokenizer:
    """open_clip's own tokenizer for the source, from files on this disk only."""
    text_cfg = source.model_cfg["text_cfg"]
    hub_name = text_cfg.get("hf_tokenizer_name")
    with quiet_libraries():
        if not hub_name or source.folder is not None:
            tokenizer: Tokenizer = open_clip.get_tokenizer(source.build_name)
            return tokenizer
        settings = cached(hub_name, "tokenizer_config.json")
        if settings is None:
            raise missing(key, "the tokenizer's files", hub_name)
        hub_tokenizer: Tokenizer = HFTokenizer(
            str(settings.parent),  # the folder and not the id, so that nothing is looked up on the network
            context_length=text_cfg.get("context_length", 77),
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            local_files_only=True,
            **text_cfg.get("tokenizer_kwargs", {}),
        )
        return hub_tokenizer
