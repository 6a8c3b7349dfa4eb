"""Builds encoders with transformers, ``hf:ID_OR_PATH``: CLIP, MetaCLIP 2, SigLIP, SigLIP2, and image towers alone.

Everything is read from this disk (a folder, or the HuggingFace cache). transformers goes on with random values for
parameters that a checkpoint lacks, so its loading report is read and refused here.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mcdo import arguments
from mcdo.encoders.encoder import Encoder, NamedModules, Tokenizer, Towers
from mcdo.encoders.hf_preprocessing import patches, preprocessing, shown_side
from mcdo.encoders.hf_settings import check_configuration, check_index, check_tokenizer, model_type
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.spec import EncoderSpec, square_side
from mcdo.encoders.weights import (
    absent,
    brief,
    cached,
    check_extent,
    is_hub_id,
    missing,
    refuse_adapters,
    refuse_other_numbers_in,
    refuse_pickles,
)
from mcdo.errors import McdoError, nearest, refused_as
from mcdo.names import utf8_path
from mcdo.schema import LIMIT, read_bytes

VISION = {
    "clip_vision_model": "clip",
    "siglip_vision_model": "siglip",
    "siglip2_vision_model": "siglip",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov2",
    "dinov3_convnext": "dinov2",
    "metaclip_2_vision_model": "clip",
    "aimv2_vision_model": "vit",
    "vit": "vit",
}
"""Image towers without text, by model type, and the family of each."""
_CLIP = ("clip", "metaclip_2")
MODEL_TYPES = (*_CLIP, "siglip", "siglip2", *VISION)
_ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext")
"""Towers that are made for pictures of any size: the processor says which."""
_PROJECTING = ("CLIPVisionModelWithProjection", "MetaClip2VisionModelWithProjection")
_NOT_READ = {"vit": ("classifier.", "pooler."), **dict.fromkeys(_ANY_SIZE, ("classifier.",))}
"""What a checkpoint may hold beside its tower, behind the features that are read."""
_INDICES = "position_ids"
"""Which old checkpoints hold beside their weights."""
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")


def own_spec(key: str, source: str, registered: EncoderSpec | None = None) -> EncoderSpec:
    """The spec of a checkpoint, from its config.json; ``registered`` is the entry that it stands in for."""
    config = _config(key, source)
    if config.model_type in VISION:
        return _vision_spec(key, source, config)
    vision = config.vision_config
    clip = config.model_type in _CLIP
    spec = EncoderSpec(
        key=key,
        family="clip" if clip else "siglip",
        backend="hf",
        name=source,
        resolution=_naflex_side(vision) if config.model_type == "siglip2" else square_side(key, vision.image_size),
        feature_dim=int(config.projection_dim if clip else vision.hidden_size),
        loss="softmax" if clip else "sigmoid",
        hf_id=source,
    )
    return spec if registered is None else replace(spec, quick_gelu=registered.quick_gelu)


def _vision_spec(key: str, source: str, config: Any) -> EncoderSpec:
    if config.model_type in _ANY_SIZE:
        side = shown_side(key, source, _folder(key, source))
    elif config.model_type == "siglip2_vision_model":
        side = _naflex_side(config)
    else:
        side = square_side(key, config.image_size)
    width = config.projection_dim if _projects(config) else _widths(config)[-1]
    return EncoderSpec(key, VISION[config.model_type], "hf", source, side, int(width), "softmax", hf_id=source)


def _projects(config: Any) -> bool:
    return any(kind in _PROJECTING for kind in config.architectures or ())


def _widths(config: Any) -> tuple[int, ...]:
    """Of the stages of a tower, of which most have one."""
    return tuple(getattr(config, "hidden_sizes", None) or (config.hidden_size,))


def load(spec: EncoderSpec, *, random: bool, seed: int, device: torch.device) -> Encoder:
    """Build, load and check the checkpoint that ``spec`` names. Raises McdoError, never falls back."""
    config, folder = _config(spec.key, spec.name), _folder(spec.key, spec.name)
    _check_activation(spec, config)
    refuse_adapters(spec.key, folder)
    check_extent(f"{folder}/config.json", _least_parameters(config), None if random else _weights(spec, folder))
    with quiet_libraries():
        model = _untrained(spec.key, config, seed) if random else _pretrained(spec, folder, config)
    for module in model.modules():  # with return_dict false there, a bare tuple would come back
        if hasattr(module, "config"):
            module.config.return_dict = True
    naflex = config.model_type in ("siglip2", "siglip2_vision_model")
    towers = _vision_towers(model) if config.model_type in VISION else _both_towers(model, naflex)
    return Encoder(
        spec,
        model,
        towers,
        preprocessing(spec, folder, naflex),
        None if towers.text is None else lambda: _tokenizer(spec, folder, config),
        random_weights=random,
        device=device,
    )


def located(spec: EncoderSpec) -> Path:
    """The folder of configuration and weights. Raises McdoError where it is not on this disk."""
    return _folder(spec.key, spec.name)


def reads_prompts(spec: EncoderSpec) -> bool:
    """Whether the checkpoint has a text tower, by its configuration."""
    return _config(spec.key, spec.name).model_type not in VISION


def tokenizer(spec: EncoderSpec) -> Tokenizer | None:
    """Its tokenizer alone; None of a checkpoint without a text tower. Raises McdoError where it cannot be read."""
    if not reads_prompts(spec):
        return None
    return _tokenizer(spec, _folder(spec.key, spec.name), _config(spec.key, spec.name))


def _both_towers(model: Any, naflex: bool) -> Towers:
    image = model.get_image_features
    return Towers(
        _patched_image_tower(model, image) if naflex else _pooled(image, "pixel_values"),
        _pooled(model.get_text_features, "input_ids"),
        _present(model, "vision_model", "visual_projection"),
        _present(model, "text_model", "text_projection"),
    )


def _vision_towers(model: Any) -> Towers:
    """The features of an image tower alone: projected where it projects, else its pooling head's or class token."""
    kind = model.config.model_type
    if kind == "siglip2_vision_model":
        return Towers(_patched_image_tower(model, model), None, (("", model),), ())

    def features(pixels: Tensor) -> Tensor:
        result = model(pixel_values=pixels)
        if _projects(model.config):
            return cast("Tensor", result.image_embeds)
        return cast("Tensor", result.last_hidden_state[:, 0]) if kind == "vit" else _features(result)

    return Towers(features, None, (("", model),), ())


def _class_of(config: Any) -> tuple[Any, dict[str, Any]]:
    """Class of transformers that builds the model, and arguments of it."""
    if _projects(config):
        return getattr(transformers, config.architectures[0]), {}
    if config.model_type == "metaclip_2_vision_model":  # which AutoModel does not know
        return transformers.MetaClip2VisionModel, {}
    return AutoModel, {"add_pooling_layer": False} if config.model_type == "vit" else {}


def _folder(key: str, source: str) -> Path:
    """The checkpoint's folder: ``source`` itself, or its snapshot in the HuggingFace cache.

    The libraries are given this folder and never the id, so that nothing is looked up on the network.
    """
    folder = arguments.path(source)
    if not folder.is_dir() and is_hub_id(source):
        config = cached(source, "config.json")
        if config is None:
            raise missing(key, "the configuration and weights", source)
        return config.parent
    if not (folder / "config.json").is_file():
        raise absent(key, "the configuration and weights", source)
    return folder


def _config(key: str, source: str) -> Any:
    folder = _folder(key, source)
    path = folder / "config.json"
    return copy.deepcopy(_parsed(key, source, folder, read_bytes(path, limit=8 * LIMIT)))


@lru_cache(maxsize=1)
def _parsed(key: str, source: str, folder: Path, content: bytes) -> Any:
    """The configuration of a folder, which holds ``content``: it is asked for again and again while a model loads."""
    path = folder / "config.json"
    kind = model_type(path)
    if kind not in MODEL_TYPES:
        likely = nearest(kind, MODEL_TYPES)
        raise McdoError(f"{key}: the model type {kind!r} of {source} is not handled; the nearest: {likely}")
    with refused_as(f"{key}: this transformers has no model type {kind}"), quiet_libraries():
        known = AutoConfig.for_model(kind).to_dict()  # whose defaults it warns of itself
    check_configuration(path, known)
    with refused_as(f"{key}: {path} is no configuration that transformers reads"), quiet_libraries():
        return AutoConfig.from_pretrained(utf8_path(folder), local_files_only=True, trust_remote_code=False)


def _check_activation(spec: EncoderSpec, config: Any) -> None:
    if spec.quick_gelu is None:
        return
    act = config.vision_config.hidden_act
    if spec.quick_gelu != (act == "quick_gelu"):
        raise McdoError(
            f"{spec.key}: the weights were trained {'with' if spec.quick_gelu else 'without'} QuickGELU, but the "
            f"configuration of {spec.name} says hidden_act={act!r}; correct it there"
        )


def _untrained(key: str, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with refused_as(f"{key}: transformers cannot build the model of its config.json"):
            kind, options = _class_of(config)
            return (kind.from_config if kind is AutoModel else kind._from_config)(config, **options)


def _least_parameters(config: Any) -> int:
    """Fewer parameters than the configuration describes: attention and embedding of its towers."""
    if config.model_type in VISION:
        widths = _widths(config)  # attention has four maps of a width, a block of ConvNeXt two to four times of it
        depths = getattr(config, "depths", None) or (config.num_hidden_layers,)
        return int(sum(4 * depth * width**2 for depth, width in zip(depths, widths, strict=True)))
    text, vision = config.text_config, config.vision_config
    attention = sum(4 * each.num_hidden_layers * each.hidden_size**2 for each in (text, vision))
    return int(attention + text.vocab_size * text.hidden_size)


def _weights(spec: EncoderSpec, folder: Path) -> list[Path]:
    """The files of weights. Raises McdoError where there are none, or none that may be read."""
    if any((folder / name).is_file() for name in _SAFETENSORS):
        check_index(folder / _SAFETENSORS[1])
        return sorted(folder.glob("model*.safetensors"))
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if not pickles:
        raise absent(spec.key, "the weights", spec.name)
    for shard in pickles:
        refuse_pickles(shard)
    return pickles


def _read(files: list[Path]) -> list[Path]:
    """Those of the files beside a configuration that transformers reads; others are for other programs."""
    whole = [each for each in files if each.stem in ("model", "pytorch_model")]
    return whole or [each for each in files if "-of-" in each.stem] or files


def _pretrained(spec: EncoderSpec, folder: Path, config: Any) -> Any:
    files = _weights(spec, folder)
    safe = files[0].suffix == ".safetensors"
    kind, options = _class_of(config)
    try:
        for file in _read(files):
            refuse_other_numbers_in(spec.key, file, _INDICES)
        model, report = kind.from_pretrained(
            utf8_path(folder),
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=safe,
            weights_only=True,
            torch_dtype=torch.float32,  # transformers 5 would round weights to the type that config.json names
            trust_remote_code=False,
            config=config,
            **options,
        )
    except McdoError:
        raise
    except Exception as error:  # damaged files, a quantized model whose library is absent, ...
        raise McdoError(f"{spec.key}: the weights of {spec.name} cannot be loaded: {brief(error)}") from error
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise McdoError(
            f"{spec.key}: the checkpoint of {spec.name} lacks {len(lacking)} parameters or has them in another shape "
            f"({', '.join(lacking[:3])}, ...), which transformers would leave random; it belongs to another model"
        )
    behind = _NOT_READ.get(config.model_type, ())
    surplus = sorted(
        key for key in map(str, report["unexpected_keys"]) if not key.endswith(_INDICES) and not key.startswith(behind)
    )
    if surplus:
        raise McdoError(
            f"{spec.key}: the checkpoint of {spec.name} holds {len(surplus)} tensors that its model has no place for "
            f"({', '.join(surplus[:3])}, ...), such as an adapter's; they would be left out"
        )
    return model


def _present(model: nn.Module, *names: str) -> NamedModules:
    found = ((name, getattr(model, name, None)) for name in names)
    return tuple((name, module) for name, module in found if isinstance(module, nn.Module))


def _pooled(forward: Any, argument: str) -> Any:
    """The features that ``forward`` returns, bare (transformers 4) or in a record (transformers 5)."""

    def features(x: Tensor) -> Tensor:
        return _features(forward(**{argument: x}))

    return features


def _features(result: Any) -> Tensor:
    features: Tensor | None = result if isinstance(result, Tensor) else result.pooler_output
    if features is None:
        raise McdoError(
            "the configuration leaves out the pooling head of the tower, so there is no feature [B, D]; give the "
            "module to mcdo.Encoder.of, with features= as it was trained: lambda out: out.last_hidden_state.mean(1)"
        )
    return features


def _naflex_side(vision: Any) -> int:
    return int(vision.patch_size) * math.isqrt(int(vision.num_patches))


def _patched_image_tower(model: Any, forward: Any) -> Any:
    """SigLIP2's towers of variable shape take rows of patches; here every image is one square, fully visible."""
    patch = int(getattr(model.config, "vision_config", model.config).patch_size)

    def features(pixels: Tensor) -> Tensor:
        rows = patches(pixels, patch)
        visible = torch.ones(rows.shape[:2], dtype=torch.int32, device=pixels.device)
        shapes = torch.tensor([[side // patch for side in pixels.shape[2:]]]).expand(len(pixels), -1)
        return _features(forward(pixel_values=rows, pixel_attention_mask=visible, spatial_shapes=shapes))

    return features


def _tokenizer(spec: EncoderSpec, folder: Path, config: Any) -> Tokenizer:
    if not (folder / "tokenizer_config.json").is_file():
        raise absent(spec.key, "the tokenizer's files", spec.name)
    check_tokenizer(folder)
    with refused_as(f"{spec.key}: the tokenizer of {folder} cannot be read"), quiet_libraries():
        words = AutoTokenizer.from_pretrained(utf8_path(folder), local_files_only=True, trust_remote_code=False)
    length = int(config.text_config.max_position_embeddings)
    # SigLIP's towers were trained on lower-case text padded on the right to the full length, attend to the padding and
    # read the last position: any other padding collapses their text features.
    words.padding_side = "right"
    lower = spec.family == "siglip"

    def tokenize(texts: list[str]) -> Tensor:
        cleaned = [text.lower() for text in texts] if lower else texts
        rows = words(cleaned, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        tokens: Tensor = rows["input_ids"]
        if not lower and not _ended(tokens, config, words.eos_token_id):
            raise McdoError(
                f"{spec.key}: its text tower reads the feature of a text where it ends, and the tokenizer of {folder} "
                f"marks the end by {words.eos_token_id}, which does not go with eos_token_id = "
                f"{config.text_config.eos_token_id} in config.json; the two do not belong together"
            )
        return tokens

    return tokenize


def _ended(tokens: Tensor, config: Any, marked: int | None) -> bool:
    """Whether a text tower of CLIP finds the end of every text.

    It reads the position of the first token ``eos_token_id``, and of the first token where there is none. CLIP's
    configurations once had a 2 there whatever the tokenizer: then it reads the position of the largest token.
    """
    end = config.text_config.eos_token_id
    largest = config.model_type == "clip" and end == 2
    read = tokens.max(1, keepdim=True).values if largest else tokens
    return marked is not None and (largest or end == marked) and bool(read.eq(marked).any(1).all())
