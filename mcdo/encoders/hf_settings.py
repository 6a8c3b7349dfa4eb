"""Settings beside a checkpoint of transformers, checked before transformers reads them.

Some settings there name code to run (``auto_map``, kernels of the hub for ``attn_implementation``), files or other
repositories; unknown ones are kept without a word. Here only settings that the model or tokenizer has are let through,
with plain values in range, and nothing that names code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mcdo.errors import McdoError, nearest, refused_as
from mcdo.schema import LIMIT, OpenRecord, Positive, checked, read_bytes, read_json, read_lines

TOKENIZERS = (
    *("Albert", "Bert", "CLIP", "Gemma", "GPT2", "M2M100", "MT5", "MPNet", "Nllb"),
    *("Qwen2", "Roberta", "Siglip", "Siglip2", "T5", "XLMRoberta"),
)
"""Tokenizers of transformers that text towers here use, each as NameTokenizer and NameTokenizerFast."""
_GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
_MOST_GROWTH = 100
SUB_CONFIGURATIONS = ("text_config", "vision_config", "text_config_dict", "vision_config_dict")

# What files of transformers 4 state of every model; none of it decides the features of a tower.
_LEGACY = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "add_cross_attention",
    "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dropout",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "hidden_act",
    "initializer_factor", "initializer_range",
    "interpolate_antialias", "interpolate_offset", "is_decoder", "length_penalty", "logit_scale_init_value",
    "max_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_attentions", "output_scores", "pad_token_id", "prefix",
    "projection_dim", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache",
})  # fmt: skip
_FORBIDDEN = {
    "auto_map": "it names code in the folder, which is never run here",
    "custom_pipelines": "it names code in the folder, which is never run here",
    "quantization_config": "quantised weights are not loaded here",
    "trust_remote_code": "code that comes with a model is never run here",
    "transformers_weights": "it names another file of weights",
    "pruned_heads": "pruned towers are not loaded here",
}
Count = Annotated[int, Meta(ge=-1, lt=2**31)]
_Plain = bool | int | float | str | None
_Size = Annotated[int, Meta(ge=1, le=2**22)] | None
# By the end of a setting's name: what it may be.
_KINDS: tuple[tuple[str, Any], ...] = (
    (r"num_hidden_layers", Annotated[int, Meta(ge=1, le=512)]),
    (r"(hidden|intermediate|vocab)_size|num_\w*heads|projection_dim", _Size),
    (r"max_position_embeddings|num_patches|num_channels|projection_size", _Size),
    (r"(image|patch)_size", Annotated[int, Meta(ge=1, le=2**13)] | list[Annotated[int, Meta(ge=1, le=2**13)]] | None),
    (r"\w*dropout", Annotated[float, Meta(ge=0, lt=1)] | None),
    (r"\w*_eps", Annotated[float, Meta(gt=0, le=1)] | None),
    (r"initializer_\w+", Annotated[float, Meta(ge=0)] | None),
    (r"\w+_token_id", Count | list[Count] | None),
    (r"_?attn_implementation\w*", Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | bool | None),
    (r"(torch_)?dtype", Literal["float32", "float16", "bfloat16", "float64", "auto"] | None),
    (r"hidden_act|model_type", Annotated[str, Meta(pattern=r"^[\w-]{1,64}$")]),
    (r"id2label|label2id|task_specific_params", dict[str, Any] | None),
    (r"architectures", list[str] | None),
)
Side = Annotated[int, Meta(ge=1, le=2**13)]
_Level = Annotated[float, Meta(ge=-1e6, le=1e6)]
_PROCESSOR: dict[str, Any] = {
    "size": Side | dict[Literal["height", "width", "shortest_edge", "longest_edge"], Side | None] | None,
    "crop_size": Side | dict[Literal["height", "width", "shortest_edge"], Side | None] | None,
    "image_mean": Annotated[list[_Level], Meta(min_length=3, max_length=3)] | None,
    "image_std": Annotated[list[Positive], Meta(min_length=3, max_length=3)] | None,
    "resample": Annotated[int, Meta(ge=0, le=5)] | None,
    "rescale_factor": Annotated[float, Meta(gt=0, le=1)] | None,
    "patch_size": Side | None,
    "max_num_patches": Side | None,
    "image_processor_type": Annotated[str, Meta(pattern=r"^\w+(ImageProcessor(Fast|Pil)?|FeatureExtractor)$")] | None,
    "feature_extractor_type": Annotated[str, Meta(pattern=r"^\w+FeatureExtractor$")] | None,
    "processor_class": Annotated[str, Meta(pattern=r"^\w+Processor$")] | None,
}
_TOKEN = (
    str
    | dict[
        Literal["content", "lstrip", "normalized", "rstrip", "single_word", "special", "__type", "id"], bool | str | int
    ]
)
_FILE_NAME = Annotated[str, Meta(pattern=r"^(\./)?[A-Za-z0-9_][\w.-]*$")] | None
_TOKENIZER_KINDS: tuple[tuple[str, Any], ...] = (
    (r"tokenizer_class", str | None),
    (r"(bos|eos|unk|sep|pad|cls|mask)_token", _TOKEN | None),
    (r"(additional|extra)_special_tokens", list[_TOKEN] | dict[str, _TOKEN] | None),
    (r"added_tokens_decoder", dict[str, _TOKEN]),
    (r"model_max_length|max_length|\w*_token_id|extra_ids|stride|pad_to_multiple_of|pad_token_type_id", float | None),
    (r"model_input_names|never_split|language_codes", list[str] | None),
    (r"special_tokens_map_file", str | None),  # where it once was; never opened
    (r"\w*_file", _FILE_NAME),
    (r"sp_model_kwargs", Annotated[dict[str, Any], Meta(max_length=0)] | None),
    (r"chat_template", str | list[dict[str, str]] | None),
    (r"name_or_path|processor_class|errors|backend|language|(src|tgt)_lang|padding_side|truncation_side", str | None),
    (r"truncation_strategy|revision", str | None),
    (
        r"(do|add|clean|strip|tokenize|from|use|keep|remove|split|trim|return|is|spaces)_\w+|legacy|local_files_only",
        bool | None,
    ),
)


def model_type(path: Path) -> str:
    """What ``config.json`` says the model is. Raises McdoError where it says nothing."""
    held = _object(path)
    return str(checked(held.get("model_type"), Annotated[str, Meta(min_length=1)], f"{path}: model_type"))


def check_configuration(path: Path, defaults: Mapping[str, Any]) -> None:
    """Raise McdoError unless ``config.json`` holds plain settings in range, all of which the model has.

    Args:
        path: the file.
        defaults: the model's own configuration as transformers fills it in.

    """
    known = {key for part in (defaults, *map(defaults.get, SUB_CONFIGURATIONS)) for key in part or ()}
    _check_level(path, "", _object(path), {*known, *_LEGACY, *SUB_CONFIGURATIONS})


def _check_level(path: Path, place: str, held: Mapping[str, Any], known: set[str]) -> None:
    for key, value in held.items():
        where = f"{path}: {place}{key}"
        if _says_nothing(where, key, value):
            continue
        if key in SUB_CONFIGURATIONS:
            _check_level(path, f"{place}{key}.", checked(value or {}, dict[str, Any], where), known)
        elif key not in known:
            raise McdoError(
                f"{path}: {place[:-1] or 'the file'} has the unknown key {key!r}; the nearest: {nearest(key, known, 1)}"
            )
        else:
            checked(value, _kind(_KINDS, key, _Plain | list[_Plain | list[_Plain]]), where)


def _says_nothing(where: str, key: str, value: Any) -> bool:
    """Whether a setting that is forbidden is empty, as old files have it. Raises McdoError where it is not."""
    if key in _FORBIDDEN and value:
        raise McdoError(f"{where}: {_FORBIDDEN[key]}; remove it")
    return key in _FORBIDDEN


def _kind(kinds: Iterable[tuple[str, Any]], key: str, otherwise: Any) -> Any:
    return next((kind for name, kind in kinds if re.fullmatch(name, key)), otherwise)


def _object(path: Path) -> dict[str, Any]:
    held: dict[str, Any] = read_json(path, dict[str, Any], limit=8 * LIMIT)
    return held


def check_processor(path: Path, stated: Mapping[str, Any]) -> None:
    """Raise McdoError unless the settings of an image processor are plain values in range."""
    for key, value in stated.items():
        if not _says_nothing(f"{path}: {key}", key, value):
            checked(value, _PROCESSOR.get(key, _Plain | list[_Plain]), f"{path}: {key}")


def check_tokenizer(folder: Path) -> None:
    """Raise McdoError unless the settings of the tokenizer in a folder are known, plain, and name no code."""
    path = folder / "tokenizer_config.json"
    if path.exists():
        for key, value in _object(path).items():
            if _says_nothing(f"{path}: {key}", key, value):
                continue
            kind = _kind(_TOKENIZER_KINDS, key, None)
            if kind is None:
                raise McdoError(f"{path} has the key {key!r}, which no tokenizer here has; remove it, or mend its name")
            checked(value, kind, f"{path}: {key}")
            if key == "tokenizer_class" and value is not None:
                _check_class(path, value)
    for name in ("special_tokens_map.json", "added_tokens.json", "config.json"):
        if (folder / name).exists():
            for key, value in _object(folder / name).items():
                _says_nothing(f"{folder / name}: {key}", key, value)
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"):
        if (folder / name).exists():
            read_lines(folder / name, limit=64 * LIMIT)
    if (folder / "tokenizer.json").exists():
        _check_growth(folder / "tokenizer.json")


class _Tokenizer(OpenRecord, frozen=True):
    normalizer: Any = None


def _check_growth(path: Path) -> None:
    """Raise McdoError where the steps before a text is cut make so much of one letter that no memory holds it."""
    with refused_as(f"{path} cannot be read"):
        growth = _growth(msgspec.json.decode(read_bytes(path, limit=64 * LIMIT), type=_Tokenizer).normalizer)
    if growth > _MOST_GROWTH:
        raise McdoError(f"{path}: its normalizer makes {growth} letters of one; at most {_MOST_GROWTH} are sense")


def _growth(step: Any) -> int:
    if not isinstance(step, dict):
        return 1
    written = max(len(str(step.get(key, ""))) for key in ("content", "prepend"))
    steps = step.get("normalizers")
    return max(1, written) * math.prod(map(_growth, steps if isinstance(steps, list) else ()))


def check_index(path: Path) -> None:
    """Raise McdoError unless the list of weights in several files, if there is one, names files beside it."""
    if path.exists():
        for name, file in checked(_object(path).get("weight_map"), dict[str, str], f"{path}: weight_map").items():
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", file):
                raise McdoError(f"{path}: weight_map.{name} is {file!r}, which is no file of weights beside it")


def _check_class(path: Path, name: str) -> None:
    known = [*_GENERIC_TOKENIZERS, *(f"{each}Tokenizer{end}" for each in TOKENIZERS for end in ("", "Fast"))]
    if name not in known:
        raise McdoError(
            f"{path}: tokenizer_class = {name!r} is none that is read here; the nearest: {nearest(name, known)}"
        )
