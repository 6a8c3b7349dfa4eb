"""The study's items: captioned digits, or a seeded choice of a LLaVA-Pretrain file; no original is on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mcdo.errors import McdoError
from mcdo.studies.connector.items import Captioned, digit_items
from mcdo.studies.connector.llava_json import Listing, read_items, split, with_images


@dataclass(frozen=True)
class Source:
    """Which items, JSON-able.

    Attributes:
        held_out: how many are held out.
        train: at most how many of a file's are trained on; of the digits, all 1197.
        seed: of the choice.
        json: a LLaVA-Pretrain file; "" for the digits.
        image_root: where its image paths begin.
        skip_unreadable: leave out unusable items, and record them.

    """

    held_out: int
    train: int
    seed: int
    json: str = ""
    image_root: str = ""
    skip_unreadable: bool = False

    @property
    def listing(self) -> Listing:
        """The file's items, their texts checked."""
        return _listing(self.json, self.skip_unreadable)


@dataclass(frozen=True)
class Data:
    """Items to train on and held-out ones.

    Raises:
        McdoError: if an original is behind images of both.

    """

    train: Captioned
    held_out: Captioned

    def __post_init__(self) -> None:
        shared = set(self.train.origins) & set(self.held_out.origins)
        if shared:
            raise McdoError(
                f"{len(shared)} originals are trained on and held out, such as {min(shared)}; split by origin"
            )


@lru_cache(maxsize=1)
def load_data(source: Source) -> Data:
    """The items of ``source``; raises as :mod:`mcdo.studies.connector.llava_json` does."""
    if not source.json:
        train = digit_items("digits:train", None, source.seed)
        return Data(train, digit_items("digits", source.held_out, source.seed))
    listing, skip = source.listing, source.skip_unreadable
    chosen, held_items = split(listing, source.held_out, source.train, source.seed)
    train, held = (
        with_images(listing, items, Path(source.image_root), skip_bad=skip) for items in (chosen, held_items)
    )
    shown = set(held.origins)  # copies of a picture under several names are known as such only now
    return Data(train.only(np.flatnonzero([origin not in shown for origin in train.origins])), held)


@lru_cache(maxsize=1)
def load_held_out(source: Source) -> Captioned:
    """The held-out items of a file, none being trained on."""
    held = split(source.listing, source.held_out, 0, source.seed)[1]
    return with_images(source.listing, held, Path(source.image_root), skip_bad=source.skip_unreadable)


@lru_cache(maxsize=1)
def _listing(path: str, skip_bad: bool) -> Listing:
    return read_items(Path(path), skip_bad=skip_bad)
