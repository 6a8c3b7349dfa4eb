"""What the study asks of a model, and transformers' LLaVA in that form.

A connector model has a vision tower, a projector and a causal language model that takes ``inputs_embeds``. The study
puts the projected embeddings into the text itself (:func:`inject`), because that is what the arms replace; the model's
own way of doing it (``own_logits``) is compared with that before anything is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mcdo.encoders.quiet import quiet_libraries
from mcdo.errors import McdoError
from mcdo.studies.connector.faults import PlaceholderError


class ConnectorModel(Protocol):
    """A vision tower, a projector and a causal language model; everything in evaluation mode.

    V visual embeddings of size E are made of an image; ``pixels`` are normalised, float [B, 3, H, W].
    """

    image_token_id: int

    @property
    def projector(self) -> nn.Module:
        """The connector: its output is the visual embeddings."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        ...

    def visual(self, pixels: Tensor) -> Tensor:
        """Projected embeddings [B, V, E]."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings [B, L, E] of ids [B, L]."""
        ...

    def logits(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Next-token logits [B, L, W] of embeddings [B, L, E] under a mask [B, L]."""
        ...

    def own_logits(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        """The same [B, L, W] by the model's own forward pass from ids and pixels."""
        ...


def inject(model: ConnectorModel, input_ids: Tensor, visual: Tensor) -> Tensor:
    """Token embeddings with ``visual`` [B, V, E] in the places of the placeholders, [B, L, E].

    Raises:
        PlaceholderError: if a row does not hold exactly V placeholders.

    """
    places = input_ids == model.image_token_id
    found = places.sum(1)
    if bool((found != visual.shape[1]).any()):
        row = int((found != visual.shape[1]).nonzero()[0])
        raise PlaceholderError(
            f"row {row} holds {int(found[row])} image placeholders (token {model.image_token_id}) for "
            f"{visual.shape[1]} visual embeddings; make the text with as many as the vision tower gives"
        )
    embeds = model.embed(input_ids)
    return embeds.masked_scatter(places[..., None], visual.to(embeds))


class LlavaConnector:
    """A LLaVA-style model of transformers: vision_tower, multi_modal_projector, language_model and lm_head.

    Raises:
        McdoError: if the model is not laid out so.

    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        core = getattr(model, "model", None)
        parts = ("vision_tower", "multi_modal_projector", "language_model")
        absent = [name for name in parts if not hasattr(core, name)]
        if absent or not hasattr(model, "lm_head") or not hasattr(self.model.config, "image_token_id"):
            lacking = ", ".join(f"model.{name}" for name in absent) or "lm_head or config.image_token_id"
            raise McdoError(f"{type(model).__name__} is no LLaVA-style model: it lacks {lacking}")
        self.image_token_id = int(self.model.config.image_token_id)

    @property
    def projector(self) -> nn.Module:
        """``model.multi_modal_projector``."""
        projector: nn.Module = self.model.model.multi_modal_projector
        return projector

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = self.model.device
        return device

    def visual(self, pixels: Tensor) -> Tensor:
        """Projected embeddings [B, V, E]."""
        found = self.model.get_image_features(pixel_values=pixels.to(self.device, self.model.dtype))
        # transformers 5 returns an output object, 4 the embeddings themselves; both as one tensor per image
        rows = getattr(found, "pooler_output", found)
        return rows if isinstance(rows, Tensor) else torch.stack(list(rows))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings [B, L, E]."""
        embeds: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeds

    def logits(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Next-token logits [B, L, W], by the language model and its head."""
        language_model = self.model.model.language_model
        out = language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False)
        logits: Tensor = self.model.lm_head(out.last_hidden_state)
        return logits

    def own_logits(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        """Logits [B, L, W] from ids and pixels, by transformers' own forward pass."""
        pixels = pixels.to(self.device, self.model.dtype)
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixels, use_cache=False)
        logits: Tensor = out.logits
        return logits


def load_llava(folder: Path, device: str) -> tuple[LlavaConnector, Any, Any]:
    """Model, tokenizer and image processor of a LLaVA checkpoint in a folder on this disk.

    Raises:
        McdoError: if it is not there, or if its weights do not fill the model.

    """
    from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

    if not (folder / "config.json").is_file():
        raise McdoError(f"{folder} holds no config.json; give a folder with a transformers LLaVA checkpoint")
    try:
        with quiet_libraries():
            model, report = LlavaForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise McdoError(f"{folder} is not a whole LLaVA checkpoint: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise McdoError(
            f"{folder}: the weights lack {', '.join(map(str, missing[:3]))}; transformers would invent them"
        )
    return LlavaConnector(model.to(device)), tokenizer, processor
