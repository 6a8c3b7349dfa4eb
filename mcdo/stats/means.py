"""How large is it? Means, ratios of means and medians over images, by the bootstrap over origins.

Values are [N], or [K, N] and then averaged over K trials first. Every image counts once, so an origin with more images
counts more. What trials share over images (common masks, first-order probes) is outside of the intervals.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from mcdo.stats._checks import Array
from mcdo.stats.resampling import Estimate, Origins
from mcdo.stats.sample import Figures, Sample
from mcdo.stats.trials import Scores


def mean(
    values: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The mean of ``values`` over images, N >= 2, with the percentile bootstrap over origins."""
    (x,) = Scores.of({"values": values}, shared_noise=False, least=2).means
    return _estimate(lambda weights: weights @ x / weights.sum(axis=1), Sample(len(x), origins, seed, resamples, level))


def ratio_of_means(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The mean over images of one quantity over that of another; NaN where that is zero."""
    named = {"numerator": numerator, "denominator": denominator}
    x, y = Scores.of(named, shared_noise=False, least=2).means

    def ratio(weights: Array) -> Array:
        below = weights @ y
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(below != 0, weights @ x / below, math.nan)

    return _estimate(ratio, Sample(len(x), origins, seed, resamples, level))


def median(
    values: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The median of ``values`` over images, the mean of the middle two where their number is even."""
    (x,) = Scores.of({"values": values}, shared_noise=False, least=2).means
    order = np.argsort(x, kind="stable")

    def middle(weights: Array) -> Array:
        below = np.cumsum(weights[:, order], axis=1)
        half = below[:, -1:] / 2
        places = (below >= half).argmax(axis=1), (below > half).argmax(axis=1)
        return np.asarray((x[order][places[0]] + x[order][places[1]]) / 2)

    return _estimate(middle, Sample(len(x), origins, seed, resamples, level), len(x))


def _estimate(figure: Figures, sample: Sample, size: int = 0) -> Estimate:
    """A single figure, [R, N] to [R]."""
    whole, draws = sample.both(lambda weights: figure(weights)[:, None], size)
    return sample.estimate(whole[0], draws[:, 0])
