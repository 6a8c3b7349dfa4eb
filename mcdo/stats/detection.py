"""Does the score pick out the images that it should? The area under the ROC curve.

Its interval is DeLong's (1988) on the logit scale, in Obuchowski's form for clusters (1997): every positive image has
the share of negatives below it, every negative the share of positives above it (equal ones half), and the deviations of
these from the area, summed over each origin, are what origins contribute. An origin draws the area towards itself, so
its sum is divided by the share of its class that is left without it: with as many images in each that is Obuchowski's
n/(n - 1). The critical value is Student's, with degrees of freedom from the numbers of origins with positives and with
negatives (Satterthwaite 1946), Kish's (1965) where they differ in size. Two classes that are wholly apart leave no
variance; the interval is then the score interval with Hanley & McNeil's variance (Newcombe 2006, method 5) at the
numbers of origins.

Fewer than ``LEAST_CLASS`` origins with positives, or with negatives, are too few: the interval is NaN, the outcome
"undecided". Coverage of the 95 % interval in simulation (positives as spread as negatives, twice and half as much; 100
and 450 negatives; areas .5, .6, .8): .94–.98 with 10 to 50 positives, .91–.98 with 8, .87–.97 with 5, .85–.95 with 3;
the percentile bootstrap covered .64 with 2 and .80 with 5. Differences of two areas, also of two directed ones: .91–.99
with 10 to 50. Origins of five images: .92–.96 with 20 positive origins or more, .87–.94 with 10 to 15; origins of very
unequal sizes .93–.98, and .98–1.00 where one has three quarters of the images (.60–.83 without the share left). Areas
of .95 are covered less well, .91–.97 with 50 positives and .75–.97 with 10 to 20: deviations from a high area are few
and large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, flags, images
from mcdo.stats.ranks import ordered
from mcdo.stats.resampling import Estimate, Origins, Units
from mcdo.stats.sample import Inferred, Sample
from mcdo.stats.trials import Scores, infer

LEAST_CLASS = 10
"""Origins with positive images, and with negative ones, that an area needs for an interval."""


def auroc(
    score: ArrayLike,
    positive: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    level: float = 0.95,
) -> Estimate:
    """P(score of a positive > score of a negative) + P(equal)/2, the area under the ROC curve (Hanley & McNeil 1982).

    ``score`` [N] or [K, N], ``positive`` [N] of 0/1 or bool. One class only: NaN. Interval: see the module.
    """
    scores = Scores.of({"score": score}, shared_noise=shared_noise, least=1)
    truth = flags("positive", images(1, score=scores.means[0], positive=positive)[1])
    sample = Sample(len(truth), origins, level=level)
    return infer(Areas(sample, truth[None]), scores)[0].estimate


def auroc_high(score: ArrayLike, target: ArrayLike, quantile: float = 0.9, **options: Any) -> Estimate:
    """AUROC of ``score`` for ``target`` at or above its own quantile (linear interpolation), as the sample sets it."""
    (target,) = images(1, target=target)
    _check_quantile(quantile)
    return auroc(score, target >= np.quantile(target, quantile), **options)


def auroc_low(score: ArrayLike, target: ArrayLike, quantile: float = 0.1, **options: Any) -> Estimate:
    """AUROC of ``score`` for ``target`` at or below its own quantile (linear interpolation), as the sample sets it."""
    (target,) = images(1, target=target)
    _check_quantile(quantile)
    return auroc(score, target <= np.quantile(target, quantile), **options)


def _check_quantile(quantile: Any) -> None:
    if not 0 <= arguments.real("quantile", quantile) <= 1:
        raise McdoError(f"quantile {quantile!r}; give a share between 0 and 1, such as 0.9")


@dataclass(frozen=True, eq=False)
class Components:
    """An area with what each of n origins contributes to its error by positive and by negative images, [n] each."""

    area: float
    positive: Array
    negative: Array

    def less(self, other: Components) -> Components:
        """The difference to another area for the same positives."""
        return Components(self.area - other.area, self.positive - other.positive, self.negative - other.negative)

    def reversed(self) -> Components:
        """The area of the score read the other way."""
        return Components(1 - self.area, -self.positive, -self.negative)


def components(score: Array, positive: NDArray[np.bool_], members: NDArray[np.intp], n: int) -> Components:
    """Structural components of the area, summed over origins; area NaN for one class only.

    Of a positive image: the share of negatives below it less the area, over the number of positives; of a negative
    image the share of positives above it less the area, over the number of negatives.
    """
    P, N = int(positive.sum()), int((~positive).sum())
    if not P or not N:
        return Components(math.nan, np.zeros(n), np.zeros(n))
    order, edges = ordered(score)
    group = np.empty(len(score), dtype=np.intp)  # of equal scores, of which half count as below
    group[order] = np.arange(len(edges) - 1).repeat(np.diff(edges))
    positives, negatives = (np.bincount(group[which], minlength=len(edges) - 1) for which in (positive, ~positive))
    above = ((negatives.cumsum() - negatives / 2) / N)[group[positive]]
    below = (1 - (positives.cumsum() - positives / 2) / P)[group[~positive]]
    area = float(above.mean())
    summed = (
        np.asarray(np.bincount(members[which], (shares - area) / len(shares), n), dtype=np.float64)
        for which, shares in ((positive, above), (~positive, below))
    )
    return Components(area, *summed)


class Areas:
    """Areas of each of S scores for each of ``positive`` [P, N], score by score."""

    bounds = (0.0, 1.0)

    def __init__(self, sample: Sample, positive: NDArray[np.bool_]) -> None:
        self.sample, self.positive = sample, positive

    def values(self, scores: Array) -> Array:
        """The areas [S P] of ``scores`` [S, N]."""
        return np.array([self._components(score, truth).area for score in scores for truth in self.positive])

    def inferred(self, scores: Array) -> list[Inferred]:
        """The same with intervals."""
        return [
            inferred_area(self._components(score, truth), truth, self.sample, logit=True)
            for score in scores
            for truth in self.positive
        ]

    def _components(self, score: Array, truth: NDArray[np.bool_]) -> Components:
        return components(score, truth, self.sample.units.members, self.sample.n)


def inferred_area(of: Components, positive: NDArray[np.bool_], sample: Sample, *, logit: bool) -> Inferred:
    """An area or a difference of areas with its interval over origins, on the ``logit`` scale or as it is."""
    m, k = _origins_of(positive, sample.units)
    if reason := too_few_of_a_class(positive, sample.units, "positives", "negatives"):
        return Inferred(Estimate(of.area, math.nan, math.nan, sample.n, sample.level, reason), math.nan)
    (above, free), (below, others_free) = (
        _moved(part, which, sample.units) for part, which in ((of.positive, positive), (of.negative, ~positive))
    )
    first, second = float(above @ above), float(below @ below)
    error = math.sqrt(float(np.square(above + below).sum()))
    freedom = (first + second) ** 2 / (first**2 / free + second**2 / others_free) if first + second > 0 else math.inf
    reach = error * float(scipy.special.stdtrit(freedom, (1 + sample.level) / 2))
    if not logit:
        low, high = of.area - reach, of.area + reach
    elif error > 0:
        place, slope = scipy.special.logit(of.area), of.area * (1 - of.area)
        low, high = (float(scipy.special.expit(place + side * reach / slope)) for side in (-1, 1))
    else:
        low, high = wholly_apart(of.area, m, k, sample.level)
    return Inferred(Estimate(of.area, low, high, sample.n, sample.level), error, freedom)


def _moved(part: Array, which: NDArray[np.bool_], units: Units) -> tuple[Array, float]:
    """By how much the area moves without each origin's images ``which``, [n], scaled so that the squares add up to the
    variance; and the degrees of freedom of that.
    """
    sizes = np.bincount(units.members[which], minlength=units.n)
    total, c = sizes.sum(), np.count_nonzero(sizes)
    return part * total / (total - sizes) * math.sqrt((c - 1) / c), max(1.0, total**2 / float(sizes @ sizes) - 1)


def too_few_of_a_class(positive: NDArray[np.bool_], units: Units, of: str, other: str) -> str:
    """Why there is no interval, or "": each class needs :data:`LEAST_CLASS` origins."""
    m, k = _origins_of(positive, units)
    if min(m, k) >= LEAST_CLASS:
        return ""
    return f"{m} origins with {of} and {k} with {other}; an interval needs {LEAST_CLASS} of either"


def _origins_of(positive: NDArray[np.bool_], units: Units) -> tuple[int, int]:
    """Numbers of origins with positives and with negatives."""
    return units.among(positive), units.among(~positive)


def wholly_apart(area: float, m: int, k: int, level: float) -> tuple[float, float]:
    """Interval of an area without variance: 0 or 1, classes wholly apart, or 1/2, a constant score."""
    if 0 < area < 1:
        return area, area
    z2, mean = float(scipy.special.ndtri((1 + level) / 2)) ** 2, (m + k) / 2

    def short(theta: float) -> float:
        """(1 − θ)² less z² Hanley & McNeil's variance at θ, divided by 1 − θ."""
        variance = theta * (1 + (mean - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * k)
        return 1 - theta - z2 * variance

    low = float(scipy.optimize.brentq(short, 0, 1))
    return (low, 1.0) if area == 1 else (0.0, 1 - low)
