"""The sample behind the figures of one call: its images, their origins, and one set of resamples for all figures.

Figures that are computed in the same resamples are paired by construction: the interval of a difference holds what
its two terms share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from mcdo.stats._checks import Array, of_order_one
from mcdo.stats.resampling import (
    LEAST_UNITS,
    Estimate,
    Origins,
    Units,
    blockwise,
    check_resampling,
    percentile_estimate,
)

Figures = Callable[[Array], Array]
"""F figures in each of R resamples, from the multiplicities of N images: [R, N] to [R, F]."""


@dataclass(frozen=True)
class Inferred:
    """An estimate, with the standard error and the degrees of freedom of a test of it; normal where infinite."""

    estimate: Estimate
    error: float
    freedom: float = math.inf

    @property
    def p_value(self) -> float:
        """Two-sided p of "the true value is zero": Student's t of the value over its error.

        A value of zero has p = 1, also without error; an undefined value or error has none (NaN).
        """
        value = self.estimate.value
        if math.isnan(value) or math.isnan(self.error):
            return math.nan
        if value == 0:
            return 1.0
        return float(2 * scipy.special.stdtr(self.freedom, -abs(value) / self.error)) if self.error > 0 else 0.0


class Sample:
    """``images`` images of ``n`` origins, and resamples of the origins.

    Raises:
        McdoError: as :meth:`~mcdo.stats.resampling.Units.of`, and for a senseless level or number of resamples.

    """

    def __init__(
        self, images: int, origins: Origins | None, seed: int = 0, resamples: int = 1000, level: float = 0.95
    ) -> None:
        check_resampling(resamples, level)
        self.units = Units.of(origins, images)
        self.n, self.level, self.images = self.units.n, level, images
        self._resamples, self._seed = resamples, seed

    def both(self, figures: Figures, size: int = 0) -> tuple[Array, Array]:
        """``figures`` of the sample as it is [F], and of its resamples [R, F].

        ``size``: numbers that ``figures`` needs at once for one resample, where it does not bound its memory itself.
        """
        drawn = [
            blockwise(figures, weights, size) if size else figures(weights)
            for weights in self.units.in_blocks(self._resamples, self._seed)
        ]
        return self.whole(figures), np.concatenate(drawn)

    def whole(self, figures: Figures) -> Array:
        """``figures`` of the sample as it is [F]."""
        return np.asarray(figures(np.ones((1, self.images)))[0])

    def estimate(self, value: float, draws: Array) -> Estimate:
        """``value`` with the percentile interval of its ``draws`` [R]; NaN throughout where the value is undefined."""
        return resampled(value, draws, self.n, self.level).estimate

    def inferred(self, value: float, draws: Array) -> Inferred:
        """:meth:`estimate`, with the spread of the draws as its error; neither from too few origins."""
        return resampled(value, draws, self.n, self.level)

    def undefined(self, reason: str = "") -> Inferred:
        """What an absent figure is."""
        return Inferred(Estimate(math.nan, math.nan, math.nan, self.n, self.level, reason), math.nan)


def resampled(value: float, draws: Array, n: int, level: float) -> Inferred:
    """``value`` with the percentile interval of its ``draws`` [R] from n units, and their spread as its error.

    NaN throughout where the value is undefined; no interval and no error from too few units.
    """
    value = float(value)
    estimate = percentile_estimate(value, np.full(1, math.nan) if math.isnan(value) else draws, n, level)
    return Inferred(estimate, spread(draws) if n >= LEAST_UNITS else math.nan)


def spread(draws: ArrayLike) -> float:
    """Standard deviation of the defined ``draws``; NaN for fewer than two, or if one is infinite."""
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if len(defined) < 2 or not np.isfinite(defined).all():
        return math.nan
    scaled, exponent = of_order_one(defined)
    return float(np.ldexp(scaled.std(ddof=1), exponent))


def normal_p(value: float, draws: ArrayLike) -> float:
    """Two-sided p of "the true value is zero": the estimate over the standard error of its bootstrap ``draws``.

    Normal approximation. Counting draws beyond zero could give nothing below 2/(resamples + 1), which Holm over some
    dozens of tests would turn into nothing at all. NaNs are left out; a value of zero has p = 1, also without spread.
    """
    return Inferred(Estimate(float(value), math.nan, math.nan, 0), spread(draws)).p_value
