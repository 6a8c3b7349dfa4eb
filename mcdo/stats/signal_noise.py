"""Signal and noise of scores [K, N], and what is known of their ratio: a bootstrap-t on log SNR over sampled units.

signal = Var_i(mean_k) and noise = mean_i Var_k are means of per-image moments, so a thousand resamples, each with its
own standard error, are two matrix products. The studentised bootstrap (Efron 1982) is second-order exact (Hall 1988),
which a variance needs: its error is skewed, and is itself estimated from the few images that carry it.
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, places_of_pairs
from mcdo.stats.confidence import Confidence
from mcdo.stats.resampling import Units, multiplicities, quantiles

_ROUNDING = 1e-12  # of the sample's signal, which is one: a resample of one image only has none
_TAIL = 0.975  # where the bootstrap-t is read; Student's t takes it to other levels


def signal_noise(scores: Array) -> tuple[float, float]:
    """Var_i(mean_k) and mean_i Var_k, exactly 0 for equal scores: deviations from a score carry no rounding."""
    if len(scores) == 1:
        return float((scores[0] - scores[0, 0]).var(ddof=1)), math.nan
    within = scores - scores[0]
    means = within.mean(axis=0) + (scores[0] - scores[0, 0])
    return float((means - means[0]).var(ddof=1)), float(within.var(axis=0, ddof=1).mean())


def icc_from_snr(snr: float, n_trials: int) -> float:
    """ICC(1) = (K SNR − 1)/(K SNR + K − 1): the ANOVA formula divided through by the noise; NaN for K = 1.

    Raises:
        McdoError: for an SNR below 0, which no ratio of variances is; one corrected for noise is not meant.

    """
    if snr < 0:
        raise McdoError(f"snr = {snr:g}: a ratio of variances is at least 0; give the SNR as it is, not snr_corrected")
    if math.isinf(snr):
        return 1.0
    return (n_trials * snr - 1) / (n_trials * snr + n_trials - 1) if n_trials > 1 else math.nan


def snr_from_icc(icc: float, n_trials: int) -> float:
    """Inverse of :func:`icc_from_snr`: ICC/(1 − ICC) + 1/K."""
    return odds_of(icc) + 1 / n_trials


def odds_of(share: float) -> float:
    """share/(1 − share)."""
    return math.inf if share >= 1 else share / (1 - share)


def snr_confidence(scores: Array, units: Units, shared: float, resamples: int, seed: int) -> Confidence:
    """Confidence in SNR; ``shared`` is the share of the noise that images of one trial have in common.

    Each arm is the standard error times the bootstrap's quantile of (estimate − value)/(standard error) over Student's
    at n − 1, both at 97.5 %. Limits then use Student's t at Satterthwaite's degrees of freedom of that standard error,
    2n/(κ − 1) for influence values of kurtosis κ and at most n − 1. No resample holds a unit more extreme than the
    sample's, so at 97.5 % the upper arm is longer by what one more unit like the most extreme one would add to the
    signal, the lower one by what it would add to the noise. (Signal of t3 images, K = 5 and 10: coverage .84–.89
    without, .90–.94 with one unit, .93–.96 with two, where that of log-normal images is .98–1.00.)
    """
    signal, noise = signal_noise(scores)
    n, sums = units.n, _unit_sums(scores, units)
    error = float(_log_ratio(np.ones((1, n)), sums)[1][0])
    drawn, errors = _log_ratio(multiplicities(n, resamples, seed), sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = drawn / errors  # the sums are scaled so that the sample itself has log ratio 0
    undefined = int(np.isnan(t).sum() + 1) // 2  # a resample without spread says nothing, so it counts on either side
    t = np.concatenate([t[~np.isnan(t)], np.full(undefined, -np.inf), np.full(undefined, np.inf)])
    low, high = quantiles(t, [1 - _TAIL, _TAIL]) / scipy.special.stdtrit(n - 1, _TAIL)
    influence = sums[2] - sums[3]
    kurtosis = n * float((influence**4).sum()) / float((influence**2).sum()) ** 2 if influence.any() else 1.0
    freedom = n - 1 if kurtosis <= 1 else max(1.0, min(n - 1, 2 * n / (kurtosis - 1)))
    t_limit = float(scipy.special.stdtrit(freedom, _TAIL))
    more_signal, more_noise = (math.log1p(float(part.max() / part.sum())) / t_limit for part in sums[2:])
    return Confidence(
        centre=math.log(signal / noise),
        below=error * max(0.0, float(high)) + more_noise,
        above=error * max(0.0, -float(low)) + more_signal,
        freedom=freedom,
        scale="log",
        trials=len(scores),
        shared=shared,
        signal=_signal_over_trials(scores, signal, units) if shared else 0.0,
    )


def _unit_sums(scores: Array, units: Units) -> Array:
    """Per unit: images, Σ m, Σ m², Σ s² of the images' standardised means m and variances s² of mean 1; [4, n]."""
    means, variances = scores.mean(axis=0), scores.var(axis=0, ddof=1)
    m = (means - means.mean()) / means.std()
    return units.sum(np.stack([np.ones_like(m), m, m**2, variances / variances.mean()]))


def _log_ratio(weights: Array, sums: Array) -> tuple[Array, Array]:
    """log(signal/noise) and its standard error where unit u occurs ``weights[r, u]`` times, [R] each.

    The influence of a unit is (Σ m² − 2μ Σ m + images μ²)/signal − (Σ s²)/noise, linear in its four sums, so its square
    needs only their products.
    """
    n = weights.shape[1]
    first, second = places_of_pairs(4, 0)
    found = weights @ np.concatenate([sums, sums[first] * sums[second]]).T  # at once: weights are read once
    (count, mean, square, noise), products = found[:, :4].T, found[:, 4:]
    mean, noise = mean / count, noise / count
    with np.errstate(divide="ignore", invalid="ignore"):
        signal = square / count - mean**2
        signal = np.where(signal > _ROUNDING, signal, 0.0)
        linear = np.stack([mean**2 / signal, -2 * mean / signal, 1 / signal, -1 / noise], axis=1)
        cells = np.where(first == second, 1, 2) * linear[:, first] * linear[:, second] * products
        error = np.sqrt(np.maximum(0.0, cells.sum(axis=1)) * n / (n - 1)) / count
        return np.log(signal / noise), error


def _signal_over_trials(scores: Array, signal: float, units: Units) -> float:
    """Variance of log signal through what trials share with the images' means: 2 cov(m, d_k)/signal, less chance."""
    K, N = scores.shape
    means = scores.mean(axis=0)
    cells = units.sum(2 * (scores - means) * (means - means.mean())) / (signal * N)
    excess = float((cells.sum(axis=1) ** 2).sum() - (cells**2).sum())
    return max(0.0, excess) / float(K * (K - 1))
