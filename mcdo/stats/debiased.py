"""Calibration errors without the bias that finite bins give the plug-in estimate.

A perfectly calibrated model has an ECE above zero, because the accuracy of a bin of n images scatters by
√(acc (1 − acc) / n) and the ECE takes its absolute value. Source: Kumar, Liang & Ma, "Verified uncertainty calibration"
(NeurIPS 2019), who correct the squared error in closed form and the absolute one through a normal approximation;
Bröcker (2012) gives the same correction for the reliability part of the Brier score.
Both take the outcomes for independent: images that share an origin are under-corrected.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from mcdo.stats.calibration import ReliabilityDiagram, reliability_diagram


def debiased_squared_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Σ_b (n_b/N) [(acc − conf)² − acc (1 − acc)/(n_b − 1)]: unbiased given the bins, so it can be below zero.

    ``confidence`` [N], ``correct`` [N] of 0/1 or bool. A bin with one image says nothing of its own scatter, and
    counts as 0.
    """
    count, gap, accuracy = _full_bins(reliability_diagram(confidence, correct, bins))
    scatter = accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
    corrected = np.where(count > 1, gap**2 - scatter, 0.0)
    return float(corrected @ count / count.sum())


def debiased_ece(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """2·ECE − E[ECE of a resample], each bin's gap being normal with variance acc (1 − acc)/n_b.

    The expectation is that of a folded normal, in closed form, where Kumar et al. draw samples. Not clipped: at or
    below zero means no more miscalibration than chance gives.
    """
    count, gap, accuracy = _full_bins(reliability_diagram(confidence, correct, bins))
    spread = np.sqrt(accuracy * (1 - accuracy) / count)
    z = np.abs(gap) / np.where(spread > 0, spread, 1.0)
    folded = np.where(
        spread > 0, 2 * spread * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) + np.abs(gap) * (2 * ndtr(z) - 1), np.abs(gap)
    )
    return float((2 * np.abs(gap) - folded) @ count / count.sum())


def _full_bins(diagram: ReliabilityDiagram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    full = diagram.count > 0
    accuracy = diagram.accuracy[full]
    return diagram.count[full].astype(np.float64), accuracy - diagram.confidence[full], accuracy
