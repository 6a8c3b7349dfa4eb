"""From an item to tokens: placeholders for the visual embeddings, the prompt, the answer, and labels on the answer.

A sequence is the prompt with one placeholder per visual embedding in the place of ``<image>``, the answer, and the
end-of-text token. Labels are the answer's tokens and the end, -100 elsewhere. What is longer than ``max_seq_len``
loses its tail, as in a trainer's collator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcdo.studies.connector.faults import PlaceholderError
from mcdo.studies.connector.items import IMAGE, Item

IGNORED = -100


@dataclass(frozen=True)
class Sample:
    """One item as tokens: ``input_ids`` and ``labels`` of one length, and whether a tail was cut off."""

    id: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    truncated: bool

    @property
    def label_tokens(self) -> int:
        """How many tokens the loss is taken over."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Wording:
    """How one model wants its text.

    Args:
        tokenizer: a transformers tokenizer; its begin-of-text token is put first where it has one.
        image_token_id: the placeholder.
        tokens_per_image: how many visual embeddings the model makes of an image.
        max_seq_len: tokens of a sample at most, image included.

    """

    tokenizer: Any
    image_token_id: int
    tokens_per_image: int
    max_seq_len: int = 512

    @property
    def pad_id(self) -> int:
        """What fills a batch up; it is masked, so any id does where the tokenizer has none."""
        return int(self.tokenizer.pad_token_id or 0)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text.strip() else ()

    def answer(self, item: Item) -> tuple[int, ...]:
        """What is to be predicted: the answer's tokens and the end of the text."""
        end = self.tokenizer.eos_token_id
        return (*self.tokens(item.answer), *(() if end is None else (int(end),)))

    def prompt(self, item: Item) -> tuple[int, ...]:
        """Begin of the text, and the prompt with its placeholders.

        Raises:
            PlaceholderError: if the prompt does not hold exactly one ``<image>``.

        """
        parts = item.prompt.split(IMAGE)
        if len(parts) != 2:
            raise PlaceholderError(f"{item.id}: its prompt holds {len(parts) - 1} of {IMAGE}; it must hold exactly one")
        begin = self.tokenizer.bos_token_id
        image = (self.image_token_id,) * self.tokens_per_image
        return (*(() if begin is None else (int(begin),)), *self.tokens(parts[0]), *image, *self.tokens(parts[1]))

    def sample(self, item: Item) -> Sample:
        """The item as tokens, cut to ``max_seq_len``."""
        prompt, answer = self.prompt(item), self.answer(item)
        ids, labels = prompt + answer, (IGNORED,) * len(prompt) + answer
        cut = slice(self.max_seq_len)
        return Sample(item.id, ids[cut], labels[cut], len(ids) > self.max_seq_len)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as tensors, padded on the right: ``input_ids``, ``attention_mask`` and ``labels``, all int64 [B, L]."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def collate(samples: Sequence[Sample], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """A batch of samples."""
    length = max(len(sample.input_ids) for sample in samples)
    ids = [[*s.input_ids, *[pad_id] * (length - len(s.input_ids))] for s in samples]
    labels = [[*s.labels, *[IGNORED] * (length - len(s.labels))] for s in samples]
    mask = [[1] * len(s.input_ids) + [0] * (length - len(s.input_ids)) for s in samples]
    return Batch(*(torch.tensor(rows, device=device) for rows in (ids, mask, labels)))


def without_image(sample: Sample, image_token_id: int) -> Sample:
    """The sample with its placeholders taken out: what the language model sees of the text alone."""
    kept = [(i, label) for i, label in zip(sample.input_ids, sample.labels, strict=True) if i != image_token_id]
    return Sample(sample.id, tuple(i for i, _ in kept), tuple(label for _, label in kept), sample.truncated)
