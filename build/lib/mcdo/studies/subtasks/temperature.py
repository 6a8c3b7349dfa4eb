"""Temperature scaling: logits are divided by one number T, fitted on the calibration split only (Guo et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import expected_calibration_error
from mcdo.studies.subtasks.splits import CalibrationSplit, Predictions

By = Literal["nll", "ece"]
BOUNDS = (0.05, 20.0)
# The document searches 0.5, 1.0, 1.5, 2.0, 2.5 and reports 1.431 and 1.504, which are not among them: a finer grid
# over the same range.
ECE_GRID = np.round(np.arange(0.5, 2.5001, 0.01), 2)


@dataclass(frozen=True)
class Temperature:
    """``value`` T; ``at_bound`` when the calibration split does not determine it (all of it right, say)."""

    value: float
    by: By
    n: int
    at_bound: bool

    def probabilities(self, predictions: Predictions[Any]) -> NDArray[np.float64]:
        """Softmax of logits / T, float64 [N, C]; ranks of classes never change."""
        return np.asarray(scipy.special.softmax(predictions.logits / self.value, axis=1))


UNSCALED = Temperature(1.0, "nll", 0, False)


def fit_temperature(held_out: Predictions[CalibrationSplit], by: By = "nll", bins: int = 15) -> Temperature:
    """The T that minimises the negative log-likelihood, or the ECE as the document does, on the calibration split.

    By NLL: Brent's method on ln T within ``BOUNDS``; the NLL is convex in 1/T, so there is one minimum. By ECE: the
    best of ``ECE_GRID``, of equals the one nearest to 1. Raises McdoError for any other split.
    """
    if not isinstance(held_out.split, CalibrationSplit):
        raise McdoError(
            f"a temperature may not be fitted on a {type(held_out.split).__name__}; give the CalibrationSplit"
        )
    logits, labels = held_out.logits, held_out.split.labels
    value, bounds = (
        (_by_nll(logits, labels), BOUNDS)
        if by == "nll"
        else (_by_ece(logits, labels, bins), (ECE_GRID[0], ECE_GRID[-1]))
    )
    at_bound = bool(value < bounds[0] * 1.01 or value > bounds[1] / 1.01)
    return Temperature(value, by, len(labels), at_bound)


def _by_nll(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    rows = np.arange(len(labels))

    def nll(log_t: float) -> float:
        return float(-scipy.special.log_softmax(logits / math.exp(log_t), axis=1)[rows, labels].mean())

    low, high = (math.log(bound) for bound in BOUNDS)
    found = scipy.optimize.minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    return math.exp(float(found.x))


def _by_ece(logits: NDArray[np.float64], labels: NDArray[np.int64], bins: int) -> float:
    correct = logits.argmax(axis=1) == labels
    below = logits - logits.max(axis=1, keepdims=True)
    errors = [expected_calibration_error(1 / np.exp(below / t).sum(axis=1), correct, bins) for t in ECE_GRID]
    order = np.lexsort((np.abs(np.log(ECE_GRID)), np.round(errors, 12)))
    return float(ECE_GRID[order[0]])
