"""The sample behind the figures of one call: its images, their origins, and one set of resamples for all figures.

Figures that are computed in the same resamples are paired by construction: the interval of a difference holds what
its two terms share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mcdo.stats._checks import Array
from mcdo.stats.resampling import Estimate, Origins, Units, blockwise, check_resampling, percentile_estimate

Figures = Callable[[Array], Array]
"""F figures in each of R resamples, from the multiplicities of N images: [R, N] to [R, F]."""


class Sample:
    """``images`` images of ``n`` origins, and resamples of the origins.

    Raises:
        McdoError: as :meth:`~mcdo.stats.resampling.Units.of`, and for a senseless level or number of resamples.

    """

    def __init__(self, images: int, origins: Origins | None, seed: int, resamples: int, level: float) -> None:
        check_resampling(resamples, level)
        units = Units.of(origins, images)
        self.n, self.level, self._images = units.n, level, images
        self._units, self._resamples, self._seed = units, resamples, seed

    def both(self, figures: Figures, size: int = 0) -> tuple[Array, Array]:
        """``figures`` of the sample as it is [F], and of its resamples [R, F].

        ``size``: numbers that ``figures`` needs at once for one resample, where it does not bound its memory itself.
        """
        weights = self._units.multiplicities(self._resamples, self._seed)
        whole = figures(np.ones((1, self._images)))[0]
        return whole, blockwise(figures, weights, size) if size else figures(weights)

    def estimate(self, value: float, draws: Array) -> Estimate:
        """``value`` with the percentile interval of its ``draws`` [R]; NaN throughout where the value is undefined."""
        value = float(value)
        return percentile_estimate(value, np.full(1, math.nan) if math.isnan(value) else draws, self.n, self.level)

    def tested(self, value: float, draws: Array) -> tuple[Estimate, float]:
        """:meth:`estimate`, and p of "it is zero" by :func:`normal_p`."""
        return self.estimate(value, draws), normal_p(float(value), draws)

    @property
    def undefined(self) -> Estimate:
        """What an absent figure is."""
        return Estimate(math.nan, math.nan, math.nan, self.n, self.level)


def normal_p(value: float, draws: ArrayLike) -> float:
    """Two-sided p of "the true value is zero": the estimate over the standard error of its bootstrap ``draws``.

    Normal approximation. Counting draws beyond zero could give nothing below 2/(resamples + 1), which Holm over some
    dozens of tests would turn into nothing at all. NaNs are left out; a value of zero has p = 1, also without spread.
    """
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if math.isnan(value) or len(defined) < 2:
        return math.nan
    if value == 0:
        return 1.0
    with np.errstate(divide="ignore"):
        return float(2 * stats.norm.sf(abs(value) / defined.std(ddof=1)))
