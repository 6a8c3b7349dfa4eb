"""Does a stated confidence come true? Calibration errors over bins.

Bins are closed on the right, (lo, hi]; the first holds 0 as well, so confidence 0 and 1 both count. Empty bins weigh
nothing. Confidence outside [0, 1], NaN, empty input and unequal lengths are errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, flags, images


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
    bins = arguments.whole("bins", bins, least=1)
    return _diagram(confidence, correct, np.arange(bins + 1) / bins)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """ECE: mean gap between confidence and accuracy over equal-width bins (Naeini et al. 2015; Guo et al. 2017)."""
    return reliability_diagram(confidence, correct, bins).calibration_error


def adaptive_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """The same over bins of equal mass, cut at quantiles of the confidence (Nguyen & O'Connor 2015).

    Equal confidences share a bin, so heavy ties leave fewer bins and the order of images never matters.
    """
    bins = arguments.whole("bins", bins, least=1)
    (values,) = images(1, confidence=confidence)
    cuts = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    return _diagram(confidence, correct, np.unique(np.concatenate([[0.0], cuts, [1.0]]))).calibration_error


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
