"""The study's own small connector: an encoder's image tokens, a projector, and a small causal language model.

The vision tower is one of mcdo's encoders and is never trained. The language model has transformers' Qwen3
architecture in a few tens of thousands of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.studies.connector.models import inject

if TYPE_CHECKING:
    from transformers import Qwen3Config


@dataclass(frozen=True)
class TinyConfig:
    """Sizes. ``visual``: the tokens of the tower's last layer, or its one feature; ``projector``: as named."""

    visual: Literal["tokens", "feature"] = "tokens"
    projector: Literal["linear", "mlp"] = "mlp"
    width: int = 64
    layers: int = 2
    heads: int = 4
    max_seq_len: int = 512


def image_tokens(encoder: Encoder, pixels: Tensor, visual: str) -> Tensor:
    """What the frozen tower says of normalised pixels: [B, V, D], without gradient.

    Raises:
        McdoError: if the tower gives no tokens.

    """
    with torch.no_grad():
        if visual == "feature":
            return encoder.forward_image(pixels)[:, None]
        tower: Any = getattr(encoder.model, "visual", None)
        if not hasattr(tower, "forward_intermediates"):
            raise McdoError(f"{encoder.key}: its image tower gives no tokens; ask for visual='feature'")
        found = tower.forward_intermediates(pixels, indices=1, output_fmt="NLC", normalize_intermediates=True)
        tokens: Tensor = found["image_intermediates"][-1]
        return tokens


class TinyConnector(nn.Module):
    """Encoder, projector and language model with weights from ``seed``; the encoder is not among its parameters.

    ``vocabulary`` is the size of the tokenizer's. Global random state is left as it was.
    """

    def __init__(self, encoder: Encoder, vocabulary: int, image_token_id: int, config: TinyConfig, seed: int) -> None:
        from transformers import Qwen3ForCausalLM

        super().__init__()
        self.image_token_id, self.config = image_token_id, config
        self._encoder = (encoder,)  # in a tuple, so that its modules are not registered here
        inside = image_tokens(encoder, encoder.blank(1), config.visual)
        self.tokens_per_image = inside.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.lm: Any = Qwen3ForCausalLM(_qwen3(vocabulary, config))
            self._projector = _projector(inside.shape[2], config)
        self.to(encoder.device).eval()

    @property
    def projector(self) -> nn.Module:
        """The connector."""
        return self._projector

    @property
    def device(self) -> torch.device:
        """The encoder's."""
        return self._encoder[0].device

    def tower(self, pixels: Tensor) -> Tensor:
        """What the projector is given, [B, V, D]."""
        return image_tokens(self._encoder[0], pixels, self.config.visual)

    def visual(self, pixels: Tensor) -> Tensor:
        """Projected embeddings [B, V, E]."""
        projected: Tensor = self.projector(self.tower(pixels))
        return projected

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings [B, L, E]."""
        embeds: Tensor = self.lm.get_input_embeddings()(input_ids)
        return embeds

    def logits(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Next-token logits [B, L, W]."""
        out = self.lm(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False)
        logits: Tensor = out.logits
        return logits

    def own_logits(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        """Logits [B, L, W] from ids and pixels, as in training."""
        return self.logits(inject(self, input_ids, self.visual(pixels)), attention_mask)


def _qwen3(vocabulary: int, config: TinyConfig) -> Qwen3Config:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=config.width,
        intermediate_size=2 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=max(1, config.heads // 2),
        head_dim=config.width // config.heads,
        max_position_embeddings=config.max_seq_len,
        tie_word_embeddings=True,
        initializer_range=0.1,  # the default of 0.02 is meant for widths in the thousands
        pad_token_id=None,
    )


def _projector(width: int, config: TinyConfig) -> nn.Module:
    if config.projector == "linear":
        return nn.Linear(width, config.width)
    return nn.Sequential(nn.Linear(width, 2 * config.width), nn.GELU(), nn.Linear(2 * config.width, config.width))
