"""Means, ratios of means, and medians over images, by the bootstrap over origins.

Values are [N], or [K, N] and then averaged over K trials first. Every image counts once, so an origin with more images
counts more. Noise that the images of a trial share (common masks, first-order probes) is part of an interval where
``shared_noise`` says so, see :mod:`mcdo.stats.trials`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from mcdo.stats._checks import Array
from mcdo.stats.resampling import Estimate, Origins, quotients
from mcdo.stats.sample import Figures, Sample
from mcdo.stats.trials import Resampled, Scores, infer


def mean(
    values: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The mean of ``values`` over images, N >= 2, with the percentile bootstrap over origins."""
    scores = Scores.of({"values": values}, shared_noise=shared_noise, least=2)
    sample = Sample(scores.means.shape[1], origins, seed, resamples, level)
    return _inferred(lambda x: lambda weights: weights @ x[0] / weights.sum(axis=1), scores, sample)


def ratio_of_means(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The mean over images of one quantity over that of another; NaN where that is zero."""
    named = {"numerator": numerator, "denominator": denominator}
    scores = Scores.of(named, shared_noise=shared_noise, least=2)
    sample = Sample(scores.means.shape[1], origins, seed, resamples, level)

    def ratio(rows: Array) -> Figures:
        return lambda weights: quotients(weights @ rows[0], weights @ rows[1], float(rows[1].sum()), level)

    return _inferred(ratio, scores, sample)


def median(
    values: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The median of ``values`` over images, the mean of the middle two where their number is even."""
    scores = Scores.of({"values": values}, shared_noise=shared_noise, least=2)
    sample = Sample(scores.means.shape[1], origins, seed, resamples, level)
    return _inferred(lambda rows: _middle(rows[0]), scores, sample, sample.images)


def median_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The median over images of one quantity over another that is nowhere zero."""
    named = {"numerator": numerator, "denominator": denominator}
    scores = Scores.of(named, shared_noise=shared_noise, least=2)
    sample = Sample(scores.means.shape[1], origins, seed, resamples, level)
    return _inferred(lambda rows: _middle(rows[0] / rows[1]), scores, sample, sample.images)


def _middle(values: Array) -> Figures:
    """The median of ``values`` [N] in resamples, [R, N] to [R]."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]

    def of(weights: Array) -> Array:
        below = np.cumsum(weights[:, order], axis=1)
        half = below[:, -1:] / 2
        places = (below >= half).argmax(axis=1), (below > half).argmax(axis=1)
        return np.asarray((ascending[places[0]] + ascending[places[1]]) / 2)

    return of


def _inferred(of: Callable[[Array], Figures], scores: Scores, sample: Sample, size: int = 0) -> Estimate:
    """A single figure, [R] in R resamples, of ``scores``."""

    def column(rows: Array) -> Figures:
        figure = of(rows)
        return lambda weights: figure(weights)[:, None]

    return infer(Resampled(sample, column, size=size), scores)[0].estimate
