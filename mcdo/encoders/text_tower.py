"""The text tower of an encoder, seen as an encoder of its own: prompts take the place of images.

Sites, perturbations and estimators work on whatever :meth:`~mcdo.encoders.Encoder.forward_image` carries out. Here that
is the text tower on rows of tokens, so all of them serve text unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders.encoder import Encoder
from mcdo.errors import McdoError, NoTextTowerError
from mcdo.names import as_bytes

IDENTITY = "text tower, the encoder's own tokenizer"
"""Takes the place of the preprocessing in the keys of what is stored."""
_WORDS = ("a", "detailed", "photo", "of", "something", "in", "an", "image")


class TextTower(Encoder):
    """View of ``encoder`` whose inputs are tokens ``[B, L]``; it shares the model, and its key ends in ``:text``."""

    def __init__(self, encoder: Encoder) -> None:
        if encoder.towers.text is None:
            raise NoTextTowerError(f"{encoder.key} has no text tower")
        vars(self).update(vars(encoder))  # the same model and device: nothing is loaded or copied
        self._encoder = encoder
        self.key = f"{encoder.key}:text"
        self.towers = replace(encoder.towers, image=encoder.towers.text, image_modules=encoder.towers.text_modules)
        self.preprocessing = replace(encoder.preprocessing, identity=IDENTITY)

    @property
    def architecture(self) -> str:
        """The encoder's own, in which both towers are."""
        return self._encoder.architecture

    def probe_of(self, now: tuple[str, str]) -> str:
        """The encoder's own: :attr:`text_identity` says what this tower does."""
        return self._encoder.probe_of(now)

    def blank(self, n: int) -> Tensor:
        """``n`` rows of tokens."""
        return self.tokenize(["a"] * n)

    def calibration_inputs(self, n: int) -> Tensor:
        """``n`` fixed prompts of one to n words."""
        return self.tokenize([" ".join(islice(cycle(_WORDS), words)) for words in range(1, n + 1)])

    def token_counts(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens before the padding, ``[n]``; where padding and end of text are one token, the end is not counted."""
        tokens, padding = self.tokenize(prompts).cpu(), self.blank(1)[0, -1].cpu()
        return np.asarray((tokens != padding).flip(1).cumsum(1).gt(0).sum(1).numpy(), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts in the place of an image set; ``ids`` are the prompts themselves, so they must be distinct.

    ``origins`` name the sampled unit of each prompt: its wording, where given classes fill the gap in one, or its
    class, where wordings are given. Each prompt is its own where nothing else is said. As for images, they decide no
    score and are in no key.
    """

    ids: tuple[str, ...]
    name: str = "prompts"
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids) or not self.ids:
            raise McdoError(f"{self.name}: give at least one prompt, and no prompt twice")
        if not self.origins:
            object.__setattr__(self, "origins", self.ids)
        if len(self.origins) != len(self.ids):
            raise McdoError(f"{self.name}: {len(self.ids)} prompts but {len(self.origins)} origins; give one for each")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask_ids(self) -> tuple[str, ...]:
        """Each prompt has its own masks."""
        return self.ids

    @property
    def content_hashes(self) -> tuple[str, ...]:
        """sha256 of each prompt."""
        return tuple(hashlib.sha256(as_bytes(prompt)).hexdigest() for prompt in self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the prompts in order."""
        return hashlib.sha256(json.dumps(["prompts", self.ids]).encode()).hexdigest()

    def select(self, indices: slice | Sequence[int] | np.ndarray[Any, Any]) -> Prompts:
        """The prompts at ``indices``, in that order."""
        ids, origins = (tuple(np.asarray(held, dtype=object)[indices]) for held in (self.ids, self.origins))
        return replace(self, ids=ids, origins=origins)


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens ``[N, L]`` of prompts, in the place of pixels."""

    data: Tensor

    @classmethod
    def of(cls, encoder: Encoder, prompts: Prompts) -> Tokens:
        """Tokenized once, on the encoder's device."""
        return cls(encoder.tokenize(prompts.ids))

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: slice | Sequence[int] | Tensor) -> Tensor:
        """What the text tower is shown: int64 ``[B, L]``."""
        return self.data[torch.as_tensor(indices)] if not isinstance(indices, slice) else self.data[indices]
