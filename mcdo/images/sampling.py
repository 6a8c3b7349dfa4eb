"""Class-spread sampling: n images spread over the classes as evenly as the class sizes allow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A seeded order of all N images whose every prefix is spread over the classes.

    Round-robin: the classes take turns in a seeded order and each gives its images in a seeded order, so in the first
    n images two classes with images left differ by at most one. The choice for n is part of the choice for n + 1.
    ``labels`` int64 [N]; returns indices int64 [N].
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    classes = rng.permutation(int(labels.max(initial=-1)) + 1)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels, minlength=len(classes))
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.lexsort((classes[labels], turn)).astype(np.int64)
