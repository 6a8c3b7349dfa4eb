"""Choices of images: spread over the classes as evenly as their sizes allow, and halves that share no origin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError

LEAST_TO_HALVE = 10
"""Origins that are needed for halves of which anything can be said."""


def spread_order(labels: NDArray[np.int64], seed: int, origins: Sequence[str] = ()) -> NDArray[np.int64]:
    """A seeded order of all N images whose every prefix is spread over the classes.

    Round-robin: the classes take turns in a seeded order and each gives its images in a seeded order, so in the first
    n images two classes with images left differ by at most one. The choice for n is part of the choice for n + 1.
    A class gives one image of each of its origins, then a second, and so on: the sampled unit is the origin.
    ``labels`` int64 [N]; ``origins`` [N], or empty where each image is its own; returns indices int64 [N].
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    classes = rng.permutation(int(labels.max(initial=-1)) + 1)
    if origins:
        units = np.unique(np.asarray(origins, dtype=object), return_inverse=True)[1].astype(np.int64)
        shuffled = shuffled[np.argsort(_occurrence(labels * len(units) + units, shuffled), kind="stable")]
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels, minlength=len(classes))
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.lexsort((classes[labels], turn)).astype(np.int64)


def _occurrence(groups: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of its group stand before each item of an order, [N]."""
    by_group = np.argsort(groups[order], kind="stable")
    held = groups[order][by_group]
    starts = np.flatnonzero(np.r_[True, held[1:] != held[:-1]]) if len(held) else np.zeros(0, dtype=np.int64)
    found = np.empty(len(order), dtype=np.int64)
    found[by_group] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return found


def second_half(origins: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Which images belong to the second of two halves of the origins, ``[N]``; the first is the smaller by one if odd.

    Origins are halved at random, whole: images of one are all in the same half, whatever their order.

    Raises:
        McdoError: for fewer origins than ``LEAST_TO_HALVE``.

    """
    names = sorted(set(origins))
    if len(names) < LEAST_TO_HALVE:
        raise McdoError(f"{len(names)} origins cannot be halved; give at least {LEAST_TO_HALVE}")
    order = np.random.default_rng(seed).permutation(len(names))
    second = {names[i] for i in order[len(names) // 2 :]}
    return np.array([origin in second for origin in origins])
