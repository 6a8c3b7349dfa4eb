"""The two tasks: CIFAR-10, and the digits that need no download; which images go to which split, by origin.

Digits: ten classes, superclass = has the printed form of the digit a closed loop (0, 6, 8, 9) or none. Training images
are those the embedded encoder was trained on; the 600 it never saw are divided over validation, calibration and test,
each with its affine variants. A split never shares an original with another. The encoder sees them through noise; the
subtasks are about the digit as drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.images import ImageSet, load_images
from mcdo.images.sampling import spread_order
from mcdo.studies.subtasks.cifar10 import cifar10
from mcdo.studies.subtasks.config import Source
from mcdo.studies.subtasks.noise import through_noise

SplitName = Literal["train", "validation", "calibration", "test"]
LOOP = (1, 0, 0, 0, 0, 0, 1, 0, 1, 1)
ANIMAL = (0, 0, 1, 1, 1, 1, 1, 1, 0, 0)
_DIGIT_SHARES = {"validation": 0.25, "calibration": 0.25, "test": 0.5}


@dataclass(frozen=True, eq=False)
class Task:
    """Image sets by split, and the superclass of each class.

    ``images`` are what subtask labels are read from, ``shown`` what the encoder sees: the same ids in the same order.
    ``superclass`` maps class to superclass.
    """

    name: str
    class_names: tuple[str, ...]
    superclass: tuple[int, ...]
    superclass_names: tuple[str, ...]
    images: Mapping[SplitName, ImageSet]
    shown: Mapping[SplitName, ImageSet]


@lru_cache(maxsize=1)
def load_task(source: Source) -> Task:
    """CIFAR-10 where a folder is given, the digits otherwise.

    Raises McdoError for another image set: superclasses have to be stated for its classes.
    """
    if source.folder:
        return _cifar10_task(source, Path(source.folder))
    if source.images != "digits":
        raise McdoError(
            f"images {source.images!r}: the subtasks study runs on digits, or on CIFAR-10 with --cifar10=PATH"
        )
    return _digits_task(source)


def _digits_task(source: Source) -> Task:
    sizes, seed = source.digits, source.seed
    originals = load_images("digits", None, seed)
    heldout = load_images("digits", sizes.rounds * len(originals), seed)
    assert originals.labels is not None
    order = spread_order(originals.labels, seed)
    splits: dict[SplitName, ImageSet] = {"train": load_images("digits:train", sizes.train, seed)}
    starts = np.cumsum([0, *(round(share * len(order)) for share in _DIGIT_SHARES.values())])
    for name, start, stop in zip(_DIGIT_SHARES, starts[:-1], starts[1:], strict=True):
        chosen = {originals.origins[i] for i in order[start:stop]}
        members = [i for i, origin in enumerate(heldout.origins) if origin in chosen]
        splits[name] = heldout.select(members)  # type: ignore[index]
    shown = {name: through_noise(images, sizes.noise) for name, images in splits.items()}
    return Task("digits", heldout.class_names, LOOP, ("open", "closed loop"), splits, shown)


def _cifar10_task(source: Source, path: Path) -> Task:
    sizes, test = source.cifar10, cifar10(path, "test")
    pool = _distinct(cifar10(path, "train"), test)
    wanted = {"validation": sizes.validation, "calibration": sizes.calibration, "train": sizes.train}
    if sum(n or 1 for n in wanted.values()) > len(pool) or sizes.test > len(test):
        raise McdoError(
            f"{path} holds {len(pool)} distinct training images and {len(test)} test images, too few for {wanted} and "
            f"test {sizes.test}"
        )
    splits: dict[SplitName, ImageSet] = {"test": _spread(test, source.seed, 0, sizes.test)}
    start = 0
    for name, n in wanted.items():
        splits[name] = _spread(pool, source.seed, start, n)  # type: ignore[index]
        start += len(splits[name])  # type: ignore[index]
    return Task("cifar10", pool.class_names, ANIMAL, ("vehicle", "animal"), splits, splits)


def _distinct(pool: ImageSet, test: ImageSet) -> ImageSet:
    """The first image of each origin, but for those of the test images: no copy of one reaches another split."""
    seen, members = set(test.origins), []
    for i, origin in enumerate(pool.origins):
        if origin not in seen:
            seen.add(origin)
            members.append(i)
    return pool.select(members)


def _spread(images: ImageSet, seed: int, start: int, n: int | None) -> ImageSet:
    assert images.labels is not None
    order: NDArray[np.int64] = spread_order(images.labels, seed)
    return images.select(np.sort(order[start : None if n is None else start + n]))
