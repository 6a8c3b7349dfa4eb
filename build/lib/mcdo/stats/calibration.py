"""Does a stated confidence come true? Calibration errors over bins, and two proper scores.

Bins are closed on the right, (lo, hi]; the first holds 0 as well, so confidence 0 and 1 both count. Empty bins weigh
nothing. Confidence outside [0, 1], NaN, empty input and unequal lengths are errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, finite, flags, images, numbers


@dataclass(frozen=True)
class ReliabilityDiagram:
    """Per bin, ``[bins]``: its edges, mean ``confidence`` and ``accuracy`` (both NaN if empty), and ``count``."""

    lower: Array
    upper: Array
    confidence: Array
    accuracy: Array
    count: NDArray[np.intp]

    @property
    def calibration_error(self) -> float:
        """Σ (count/N) |accuracy − confidence| over the bins that hold anything."""
        full = self.count > 0
        gap = np.abs(self.accuracy[full] - self.confidence[full])
        return float(gap @ self.count[full] / self.count.sum())


def reliability_diagram(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> ReliabilityDiagram:
    """``bins`` bins of equal width over [0, 1]; ``confidence`` [N], ``correct`` [N] of 0/1 or bool."""
    _check_bins(bins)
    return _diagram(confidence, correct, np.arange(bins + 1) / bins)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """ECE: mean gap between confidence and accuracy over equal-width bins (Naeini et al. 2015; Guo et al. 2017)."""
    return reliability_diagram(confidence, correct, bins).calibration_error


def adaptive_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """The same over bins of equal mass, cut at quantiles of the confidence (Nguyen & O'Connor 2015).

    Equal confidences share a bin, so heavy ties leave fewer bins and the order of images never matters.
    """
    _check_bins(bins)
    (values,) = images(1, confidence=confidence)
    cuts = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    return _diagram(confidence, correct, np.unique(np.concatenate([[0.0], cuts, [1.0]]))).calibration_error


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over images of Σ_c (p_c − [label = c])², for ``probabilities`` [N, C]: 0 to 2 (Brier 1950)."""
    p, truth = _distribution(probabilities, labels)
    return float(((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of −ln p(label) for ``probabilities`` [N, C]; infinite when a label was held impossible."""
    p, truth = _distribution(probabilities, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(p)), truth]).mean())


def _check_bins(bins: int) -> None:
    if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 1:
        raise McdoError(f"bins={bins!r}; give a whole number of at least 1")


def _diagram(confidence: ArrayLike, correct: ArrayLike, edges: Array) -> ReliabilityDiagram:
    values, outcome = images(1, confidence=confidence, correct=correct)
    outside = np.flatnonzero((values < 0) | (values > 1))
    if len(outside):
        raise McdoError(f"confidence {values[outside[0]]} at image {outside[0]} is outside [0, 1]; give probabilities")
    bins = len(edges) - 1
    # the first edge at or above the value closes its bin on the right
    at = np.searchsorted(edges[1:], values, side="left")
    count = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(at, values, bins) / count
        accuracy = np.bincount(at, flags("correct", outcome), bins) / count
    return ReliabilityDiagram(edges[:-1], edges[1:], mean, accuracy, count)


def _distribution(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
    p = numbers("probabilities", probabilities)
    if p.ndim != 2 or 0 in p.shape:
        raise McdoError(f"probabilities have shape {list(p.shape)}; give [N, C]")
    finite("probabilities", p, ("image", "class"))
    if (p < 0).any() or not np.allclose(p.sum(axis=1), 1, atol=1e-4):
        raise McdoError("probabilities must be at least 0 and sum to 1 over the classes of each image")
    (known,) = images(1, labels=labels)
    if len(known) != len(p) or not np.isin(known, np.arange(p.shape[1])).all():
        raise McdoError(f"labels must be {len(p)} class indices from 0 to {p.shape[1] - 1}")
    return p, known.astype(np.intp)
