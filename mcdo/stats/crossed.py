"""A contrast seen in several units, each shown the same images: the mean over units and images that both were sampled.

A unit is whatever was made once and could have come out otherwise, such as a trained encoder. What a contrast between
two treatments of each unit is worth for other units follows from its spread over the units, and only from that; an
interval over images alone takes the units for all there are (the language-as-fixed-effect fallacy, Clark 1973).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, numbers
from mcdo.stats.comparison import Difference
from mcdo.stats.resampling import Estimate, check_resampling

_SMALLEST_P = 1e-100
"""Below it p is 0: Student's quantiles end there."""


def crossed_mean(values: ArrayLike, draws: ArrayLike, n: int, *, level: float = 0.95) -> Difference:
    """The mean of ``values`` [E] over E >= 2 units of one kind: :func:`crossed_contrast` with equal weights.

    Coverage of the 95 % interval in simulation, E = 4, N = 100, 2000 data sets: .94–.96, for units that differ by none
    to two standard errors of the image noise, and whether they share that noise or not; an interval over images alone
    covered .60–.94.
    """
    E = np.asarray(values).size
    return crossed_contrast(values, draws, np.full(E, 1 / max(E, 1)), [""] * E, n, level=level)


def crossed_contrast(
    values: ArrayLike, draws: ArrayLike, weights: ArrayLike, kinds: Sequence[str], n: int, *, level: float = 0.95
) -> Difference:
    """Σ w_e x_e over the E units of several kinds, with the spread of units within a kind and the image noise in it.

    Var = s² Σ w² + c. s² is the variance of the values within kinds, pooled over them, with E − kinds degrees of
    freedom; it holds the image noise of single units, less what units of a kind share of it. c is what that leaves of
    the contrast's own variance in the resamples of the images, w'Σw − Σ w² (d − o) for the mean variance d and the mean
    covariance o within a kind, at least 0 (two-way clusters, Cameron, Gelbach & Miller 2011). The arms of the two add
    in quadrature, t(E − kinds) · s √Σw² and z · √c (Howe 1974), and p is the level at which the interval touches zero.

    Args:
        values: the figure of each unit, [E].
        draws: the same in each resample of the images' origins, the same origins for all units: [R, E].
        weights: of the contrast, [E].
        kinds: the kind of each unit, of which two or more units are wanted.
        n: origins.
        level: of the interval.

    Raises:
        McdoError: for shapes that do not fit, one unit of a kind, no origins, or a level outside (0, 1).

    """
    check_resampling(1, level)
    n = arguments.whole("n", n, least=1)
    x, resampled, w = numbers("values", values), numbers("draws", draws), numbers("weights", weights)
    E = x.size
    groups = [np.flatnonzero(np.array(list(kinds)) == kind) for kind in dict.fromkeys(kinds)]
    if (
        x.ndim != 1 or resampled.ndim != 2 or resampled.shape[1] != E or w.shape != x.shape or len(kinds) != E
        or min(map(len, groups), default=0) < 2
    ):  # fmt: skip
        raise McdoError(
            f"values {list(x.shape)}, draws {list(resampled.shape)} and {len(kinds)} kinds: give [E] and [R, E], and "
            "two or more units of each kind; one unit says nothing about others"
        )
    freedom = E - len(groups)
    within = sum(float(np.square(x[group] - x[group].mean()).sum()) for group in groups) / freedom
    value, units, images = float(w @ x), within * float(w @ w), _of_images(resampled, w, groups)
    if not math.isfinite(value + units + images):
        return Difference(Estimate(math.nan, math.nan, math.nan, n, level), math.nan, math.nan)
    reach = math.sqrt(_reach2(1 - level, units, images, freedom))
    p = _p(value, units, images, freedom)
    return Difference(Estimate(value, value - reach, value + reach, n, level), p, p)


def _of_images(draws: Array, w: Array, groups: Sequence[NDArray[np.intp]]) -> float:
    """Image noise of the contrast that the spread within kinds does not hold; NaN without two whole rows."""
    whole = draws[np.isfinite(draws).all(axis=1)]
    if len(whole) < 2:
        return math.nan
    covariance = np.atleast_2d(np.cov(whole, rowvar=False))
    held = 0.0
    for group in groups:
        own, m = covariance[np.ix_(group, group)], len(group)
        shared = (own.sum() - np.trace(own)) / (m * (m - 1))
        held += float(w[group] @ w[group]) * float(np.trace(own) / m - shared)
    return float(np.maximum(0.0, float(w @ covariance @ w) - held))  # which NaN stays NaN in


def _reach2(p: float, units: float, images: float, freedom: int) -> float:
    """Square of an arm of the interval at level 1 − ``p``."""
    return float(scipy.special.stdtrit(freedom, p / 2) ** 2 * units + scipy.special.ndtri(p / 2) ** 2 * images)


def _p(value: float, units: float, images: float, freedom: int) -> float:
    if value == 0:
        return 1.0

    def beyond(log_p: float) -> float:
        return _reach2(math.exp(log_p), units, images, freedom) - value**2

    smallest = math.log(_SMALLEST_P)
    return math.exp(scipy.optimize.brentq(beyond, smallest, 0.0)) if beyond(smallest) > 0 else 0.0
