"""The sample behind the figures of one call: its images, their origins, and one set of resamples for all figures.

Figures that are computed in the same resamples are paired by construction: the interval of a difference holds what
its two terms share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

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
_MOST_LENGTHENED = 1000  # origins whose size is reckoned with, the largest: those of the others are alike


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
        return self.inferred(value, draws).estimate

    def inferred(self, value: float, draws: Array) -> Inferred:
        """:meth:`estimate`, with the spread of the draws as its error; neither from too few origins."""
        return resampled(value, draws, self.n, self.level, self._lengthened(draws))

    @cached_property
    def _drawn(self) -> Drawn:
        return Drawn.of(self.units, self.units.in_blocks(self._resamples, self._seed))

    def _lengthened(self, draws: Array) -> float:
        return lengthened(draws, [self._drawn]) if uneven(self.units) and len(draws) == self._resamples else 1.0

    def undefined(self, reason: str = "") -> Inferred:
        """What an absent figure is."""
        return Inferred(Estimate(math.nan, math.nan, math.nan, self.n, self.level, reason), math.nan)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Of the largest of ``n`` origins, at most :data:`_MOST_LENGTHENED`: their ``shares`` of the images [M], and how
    often each is in each resample, ``counts`` [R, M].
    """

    shares: Array
    counts: Array
    n: int

    @classmethod
    def of(cls, units: Units, weights: Iterable[Array]) -> Drawn:
        """From the multiplicities of the images, [R, N] in blocks of resamples."""
        _, first, sizes = np.unique(units.members, return_index=True, return_counts=True)
        largest = np.argsort(-sizes, kind="stable")[:_MOST_LENGTHENED]
        counts = np.concatenate([block[:, first[largest]] for block in weights])
        return cls(sizes[largest] / len(units.members), counts, units.n)


def uneven(units: Units) -> bool:
    """Whether origins have different numbers of images."""
    return len(set(np.bincount(units.members).tolist())) > 1


def lengthened(draws: Array, samples: Sequence[Drawn]) -> float:
    """By how much the spread of ``draws`` [R] is too small for origins of unequal sizes in ``samples``, at least 1.

    A figure lies nearer to an origin than it would without it, the nearer the larger the origin's share w of the
    images; leaving it out moves the figure by its influence over 1 − w, and the squares of that are the jackknife's
    variance. Influence is the covariance of the draws with how often the origin was drawn (Efron 2014), less what its
    square has by chance. Exactly 1 where all origins have as many images.
    """
    held = np.isfinite(draws)
    if held.sum() < 2:
        return 1.0
    moved = of_order_one(draws[held] - draws[held].mean())[0]
    variance = float(moved @ moved) / len(moved)
    if not variance > 0:
        return 1.0
    more = 0.0
    for each in samples:
        counts = each.counts if held.all() else each.counts[held]  # which are large: no copy where none is needed
        influence = (moved @ counts - moved.sum()) / len(moved)
        larger = ((1 - 1 / each.n) / (1 - each.shares)) ** 2 - 1
        more += float((influence**2 - variance / len(moved)) @ larger)
    return math.sqrt(max(1.0, 1 + more / variance))


def resampled(value: float, draws: Array, n: int, level: float, longer: float = 1.0) -> Inferred:
    """``value`` with the percentile interval of its ``draws`` [R] from n units, and their spread as its error, both
    ``longer``; a spread of n units about their own mean is short by √((n − 1)/n), and has n − 1 degrees of freedom.

    NaN throughout where the value is undefined; no interval and no error from too few units.
    """
    value = float(value)
    estimate = percentile_estimate(value, np.full(1, math.nan) if math.isnan(value) else draws, n, level, longer)
    if n < LEAST_UNITS:
        return Inferred(estimate, math.nan)
    return Inferred(estimate, spread(draws) * longer * math.sqrt(n / (n - 1)), n - 1)


def spread(draws: ArrayLike) -> float:
    """Standard deviation of the defined ``draws``; NaN for fewer than two, or if one is infinite."""
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if len(defined) < 2 or not np.isfinite(defined).all():
        return math.nan
    scaled, exponent = of_order_one(defined)
    return float(np.ldexp(scaled.std(ddof=1), exponent))
