"""Calibration errors without the bias that finite bins give the plug-in estimate.

A perfectly calibrated model has an ECE above zero, because the accuracy of a bin of n images scatters by
√(acc (1 − acc) / n) and the ECE takes its absolute value. The squared error can be corrected without bias (Bröcker
2012; Kumar, Liang & Ma, "Verified uncertainty calibration", NeurIPS 2019). The absolute one cannot: no estimator of |μ|
from a normal observation is unbiased (Cai & Low 2011), and subtracting a resampled bias, as Kumar et al. do, keeps 59 %
of it where the model is calibrated. :func:`debiased_ece` pools the bins instead, and says what bias is left.

``origins`` [N] name the sampled unit behind each image. Errors of images of one origin go together, so a bin's accuracy
scatters more than its number of images says. Its variance is multiplied by the design effect (Kish 1965): the sum of
squares of the residuals' sums over origin and bin, relative to the residuals' own sum of squares, and at least 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from mcdo.stats._checks import Array
from mcdo.stats.calibration import reliability_diagram
from mcdo.stats.resampling import Origins, Units


def debiased_squared_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 15, origins: Origins | None = None
) -> float:
    """Σ_b (n_b/N) [(acc − conf)² − acc (1 − acc)/(n_b − 1)]: unbiased given the bins, so it can be below zero.

    ``confidence`` [N], ``correct`` [N] of 0/1 or bool. A bin with one image says nothing of its own scatter, and
    counts as 0. With ``origins`` the subtracted variance is multiplied by the design effect.
    """
    of = _Bins.of(confidence, correct, bins, origins)
    scatter = of.design_effect * of.accuracy * (1 - of.accuracy) / np.maximum(of.count - 1, 1)
    return float(np.where(of.count > 1, of.gap**2 - scatter, 0.0) @ of.weight)


def debiased_ece(confidence: ArrayLike, correct: ArrayLike, bins: int = 15, origins: Origins | None = None) -> float:
    """Expected Σ_b (n_b/N) |true gap of bin b| given the measured gaps: empirical Bayes over the bins (Efron & Morris).

    A measured gap is the true one plus noise whose variance is known under calibration, Σ conf (1 − conf)/n_b²; true
    gaps are normal with a part that all bins share (a model that is overconfident throughout) and a part of their own.
    Both variances are found by maximum likelihood, on a grid in steps of 8 %. Where they are zero the gaps are no
    larger than chance makes them, and so is the result. It is at most the plug-in, which errs upwards. A bin whose
    confidences are all 0 or 1 claims to have no noise, and counts in full.

    Bias left, simulated with 15 bins, 100 to 5000 images and three distributions of confidence: for a calibrated model
    13 to 26 % of the plug-in's (.012 of .069 where confidence is uniform and N = 300); for errors of .035 to .11, with
    either sign, at most 23 % of the error at N = 100, 20 % at N = 300 and 10 % from N = 1000 on.
    """
    of = _Bins.of(confidence, correct, bins, origins)
    mean, variance = _true_gaps(of.gap, of.noise)
    return float(min(_folded_mean(mean, np.sqrt(variance)) @ of.weight, np.abs(of.gap) @ of.weight))


@dataclass(frozen=True, eq=False)
class _Bins:
    """The bins that hold anything: ``count``, ``accuracy``, ``gap`` = accuracy − confidence, and ``noise``, the
    variance of the gap of a calibrated model.
    """

    count: Array
    accuracy: Array
    gap: Array
    noise: Array
    design_effect: float

    @property
    def weight(self) -> Array:
        """Share of the images."""
        return np.asarray(self.count / self.count.sum())

    @classmethod
    def of(cls, confidence: ArrayLike, correct: ArrayLike, bins: int, origins: Origins | None) -> _Bins:
        diagram = reliability_diagram(confidence, correct, bins)
        full = diagram.count > 0
        count, gap = diagram.count[full].astype(np.float64), (diagram.accuracy - diagram.confidence)[full]
        stated, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
        number = np.cumsum(full)[np.searchsorted(diagram.upper, stated, side="left")] - 1
        effect = _design_effect(right - stated - gap[number], number, origins)
        noise = effect * np.bincount(number, stated * (1 - stated)) / count**2
        return cls(count, diagram.accuracy[full], gap, noise, effect)


def _design_effect(residual: Array, number: np.ndarray, origins: Origins | None) -> float:
    """How much more sums over bins vary than if each image were a draw of its own; 1 where it is."""
    if origins is None or not residual.any():
        return 1.0
    units = Units.of(origins, len(residual))
    total = np.bincount(number * units.n + units.members, residual)
    return float(max(1.0, np.square(total).sum() / np.square(residual).sum()))


def _true_gaps(gap: Array, noise: Array) -> tuple[Array, Array]:
    """Posterior mean and variance of each bin's true gap, [B] each; ``gap`` itself and 0 where there is no noise."""
    mean, variance, noisy = gap.copy(), np.zeros_like(gap), noise > 0
    if not noisy.any():
        return mean, variance
    g, v = gap[noisy], noise[noisy]
    own, shared = _components(g, v)
    precision = 1 / (own + v)
    shared_variance = shared / (1 + shared * precision.sum())
    common, share = shared_variance * (g @ precision), own * precision
    mean[noisy] = common + share * (g - common)
    variance[noisy] = share * v + (1 - share) ** 2 * shared_variance
    return mean, variance


def _components(gap: Array, noise: Array) -> tuple[float, float]:
    """Maximum-likelihood variances of true gaps: each bin's own, and the one that all share. gap ~ N(0, own I + shared
    11ᵀ + diag(noise)), whose determinant and inverse follow from sums over bins.
    """
    grid = np.square(np.abs(gap).max() * np.concatenate([[0.0], np.geomspace(0.02, 1, 51)]))
    d = grid[:, None] + noise
    fixed = (np.log(d) + gap**2 / d).sum(1)[:, None]
    spread = 1 + grid * (1 / d).sum(1)[:, None]
    deviance = fixed + np.log(spread) - grid * np.square((gap / d).sum(1))[:, None] / spread
    own, shared = np.unravel_index(int(deviance.argmin()), deviance.shape)
    return float(grid[own]), float(grid[shared])


def _folded_mean(mean: Array, sd: Array) -> Array:
    """E|X| of a normal X (Leone, Nelson & Nottingham 1961)."""
    size = np.abs(mean)
    z = size / np.where(sd > 0, sd, 1.0)
    folded = 2 * sd * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) + size * (2 * scipy.special.ndtr(z) - 1)
    return np.asarray(np.where(sd > 0, folded, size))
