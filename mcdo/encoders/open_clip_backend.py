"""Builds encoders with open_clip: registered names with a tag, ``local-dir:PATH`` and ``hf-hub:ID``.

The architecture is always built without weights first and the checkpoint loaded into it by path, because open_clip
by itself goes on with random weights in several of the cases where it finds none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import torch
from open_clip import factory
from open_clip.factory import load_checkpoint
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig

from mcdo import arguments
from mcdo.encoders import towers as _towers  # noqa: F401  (registers the embedded tower with timm)
from mcdo.encoders.configuration import CONFIG, assumed, check_stated, least_parameters, read_configuration
from mcdo.encoders.encoder import Encoder, NamedModules, Preprocessing, Tokenizer, Towers
from mcdo.encoders.hf_settings import check_configuration, check_tokenizer, model_type
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.spec import EncoderSpec, square_side
from mcdo.encoders.weights import (
    cached,
    cached_checkpoint,
    check_extent,
    checkpoint_in,
    loading_failed,
    missing,
    refuse_adapters,
    refuse_pickles,
    refuse_surplus,
    refusing_other_numbers,
)
from mcdo.errors import McdoError, refused_as
from mcdo.names import utf8_path

TEXT_TOWERS = ("bert", "m2m_100", "mt5", "roberta", "xlm-roberta")
LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class _Source:
    """What open_clip is asked to build, its configuration, and where tokenizer and weights are looked for."""

    build_name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    folder: Path | None = None
    repo: str | None = None

    @property
    def place(self) -> str:
        """Where the configuration stands, for messages."""
        return self.build_name if self.folder is None else str(self.folder / CONFIG)


def load(spec: EncoderSpec, *, random: bool, seed: int, device: torch.device) -> Encoder:
    """Build, load and check the encoder that ``spec`` describes. Raises McdoError, never falls back."""
    source = _source(spec.key, spec.source, spec.pretrained)
    checkpoint = None if random else _checkpoint(spec, source)
    parameters = least_parameters(source.model_cfg)
    check_extent(source.place, parameters, None if checkpoint is None else [checkpoint])
    model = _built(spec.key, source, seed)
    if checkpoint is not None:
        check_stated(source.place, source.preprocess_cfg)
        with quiet_libraries():
            _load_weights(spec.key, model, checkpoint)
    check_activation(spec, model)
    _check_size(spec.key, source, model)
    towers = Towers(_prenorm(model.encode_image), _prenorm(model.encode_text), *_tower_modules(model))
    return Encoder(
        spec,
        model,
        towers,
        _preprocessing(spec.key, model, assumed(source.preprocess_cfg)),
        lambda: _tokenizer(spec.key, source),
        random_weights=random,
        device=device,
    )


def located(spec: EncoderSpec) -> Path:
    """Where the weights are. Raises McdoError where they are not on this disk."""
    return _checkpoint(spec, _source(spec.key, spec.source, spec.pretrained))


def tokenizer(spec: EncoderSpec) -> Tokenizer:
    """Its tokenizer alone. Raises McdoError where its files are not on this disk, or cannot be read."""
    return _tokenizer(spec.key, _source(spec.key, spec.source, spec.pretrained))


def own_spec(key: str) -> EncoderSpec:
    """The spec of a ``local-dir:`` or ``hf-hub:`` encoder, from the configuration beside its weights."""
    cfg = _source(key, key, None).model_cfg
    vision = cfg["vision_cfg"]
    return EncoderSpec(
        key=key,
        family="siglip" if vision.get("timm_pool") == "map" else "clip",
        backend="open_clip",
        name=key,
        resolution=square_side(key, vision.get("image_size", 224)),
        feature_dim=int(cfg["embed_dim"]),
        loss="softmax" if cfg.get("init_logit_bias") is None else "sigmoid",
        quick_gelu=_trained_with_quick_gelu(key.removeprefix(HF_HUB)),
    )


def _trained_with_quick_gelu(repo: str) -> bool | None:
    """Whether open_clip's own list says so of the weights of a repository; None where they are not on it."""
    listed = (get_pretrained_cfg(*each) for each in open_clip.list_pretrained())
    return next((bool(tag.get("quick_gelu")) for tag in listed if tag["hf_hub"].rstrip("/") == repo), None)


def _built(key: str, source: _Source, seed: int) -> Any:
    """The architecture of a source. Raises McdoError for one that open_clip cannot build, or not from this disk."""
    text_tower = source.model_cfg["text_cfg"].get("hf_model_name")
    if text_tower:
        _check_text_tower(key, text_tower)
    with refused_as(f"{key}: open_clip cannot build the model of {source.place}"), quiet_libraries():
        return build(source.build_name, seed, source.preprocess_cfg)


def _check_text_tower(key: str, repo: str) -> None:
    """Raise McdoError unless the configuration of a text tower of transformers is in the cache, and names no code."""
    config = cached(repo, "config.json")
    if config is None:
        raise missing(key, "the files of the text tower", repo)
    kind = model_type(config)
    if kind not in TEXT_TOWERS:
        raise McdoError(f"{key}: the text tower {repo} is a {kind!r}; those that open_clip takes are {TEXT_TOWERS}")
    check_configuration(config, AutoConfig.for_model(kind).to_dict())


def build(name: str, seed: int, preprocess_cfg: dict[str, Any] | None = None) -> Any:
    """The architecture with random weights from ``seed``, on the CPU; global random state is left as it was."""
    with torch.random.fork_rng(devices=[]), _unset_is_nan():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every accelerator
        model = open_clip.create_model(
            name,
            load_weights=False,
            pretrained_image=False,
            pretrained_text=False,
            force_preprocess_cfg=preprocess_cfg,
        )
        for parameter in model.parameters():
            if parameter.isnan().any():
                nn.init.normal_(parameter, std=len(parameter) ** -0.5)
        return model


@contextmanager
def _unset_is_nan() -> Iterator[None]:
    """What is made and never set, as a projection of CoCa's text is, holds NaN and not what was in memory before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _check_size(key: str, source: _Source, model: Any) -> None:
    """Raise McdoError where a tower of timm takes another size than the configuration says: it is only told by name."""
    embedding = getattr(getattr(model.visual, "trunk", None), "patch_embed", None)
    built, stated = getattr(embedding, "img_size", None), square_side(key, model.visual.image_size)
    if built is not None and getattr(embedding, "strict_img_size", True) and set(built) != {stated}:
        raise McdoError(
            f"{key}: {source.place} says image_size {stated}, but {source.model_cfg['vision_cfg']['timm_model_name']} "
            f"takes {built[0]} px; correct one of the two"
        )


def check_activation(spec: EncoderSpec, model: nn.Module) -> None:
    """Raise McdoError unless the model has the activation its weights were trained with."""
    if spec.quick_gelu is None:
        return
    wrong, right = (nn.GELU, "QuickGELU") if spec.quick_gelu else (QuickGELU, "GELU")
    found = sum(isinstance(module, wrong) for module in model.modules())
    if found or (spec.quick_gelu and not any(isinstance(module, QuickGELU) for module in model.modules())):
        raise McdoError(
            f"{spec.key}: the weights of {spec.name} were trained with {right}, but {found} activations of the built "
            f"model are {wrong.__name__}; use the {'-quickgelu' if spec.quick_gelu else 'plain'} configuration of the "
            "model, or correct quick_gelu in its own"
        )


def _source(key: str, name: str, tag: str | None) -> _Source:
    if name.startswith(LOCAL_DIR):
        folder = arguments.path(name.removeprefix(LOCAL_DIR))
        return _folder_source(key, folder)
    if name.startswith(HF_HUB):
        repo = name.removeprefix(HF_HUB)
        config = cached(repo, CONFIG)
        if config is None:
            raise missing(key, "configuration and weights", repo)
        return replace(_folder_source(key, config.parent), folder=None, repo=repo)
    cfg = open_clip.get_model_config(name)
    tag_cfg = get_pretrained_cfg(name, tag or "")
    if cfg is None or not tag_cfg:
        raise McdoError(f"{key}: this version of open_clip has no {name} with the tag {tag}; upgrade open_clip_torch")
    return _Source(name, cfg, tag_cfg, repo=tag_cfg["hf_hub"].rstrip("/"))


def _folder_source(key: str, folder: Path) -> _Source:
    config = folder / CONFIG
    if not config.is_file():
        raise McdoError(f"{key}: {config} is missing; {_folder_hint(folder)}")
    refuse_adapters(key, folder)
    model_cfg, preprocess_cfg = read_configuration(config)
    preprocess_cfg = {name: value for name, value in preprocess_cfg.items() if name != "size"}  # the tower's own counts
    return _Source(f"{LOCAL_DIR}{utf8_path(folder)}", model_cfg, preprocess_cfg, folder=folder)


def _folder_hint(folder: Path) -> str:
    if folder.parent.parts[-2:] == ("data", "models"):
        return "the embedded encoders come with mcdo: install it anew, or train them in a clone with make models"
    return "a local directory holds open_clip_config.json, open_clip_model.safetensors and the tokenizer's files"


def _checkpoint(spec: EncoderSpec, source: _Source) -> Path:
    if source.folder is not None:
        return checkpoint_in(source.folder)
    assert source.repo is not None
    return cached_checkpoint(spec.key, source.repo)


def _load_weights(key: str, model: Any, checkpoint: Path) -> None:
    refuse_surplus(checkpoint, sum(each.numel() for each in model.parameters()))
    refuse_pickles(checkpoint)
    try:
        with _no_resampling(key, checkpoint), refusing_other_numbers(key, checkpoint, model):
            load_checkpoint(model, str(utf8_path(checkpoint.parent) / checkpoint.name), strict=True, weights_only=True)
    except McdoError:
        raise
    except (RuntimeError, SafetensorError, KeyError, AssertionError, AttributeError) as error:
        raise loading_failed(key, checkpoint, error) from error
    # open_clip fills in exactly zero for a bias that the checkpoint lacks.
    if model.logit_bias is not None and bool((model.logit_bias == 0).all()):
        raise McdoError(f"{key}: {checkpoint} has no logit_bias, but the configuration asks for one (init_logit_bias)")


@contextmanager
def _no_resampling(key: str, checkpoint: Path) -> Iterator[None]:
    """Refuse weights of another resolution or context length, whose positions open_clip would interpolate unasked."""

    def refuse(state: dict[str, Tensor], model: nn.Module, *_: Any, **__: Any) -> None:
        wanted = model.state_dict()
        for name, held in state.items():
            if name.endswith("positional_embedding") and name in wanted and held.shape != wanted[name].shape:
                tower, setting = ("image", "image_size") if name.startswith("visual") else ("text", "context_length")
                raise McdoError(
                    f"{key}: {checkpoint} holds {len(held)} positions of the {tower} tower ({name}), and the "
                    f"configuration asks for {len(wanted[name])}, so they would have to be interpolated. Correct "
                    f"{setting}; to interpolate on purpose, load the weights with open_clip and save what that gives"
                )

    with patch.object(factory, "resize_pos_embed", refuse), patch.object(factory, "resize_text_pos_embed", refuse):
        yield


def _tower_modules(model: Any) -> tuple[NamedModules, NamedModules]:
    names = ["text"] if hasattr(model, "text") else ["transformer", "token_embedding", "ln_final", "text_projection"]
    text = tuple((name, getattr(model, name)) for name in names if isinstance(getattr(model, name), nn.Module))
    return (("visual", model.visual),), text


def _prenorm(forward: Any) -> Any:
    """Features before normalisation, which is CoCa's default. Towers that also return tokens return them second."""

    def features(x: Tensor) -> Tensor:
        result = forward(x, normalize=False)
        first: Tensor = result[0] if isinstance(result, tuple) else result
        return first

    return features


def _preprocessing(key: str, model: Any, defaults: Sequence[str] = ()) -> Preprocessing:
    """The model's preprocessing; ``defaults`` are what its configuration does not state."""
    settings = dict(model.visual.preprocess_cfg)
    cfg = PreprocessCfg(**{**settings, "size": square_side(key, settings["size"])})
    *resize, to_tensor, _ = image_transform_v2(cfg, is_train=False).transforms
    side = int(cfg.size)
    if not isinstance(to_tensor, MaybeToTensor):
        raise McdoError(f"{key}: this preprocessing of {side} px is not one that the harness can take apart")

    def to_uint8(image: Image.Image) -> Tensor:
        for step in resize:
            image = step(image)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()

    identity = (
        f"open_clip {cfg.resize_mode} {side} px, {cfg.interpolation}, fill {cfg.fill_color}, "
        f"mean {tuple(cfg.mean)}, std {tuple(cfg.std)}"
    ) + (f" (not stated: {', '.join(defaults)})" if defaults else "")
    return Preprocessing(to_uint8, side, tuple(cfg.mean), tuple(cfg.std), identity)


def _tokenizer(key: str, source: _Source) -> Tokenizer:
    """open_clip's own tokenizer for the source, from files on this disk only."""
    text_cfg = source.model_cfg["text_cfg"]
    hub_name = text_cfg.get("hf_tokenizer_name")
    remedy = "put tokenizer.json and tokenizer_config.json beside the configuration, as save_pretrained writes them"
    with refused_as(f"{key}: the tokenizer of {source.place} cannot be read ({remedy})"), quiet_libraries():
        if not hub_name:
            tokenizer: Tokenizer = open_clip.get_tokenizer(source.build_name)
            return tokenizer
        folder = source.folder
        if folder is None:
            settings = cached(hub_name, "tokenizer_config.json")
            if settings is None:
                raise missing(key, "the tokenizer's files", hub_name)
            folder = settings.parent  # and not the id, so that nothing is looked up on the network
        check_tokenizer(folder)
        hub_tokenizer: Tokenizer = HFTokenizer(
            str(utf8_path(folder)),
            context_length=text_cfg.get("context_length", 77),
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            local_files_only=True,
            trust_remote_code=False,
            **(text_cfg.get("tokenizer_kwargs") or {}),
        )
        return hub_tokenizer
