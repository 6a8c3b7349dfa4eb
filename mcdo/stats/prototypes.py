"""Classes without text: the mean feature of each (Snell et al. 2017), and the nearest neighbours, of the other half.

An encoder without a text tower has no zero-shot head, but where images are labelled their own features make one. So
that no image is read by itself, or by another version of its original, originals are halved within each class, and an
image is read by the half that it is not in. The scale of cosines, on which entropy depends, is that of the largest
likelihood of the half's own labels, each original left out of its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError
from mcdo.stats._checks import Array
from mcdo.stats.resampling import generator

NEIGHBOURS = 10
"""Fewer where the half is smaller."""
TEMPERATURE = 0.07
"""Of the votes of neighbours, by cosine (Wu et al. 2018)."""
SCALES = (1.0, 1000.0)
LEAST_ORIGINS = 2
"""Of a class that has a prototype: one in each half."""
MOST_UNNAMED = 0.05
"""Share of images, at most, that may be of other classes; no head names these, so they count as errors."""
LEAST_TO_SCALE = 4
"""Of some class: two in each half, one of which is left out."""
_ROWS = 1024


@dataclass(frozen=True)
class ClassHeads:
    """Logits of prototypes and log votes of neighbours, float64 [N, C] each, by ``classes`` [C] in ascending order."""

    classes: NDArray[np.int64]
    prototypes: Array
    neighbours: Array


def why_no_prototypes(labels: ArrayLike | None, origins: Sequence[str]) -> str:
    """Why images make no prototypes, or ""."""
    if labels is None:
        return "the images have no labels"
    counts = _origins_by_class(np.asarray(labels), np.asarray(origins))
    if len(counts) < 2:
        return "the images are of one class"
    unnamed = classes_without_prototype(labels, origins)
    if len(counts) - len(unnamed) < 2 or np.isin(labels, unnamed).mean() > MOST_UNNAMED:
        return (
            f"{len(unnamed)} of {len(counts)} classes have one original, and prototypes take {LEAST_ORIGINS} of each: "
            "show more images of each class, or leave these classes out"
        )
    if max(counts.values()) < LEAST_TO_SCALE:
        return f"no class has {LEAST_TO_SCALE} originals, of which cosines take their scale"
    return ""


def classes_without_prototype(labels: ArrayLike, origins: Sequence[str]) -> tuple[int, ...]:
    """Labels of classes of one original, which is in one half alone; ascending."""
    counts = _origins_by_class(np.asarray(labels), np.asarray(origins))
    return tuple(label for label, count in counts.items() if count < LEAST_ORIGINS)


def class_heads(
    features: ArrayLike, labels: ArrayLike, origins: Sequence[str], *, reference: ArrayLike | None = None, seed: int = 0
) -> ClassHeads:
    """Both heads, each image read by the half of the originals that it is not in.

    Args:
        features: of the images that are read, [N, D].
        labels: of their classes, [N]; the heads' are those of two originals.
        origins: the original of each image, [N].
        reference: of the same images, to be read by, such as those of clean ones where ``features`` are of degraded
            ones; [N, D]. None for ``features``.
        seed: of the halves.

    Raises:
        McdoError: for what :func:`why_no_prototypes` says.

    """
    reason = why_no_prototypes(labels, origins)
    if reason:
        raise McdoError(f"there are no class prototypes: {reason}")
    shown = _unit(np.asarray(features, dtype=np.float64))
    held = shown if reference is None else _unit(np.asarray(reference, dtype=np.float64))
    of = np.asarray(labels)
    classes = np.setdiff1d(of, classes_without_prototype(of, origins))
    named, index = np.isin(of, classes), np.searchsorted(classes, of)
    units = np.unique(np.asarray(origins), return_inverse=True)[1]
    second = _halves(np.unique(of, return_inverse=True)[1], units, seed)
    prototypes, neighbours = (np.empty((len(shown), len(classes))) for _ in range(2))
    for part in (second, ~second):
        rest = ~part & named
        mean = _Means(held[rest], index[rest], units[rest], len(classes))
        prototypes[part] = mean.scale() * shown[part] @ mean.unit.T
        neighbours[part] = _votes(shown[part], held[rest], index[rest], len(classes))
    return ClassHeads(classes, prototypes, neighbours)


def _halves(index: NDArray[np.intp], units: NDArray[np.intp], seed: int) -> NDArray[np.bool_]:
    """Whether an image is of the second half: originals alternate, in random order within the class of their first."""
    rng = generator(seed)
    names, first = np.unique(units, return_index=True)
    second = np.zeros(len(names), dtype=bool)
    for label in np.unique(index):
        of = rng.permutation(np.flatnonzero(index[first] == label))
        second[of[1::2]] = True
    return np.asarray(second[np.searchsorted(names, units)])


class _Means:
    """Mean unit features of classes, at norm one."""

    def __init__(self, held: Array, index: NDArray[np.intp], units: NDArray[np.intp], classes: int) -> None:
        self._held, self._index, self._units = held, index, units
        self._sums = np.zeros((classes, held.shape[1]))
        np.add.at(self._sums, index, held)
        self.unit = _unit(self._sums)

    def scale(self) -> float:
        """What cosines are multiplied with, of the largest likelihood with each original left out of its class."""
        from scipy.optimize import minimize_scalar

        cosines = self._held @ self.unit.T
        own, rows = np.empty(len(self._held)), np.ones(len(self._held), dtype=bool)
        for unit, label in {*zip(self._units.tolist(), self._index.tolist(), strict=True)}:
            mine = (self._units == unit) & (self._index == label)
            rest = self._sums[label] - self._held[mine].sum(axis=0)
            if (self._index == label).sum() == mine.sum():  # a class of this original alone
                rows[mine] = False
            else:
                own[mine] = self._held[mine] @ _unit(rest[None])[0]
        cosines[np.arange(len(cosines)), self._index] = own
        cosines, own = cosines[rows], own[rows]

        def loss(log_scale: float) -> float:
            scale = np.exp(log_scale)
            return float((scipy.special.logsumexp(scale * cosines, axis=1) - scale * own).mean())

        return float(np.exp(minimize_scalar(loss, bounds=np.log(SCALES), method="bounded").x))


def _votes(shown: Array, held: Array, index: NDArray[np.intp], classes: int) -> Array:
    """Log shares of the classes among the nearest, by weight; one neighbour more of no class, so that none is zero."""
    count = min(NEIGHBOURS, len(held))
    votes = np.zeros((len(shown), classes))
    for start in range(0, len(shown), _ROWS):
        cosines = shown[start : start + _ROWS] @ held.T
        near = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        weights = np.exp(np.take_along_axis(cosines, near, axis=1) / TEMPERATURE)
        weights /= weights.sum(axis=1, keepdims=True)
        np.add.at(votes[start : start + _ROWS], (np.arange(len(near))[:, None], index[near]), weights)
    return np.asarray(np.log((count * votes + 1 / classes) / (count + 1)))


def _origins_by_class(labels: NDArray[np.int64], origins: NDArray[np.str_]) -> dict[int, int]:
    return {int(label): len(np.unique(origins[labels == label])) for label in np.unique(labels)}


def _unit(features: Array) -> Array:
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.where(norm > 0, norm, 1.0))
