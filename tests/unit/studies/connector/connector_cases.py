"""Cases for the tests of the connector: a model with random weights, its wording, and 64 held-out digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.studies.connector.items import Captioned, Item
from mcdo.studies.connector.models import LlavaConnector
from mcdo.studies.connector.requests import black, encoder_pixels
from mcdo.studies.connector.samples import Sample, Wording
from mcdo.studies.connector.tiny import TinyConfig, TinyConnector
from mcdo.studies.connector.words import IMAGE, word_tokenizer

if TYPE_CHECKING:
    from transformers import LlavaConfig


@dataclass(frozen=True, eq=False)
class Case:
    """A model and what it is shown."""

    model: Any
    wording: Wording
    items: tuple[Item, ...]
    pixels: Tensor
    blank: Tensor

    @property
    def samples(self) -> list[Sample]:
        return [self.wording.sample(item) for item in self.items]

    def with_model(self, model: Any) -> Case:
        return replace(self, model=model)


def tiny_case(encoder: Encoder, digits: Captioned, seed: int = 0, config: TinyConfig | None = None) -> Case:
    tokenizer = word_tokenizer([text for item in digits.items for text in (item.prompt, item.answer)])
    image = int(tokenizer.convert_tokens_to_ids(IMAGE))
    model = TinyConnector(encoder, len(tokenizer), image, config or TinyConfig(width=32), seed)
    wording = Wording(tokenizer, image, model.tokens_per_image)
    return Case(model, wording, digits.items, encoder_pixels(encoder, digits), black(encoder))


def llava_config(vocabulary: int, image_token_id: int) -> LlavaConfig:
    """A LLaVA of two layers each: 32 px in patches of 8, so 16 visual embeddings."""
    from transformers import CLIPVisionConfig, LlavaConfig, Qwen3Config

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = Qwen3Config(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=256, initializer_range=0.1,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token_id, image_seq_length=16,
        vision_feature_select_strategy="default", vision_feature_layer=-2,
    )  # fmt: skip


def llava_model(vocabulary: int, image_token_id: int, seed: int = 0) -> Any:
    from transformers import LlavaForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LlavaForConditionalGeneration(llava_config(vocabulary, image_token_id)).eval()


def llava_case(encoder: Encoder, digits: Captioned) -> Case:
    small = tiny_case(encoder, digits)
    tokenizer, image = small.wording.tokenizer, small.wording.image_token_id
    model = LlavaConnector(llava_model(len(tokenizer), image))
    return Case(model, Wording(tokenizer, image, 16), digits.items, small.pixels, small.blank)
