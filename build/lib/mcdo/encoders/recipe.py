"""The recipe of the embedded encoders: four models that differ in nothing but their tower and their loss.

A model is written as a folder in open_clip's local-dir layout, so that it is built, trained and later loaded through
the same path as an encoder of one's own.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdo.encoders.registry import REGISTRY
from mcdo.encoders.spec import EncoderSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EMBEDDED = tuple(key for key, spec in REGISTRY.items() if spec.embedded)
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The styles of the text experiments are among them, so that their words mean something to these models.
TEMPLATES = (
    "a photo of a {}",
    "a {}",
    "an image of a {}",
    "a handwritten {}",
    "a scan of the number {}",
    "a detailed close-up photo of a {} in natural lighting",
    "something that might be a {}",
)
CONTEXT_LENGTH = 16
TEXT_LAYERS = 2
RESOLUTION, PATCH, WIDTH, LAYERS, HEADS, MLP_RATIO = 32, 8, 48, 3, 1, 2.0
_SPECIAL = ("<pad>", "<unk>", "<eos>")
_PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
# The losses' own initial values: Radford et al. 2021, section 2.5; Zhai et al. 2023, section 3.2. The bias there, -10,
# is the log-odds of a pair being a positive in a batch of 32 thousand; in a group of ten they are 1 to 9.
_LOSS_CFG: dict[str, dict[str, float]] = {
    "softmax": {"init_logit_scale": math.log(1 / 0.07)},
    "sigmoid": {"init_logit_scale": math.log(10), "init_logit_bias": -math.log(9)},
}
_TOWER_CFG: dict[str, dict[str, Any]] = {
    "clip": {
        "image_size": RESOLUTION,
        "patch_size": PATCH,
        "width": WIDTH,
        "layers": LAYERS,
        "head_width": WIDTH // HEADS,
        "mlp_ratio": MLP_RATIO,
    },
    "siglip": {
        "image_size": RESOLUTION,
        "timm_model_name": "mcdo_vit_tiny_patch8_siglip_32",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
}


@dataclass(frozen=True)
class Recipe:
    """Every hyper-parameter of the training, the same for the four models.

    A step shows ``groups`` groups of ten images, one of each digit, so that no other caption in a group describes
    the image too; the loss is open_clip's own on each group, averaged. ``noise`` is the greatest standard deviation of
    the added noise and ``occlusion`` the greatest side of the grey square, both drawn uniformly from zero per image;
    ``blur`` is the share of images smoothed with a 3 x 3 binomial kernel.
    """

    seed: int = 0
    steps: int = 1200
    groups: int = 16
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.05
    beta2: float = 0.98
    max_logit_scale: float = 100.0
    noise: float = 0.15
    blur: float = 0.3
    occlusion: int = 10

    def as_dict(self) -> dict[str, float | int]:
        """For the card."""
        return asdict(self)


def replicate_folder(key: str, seed: int, out: Path) -> Path:
    """Where another training of an embedded encoder lies."""
    return out / f"{key}-{seed}"


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the words of the captions; every text ends with <eos>."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Whitespace()
    words = {word for text in (*TEMPLATES, *CLASS_NAMES) for word, _ in splitter.pre_tokenize_str(text.format(""))}
    vocabulary = {word: i for i, word in enumerate((*_SPECIAL, *sorted(words)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", vocabulary["<eos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        model_max_length=CONTEXT_LENGTH,
    )


def model_config(spec: EncoderSpec, vocabulary_size: int) -> dict[str, Any]:
    """The contents of open_clip_config.json for an embedded encoder."""
    text = {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": vocabulary_size,
        "hf_tokenizer_name": "mcdo-digit-captions",  # the files beside it; open_clip only asks that there be a name
        "width": WIDTH,
        "heads": HEADS,
        "layers": TEXT_LAYERS,
        "mlp_ratio": MLP_RATIO,
        "pad_id": _SPECIAL.index("<pad>"),
        "eos_id": _SPECIAL.index("<eos>"),
        "pool_type": "eos",
    }
    model_cfg = {
        "embed_dim": WIDTH,
        "custom_text": True,
        **_LOSS_CFG[spec.loss],
        "vision_cfg": _TOWER_CFG[spec.family],
        "text_cfg": text,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": _PREPROCESS}


def write_untrained(spec: EncoderSpec, folder: Path) -> None:
    """Configuration and tokenizer of an embedded encoder, everything but its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    words.save_pretrained(folder)
    # transformers 5 would write a class name here that version 4 does not know; this one both do.
    names = {"pad_token": words.pad_token, "unk_token": words.unk_token, "eos_token": words.eos_token}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT_LENGTH, **names}
    _write_json(folder / "tokenizer_config.json", settings)
    config = model_config(spec, len(words))
    _write_json(folder / "open_clip_config.json", config)


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
