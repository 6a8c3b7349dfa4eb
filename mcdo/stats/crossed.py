"""A contrast seen in several units, each shown the same images: the mean over units and images that both were sampled.

A unit is whatever was made once and could have come out otherwise, such as a trained encoder. What a contrast between
two treatments of each unit is worth for other units follows from its spread over the units, and only from that; an
interval over images alone takes the units for all there are (the language-as-fixed-effect fallacy, Clark 1973).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, numbers
from mcdo.stats.comparison import Difference
from mcdo.stats.resampling import Estimate

_SMALLEST_P = 1e-100
"""Below it p is 0: Student's quantiles end there."""


def crossed_mean(values: ArrayLike, draws: ArrayLike, n: int, *, level: float = 0.95) -> Difference:
    """The mean of ``values`` [E] over E >= 2 units, with the spread over units and the noise of the images in it.

    Var(mean) = s²/E + c. s² is the variance of the values over units (ddof 1); it holds each unit's own image noise
    already, so that of the images adds only what the units share: c, the mean covariance between two units in the
    resamples of the images, at least 0 (two-way clusters, Cameron, Gelbach & Miller 2011). The arms of the two add in
    quadrature, t(E − 1) · √(s²/E) and z · √c (Howe 1974), and p is the level at which the interval touches zero.

    Coverage of the 95 % interval in simulation, E = 4, N = 100, 2000 data sets: .94–.96, for units that differ by none
    to two standard errors of the image noise, and whether they share that noise or not; an interval over images alone
    covered .60–.94.

    Args:
        values: the contrast in each unit.
        draws: the same in each resample of the images' origins, the same origins for all units: [R, E].
        n: origins.
        level: of the interval.

    """
    of_units, resampled = numbers("values", values), numbers("draws", draws)
    E = of_units.size
    if of_units.ndim != 1 or E < 2 or resampled.ndim != 2 or resampled.shape[1] != E:
        raise McdoError(
            f"values {list(of_units.shape)} and draws {list(resampled.shape)}: give [E] and [R, E] for E >= 2 units; "
            "one unit says nothing about others"
        )
    mean, units = float(of_units.mean()), float(of_units.var(ddof=1)) / E
    images = _shared(resampled)
    if math.isnan(mean) or math.isnan(images):
        return Difference(Estimate(math.nan, math.nan, math.nan, n, level), math.nan, math.nan)
    reach = math.sqrt(_reach2(1 - level, units, images, E))
    p = _p(mean, units, images, E)
    return Difference(Estimate(mean, mean - reach, mean + reach, n, level), p, p)


def _shared(draws: Array) -> float:
    """Mean covariance between two of the E columns of ``draws`` [R, E], at least 0; NaN without two whole rows."""
    whole = draws[~np.isnan(draws).any(axis=1)]
    if len(whole) < 2:
        return math.nan
    covariance, E = np.cov(whole, rowvar=False), draws.shape[1]
    return float(max(0.0, covariance.sum() - np.trace(covariance)) / (E * (E - 1)))


def _reach2(p: float, units: float, images: float, E: int) -> float:
    """Square of an arm of the interval at level 1 − ``p``."""
    return float(special.stdtrit(E - 1, p / 2) ** 2 * units + special.ndtri(p / 2) ** 2 * images)


def _p(mean: float, units: float, images: float, E: int) -> float:
    if mean == 0:
        return 1.0

    def beyond(log_p: float) -> float:
        return _reach2(math.exp(log_p), units, images, E) - mean**2

    smallest = math.log(_SMALLEST_P)
    return math.exp(optimize.brentq(beyond, smallest, 0.0)) if beyond(smallest) > 0 else 0.0
