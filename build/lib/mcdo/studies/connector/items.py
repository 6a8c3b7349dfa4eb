"""What a connector is trained and judged on: items of an image, a prompt with one ``<image>``, and an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.images import ImageSet, Skipped, load_images
from mcdo.store import canonical_json
from mcdo.studies.connector.captions import caption

IMAGE = "<image>"
DIGIT_PROMPT = f"{IMAGE}\ndescribe the digit :"


@dataclass(frozen=True)
class Item:
    """One picture and what is to be said of it. ``image`` is the id of the picture in its image set."""

    id: str
    image: str
    prompt: str
    answer: str


@dataclass(frozen=True, eq=False)
class Captioned:
    """Items and the images they speak of; an image may have several items. ``skipped`` were left out as unusable."""

    name: str
    items: tuple[Item, ...]
    images: ImageSet
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def rows(self) -> NDArray[np.intp]:
        """The place of each item's image in ``images``, [N]."""
        place = {image: i for i, image in enumerate(self.images.ids)}
        return np.array([place[item.image] for item in self.items], dtype=np.intp)

    @property
    def origins(self) -> tuple[str, ...]:
        """The original behind each item's image, [N]."""
        return tuple(self.images.origins[row] for row in self.rows)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all texts and the contents of all images."""
        texts = [[item.id, item.image, item.prompt, item.answer] for item in self.items]
        return hashlib.sha256((canonical_json(texts) + self.images.fingerprint).encode()).hexdigest()

    def only(self, chosen: Sequence[int] | NDArray[np.intp]) -> Captioned:
        """The items at these places; the images stay."""
        return replace(self, items=tuple(self.items[int(i)] for i in chosen))


def digit_items(split: str, n: int | None, seed: int) -> Captioned:
    """Digits with captions from their pixels: ``"digits"`` (held-out) or ``"digits:train"``; n as in load_images."""
    images = load_images(split, n, seed)
    if images.labels is None:
        raise McdoError(f"{split} has no labels to caption; name digits or digits:train")
    items = tuple(
        Item(image, image, DIGIT_PROMPT, caption(images.image(i), int(images.labels[i])))
        for i, image in enumerate(images.ids)
    )
    return Captioned(split, items, images)
