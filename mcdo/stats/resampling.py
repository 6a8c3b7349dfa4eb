"""Estimates with intervals: bootstrap over origins, exact and score intervals for shares, permutation p, Holm.

The *origins* are the sample: an interval says what another draw of originals would have given. Variants of one
original (crops, degradations, frames) are one draw, so a resample takes all of them or none (Field & Welsh 2007);
where every image is an origin of its own this is the ordinary bootstrap over images. Rank statistics are resampled
without re-sorting: the mid-rank of a value in a resample is a cumulative sum of multiplicities in sorted order, so a
thousand resamples cost one sort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo import arguments
from mcdo.compiled import compiled, in_parts
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, finite, images, jsonable, numbers

Direction = Literal[">=", ">", "<=", "<"]
Origins = Sequence[str] | NDArray[Any]
"""The origin of each image, [N]: names or numbers; images with the same one are one draw."""
IntervalOutcome = Literal["met", "not met", "undecided"]
"""How a comparison of an interval with a bar ends."""
LEAST_UNITS = 5
"""Sampled units that an interval from resamples of them needs.

That of a normal mean covers .52, .75 and .79 with two to four, .82 with five and .90 with ten in simulation.
"""
MOST_HELD = 2**27
"""Multiplicities held at once (1 GB): a thousand resamples of a million images would be eight."""
_BLOCK = 320_000  # numbers held at once (2.5 MB): larger blocks fall out of the cache
_SMALL = 2**21  # numbers (16 MB) up to which the resamples of four samples are held, beyond which those of one
_THREADS_FROM = 300_000  # ranks, a millisecond or two: fewer are summed before threads have started


@dataclass(frozen=True)
class Estimate:
    """A value, its interval [low, high] at ``level``, and the number ``n`` of sampled units (origins) behind it.

    ``reason`` says why there is no interval, where more is to be said than that the figure is undefined.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    reason: str = ""

    def outcome(self, threshold: float, direction: Direction = ">=") -> IntervalOutcome:
        """Whether ``value <direction> threshold`` holds: "met" on the whole interval, "not met" on none of it.

        An interval that straddles the threshold, or is not defined, is "undecided".
        """
        if direction not in (">=", ">", "<=", "<"):
            raise McdoError(f"direction {direction!r}; give one of >=, >, <=, <")
        compare = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}[direction]
        if not np.isfinite(threshold) or np.isnan([self.low, self.high]).any():
            return "undecided"
        ends = {bool(compare(self.low, threshold)), bool(compare(self.high, threshold))}
        return "undecided" if len(ends) == 2 else "met" if ends.pop() else "not met"

    @property
    def has_interval(self) -> bool:
        """Whether both ends are numbers; either may be infinite."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def as_dict(self) -> dict[str, float | int | str | None]:
        """value, low, high, n, level, and the reason if there is one; a number that JSON cannot hold becomes None."""
        return {
            "value": jsonable(self.value),
            "low": jsonable(self.low),
            "high": jsonable(self.high),
            "n": self.n,
            "level": self.level,
            **({"reason": self.reason} if self.reason else {}),
        }

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> Estimate:
        """The inverse of :meth:`as_dict`: what JSON could not hold is infinite beside one known end, and NaN without.

        An interval that is not known has no end at all.
        """
        value, low, high = (math.nan if held[name] is None else float(held[name]) for name in ("value", "low", "high"))
        if math.isnan(low) != math.isnan(high):
            endless = math.inf if math.isnan(high) else -math.inf
            value, low, high = (endless if math.isnan(x) else x for x in (value, low, high))
        return cls(value, low, high, int(held["n"] or 0), held.get("level", 0.95), held.get("reason", ""))

    @property
    def decimals(self) -> int:
        """Digits behind the point that show the interval: two, or more where two would round its ends together."""
        width = self.high - self.low
        if not (np.isfinite(width) and width > 0):
            width = abs(self.value)
        return 2 if not np.isfinite(width) or width == 0 else int(np.clip(-np.floor(np.log10(width / 2)), 2, 12))

    @property
    def without_n(self) -> str:
        """As text, for where n stands elsewhere: ``0.42 [0.40, 0.44]``, with its level where that is not 95 %."""
        digits = self.decimals
        if self.has_interval:
            at = "" if self.level == 0.95 else f" at {100 * self.level:.5g} %"
            return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]{at}"
        what = "undefined" if math.isnan(self.value) else f"{self.value:.{digits}f}, no interval"
        return f"{what} ({self.reason})" if self.reason else what

    def __str__(self) -> str:
        return f"{self.without_n} n={self.n}"


def check_resampling(resamples: Any, level: Any) -> None:
    """Refuse a level outside (0, 1), and what is no whole number of resamples or fewer than one."""
    if not isinstance(level, Real) or not 0 < float(level) < 1:
        raise McdoError(f"level {level!r}; give a confidence level strictly between 0 and 1, such as 0.95")
    if isinstance(resamples, bool) or not isinstance(resamples, Integral) or resamples < 1:
        raise McdoError(f"resamples {resamples!r}; give a whole number of at least 1 (1000 is usual)")


def generator(seed: Any) -> np.random.Generator:
    """Of a seed that is one: of None, no figure would be the same again."""
    return np.random.default_rng(arguments.seed(seed))


def too_few(n: int) -> str:
    """Why resamples of n units make no interval."""
    return f"{n} originals; an interval needs {LEAST_UNITS}"


def quantiles(draws: ArrayLike, shares: ArrayLike) -> Array:
    """Quantiles of the defined ``draws`` (inverse empirical CDF, so infinite draws do no harm); NaN when none is."""
    defined = np.sort(np.asarray(draws, dtype=np.float64))
    defined = defined[~np.isnan(defined)]
    share = np.asarray(shares, dtype=np.float64)
    if not len(defined):
        return np.full(share.shape, np.nan)
    place = np.ceil(share * len(defined) - 1e-9).astype(int) - 1
    found: Array = defined[np.clip(place, 0, len(defined) - 1)]
    return found


def quotients(above: Array, below: Array, whole: float, level: float) -> Array:
    """``above / below`` in each resample, where ``below`` is ``whole`` in the sample as it is; NaN where that is zero.

    A quotient goes through infinity as its denominator goes through zero, and comes back with the other sign, so that
    percentiles could lie beside the value. A resample whose ``below`` has lost the sign of ``whole`` lies beyond that
    end; where the interval of ``below`` at ``level`` holds zero, that of the quotient has no ends (Fieller 1954).
    """
    if whole == 0:
        return np.full(np.shape(below), math.nan)
    lost = np.sign(below) != np.sign(whole)
    if lost.mean() > (1 - level) / 2:
        return np.resize([-math.inf, math.inf], np.shape(below))
    return np.where(lost, np.copysign(math.inf, above) * np.sign(whole), above / np.where(lost, 1.0, below))


def percentile_estimate(value: float, draws: ArrayLike, n: int, level: float, lengthened: float = 1.0) -> Estimate:
    """``value`` with the equal-tailed percentile interval of its bootstrap ``draws`` (Efron 1979).

    ``lengthened``: by how much its normal quantile is, as of an expanded percentile interval (Hesterberg 2015). None
    where fewer than :data:`LEAST_UNITS` units were drawn from.
    """
    if n < LEAST_UNITS:
        return Estimate(float(value), math.nan, math.nan, n, level, too_few(n))
    tail = float(scipy.special.ndtr(lengthened * scipy.special.ndtri((1 - level) / 2)))
    low, high = quantiles(draws, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high), n, level)


def bootstrap(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    origins: Origins | None = None,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    recentred: bool = False,
) -> Estimate:
    """Percentile bootstrap over origins of any ``statistic(*arrays)``; the last axis of every array is the images.

    The same images are drawn for all arrays. A resample in which the statistic is NaN (one class only, say) is left
    out of the interval, which SciPy's bootstrap cannot do. For figures that have no form of their own in this
    package: a call of ``statistic`` for each resample is slow.

    ``recentred`` moves the interval by the value less the mean of the draws: resampling adds once more the bias that a
    calibration error has from finite bins, and the interval of a debiased one would lie beside its value.
    """
    check_resampling(resamples, level)
    columns = [np.asarray(array) for array in arrays]
    sizes = {array.shape[-1] if array.ndim else 0 for array in columns}
    if len(sizes) != 1 or (n := sizes.pop()) < 2:
        raise McdoError(f"shapes {[a.shape for a in columns]}: the last axis must be the same >= 2 images in all")
    sample = Units.of(origins, n)
    by_unit = np.split(np.argsort(sample.members, kind="stable"), np.cumsum(np.bincount(sample.members))[:-1])

    def on(index: NDArray[np.intp]) -> float:
        return float(statistic(*(array[..., index] for array in columns)))

    rng = generator(seed)
    picks = (rng.integers(0, sample.n, sample.n) for _ in range(resamples))
    draws = np.array([on(np.concatenate([by_unit[unit] for unit in picked])) for picked in picks])
    value = on(np.arange(n))
    return percentile_estimate(value, draws - (np.nanmean(draws) - value) * recentred, sample.n, level)


@dataclass(frozen=True, eq=False)
class Units:
    """Which sampled unit each image belongs to: ``members`` [N] numbers the ``n`` units."""

    members: NDArray[np.intp]
    n: int

    @classmethod
    def of(cls, origins: Origins | None, images: int) -> Units:
        """From the origin of each image, [N]; None: every image is a unit of its own.

        Raises:
            McdoError: for another number of origins than images, images without one, or of one origin only.

        """
        if origins is None:
            return cls(np.arange(images), images)
        try:
            names = np.asarray(origins)
            unique, members = np.unique(names, return_inverse=True)
            # NaN, NaT and what is masked: all of them would count as one draw; among words NaN becomes "nan"
            given = names if isinstance(origins, np.ndarray) else np.asarray(origins, dtype=object)
            absent = np.flatnonzero(np.ma.getmask(origins) | (given != given))
        except (TypeError, ValueError) as error:  # None among names, ragged rows
            said = f"origins cannot be told apart ({error})"
            raise McdoError(f"{said}; give that of every image, all of them as text or as numbers") from None
        if names.shape != (images,):
            raise McdoError(f"origins have shape {list(names.shape)} for {images} images; give one per image")
        if len(absent):
            raise McdoError(f"image {absent[0]} has no origin ({len(absent)} of {images} have none); name the original")
        if len(unique) < 2:
            raise McdoError(f"all images are of one origin ({unique[0]}); an interval needs at least two")
        return cls(members, len(unique))

    @property
    def effective(self) -> float:
        """Kish's number of units (1965), N²/Σ m² for units of m images: n where all have as many, less where some have
        most of them.
        """
        return len(self.members) ** 2 / float((np.bincount(self.members) ** 2).sum())

    def among(self, which: NDArray[np.bool_]) -> int:
        """Of how many units the images ``which`` [N] are."""
        return int(np.count_nonzero(np.bincount(self.members[which])))

    def multiplicities(self, resamples: int, seed: int) -> Array:
        """How often each image occurs in each resample of the units, ``[resamples, N]``; read-only.

        Rows sum to N only where all units have as many images.
        """
        of = _of_four if resamples * len(self.members) <= _SMALL else _of_one
        return of(self.members.tobytes(), self.n, resamples, seed)

    def in_blocks(self, resamples: int, seed: int, images: int | None = None) -> Iterator[Array]:
        """:meth:`multiplicities`, of which no more is held at once than :data:`MOST_HELD` numbers, each time as many
        resamples; ``images``: of another set that is drawn beside it, if that has more.
        """
        N = len(self.members)
        step = max(1, MOST_HELD // max(N, images or 0))
        if resamples <= step:
            yield self.multiplicities(resamples, seed)
            return
        rng = generator(seed)
        for start in range(0, resamples, step):
            yield _drawn(self.members, self.n, min(step, resamples - start), rng)

    def sum(self, values: Array) -> Array:
        """Sum over the images of each unit, ``[..., N] -> [..., n]``."""
        order = np.argsort(self.members, kind="stable")
        if self.n == len(order):
            return np.asarray(np.take(values, order, axis=-1))
        starts = np.searchsorted(self.members[order], np.arange(self.n))
        return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))

    def mean(self, values: Array) -> Array:
        """Mean over the images of each unit, ``[..., N] -> [..., n]``."""
        return self.sum(values) / np.bincount(self.members, minlength=self.n)


def _multiplicities(members: bytes, n: int, resamples: int, seed: int) -> Array:
    return _drawn(np.frombuffer(members, dtype=np.intp), n, resamples, generator(seed))


def _drawn(members: NDArray[np.intp], n: int, resamples: int, rng: np.random.Generator) -> Array:
    """The next resamples of ``rng``, which are the same however many are drawn at once."""
    found = np.empty((resamples, len(members)))
    step = max(1, _BLOCK // n)
    for start in range(0, resamples, step):
        part = found[start : start + step]
        cells = rng.integers(0, n, size=(len(part), n)) + n * np.arange(len(part))[:, None]
        counts = np.bincount(cells.ravel(), minlength=len(part) * n).reshape(len(part), n)
        np.take(counts.astype(np.float64), members, axis=1, out=part, mode="clip")  # "raise" holds a copy
    found.setflags(write=False)
    return found


_of_one, _of_four = (lru_cache(size)(_multiplicities) for size in (1, 4))
"""Figures that compare samples, or resample images and noise alike, ask for several in turn."""


def multiplicities(n: int, resamples: int, seed: int) -> Array:
    """:meth:`Units.multiplicities` of ``n`` images that are units of their own."""
    return Units.of(None, n).multiplicities(resamples, seed)


def blockwise(of: Callable[[Array], Array], weights: Array, size: int) -> Array:
    """``of(weights)``, computed over blocks of resamples that need about ``size`` numbers each, to bound memory."""
    step = max(1, _BLOCK // size)
    return np.concatenate([of(weights[start : start + step]) for start in range(0, len(weights), step)])


def rank_covariance(rows: Array, weights: Array) -> Array:
    """Sums of products of centred mid-ranks between the M ``rows`` [M, N], in each resample: ``[R, M, M]``.

    ``weights`` [R, N] are multiplicities that sum to S. With groups of tied values in ascending order, G_j the
    multiplicity of group j and C_j = G_1 + … + G_j, the members of group j share the rank C_j − (G_j − 1)/2; the mean
    of all ranks is (S + 1)/2. Exact, in whatever order it is added up: all terms are multiples of 1/4 far below 2^53.
    """
    order = np.argsort(rows, axis=1, kind="stable")
    ascending = np.take_along_axis(rows, order, axis=1)
    last = np.ones(rows.shape, dtype=np.bool_)  # of its group
    np.not_equal(ascending[:, 1:], ascending[:, :-1], out=last[:, :-1])
    found = np.empty((len(weights), len(rows), len(rows)))
    short, held = order.astype(np.int32), np.ascontiguousarray(weights, dtype=np.float64)

    def add(part: slice) -> None:
        _add_rank_products(short, last, held[part], found[part])

    if held.size * len(rows) < _THREADS_FROM:
        add(slice(None))
    else:
        add(slice(0))  # compiles it, once for all threads
        in_parts(add, len(held))
    return found


@compiled(fastmath={"reassoc", "contract"})
def _add_rank_products(order: NDArray[np.int32], last: NDArray[np.bool_], weights: Array, found: Array) -> None:
    """A resample at a time, so that its ranks stay in the cache."""
    rows, images = order.shape
    ranks, weighted, untied = np.empty((rows, images)), np.empty(images), np.empty(rows, dtype=np.bool_)
    for row in range(rows):
        untied[row] = last[row].all()
    for draw in range(len(weights)):
        weight = weights[draw]
        half = 0.5 * weight.sum()
        for row in range(rows):
            mine, at, ends = ranks[row], order[row], last[row]
            below, mass, start = -half, 0.0, 0
            if untied[row]:  # as below, in half the time
                for place in range(images):
                    mass = weight[at[place]]
                    mine[at[place]] = below + 0.5 * mass
                    below += mass
                continue
            for place in range(images):
                mass += weight[at[place]]
                if ends[place]:
                    for tied in range(start, place + 1):
                        mine[at[tied]] = below + 0.5 * mass
                    below += mass
                    mass, start = 0.0, place + 1
        for one in range(rows):
            for image in range(images):
                weighted[image] = weight[image] * ranks[one, image]
            for other in range(0, one + 1, 2):  # two at once: half as many reads
                beside = min(other + 1, one)
                product, second = 0.0, 0.0
                for image in range(images):
                    product += weighted[image] * ranks[other, image]
                    second += weighted[image] * ranks[beside, image]
                found[draw, one, other] = found[draw, other, one] = product
                found[draw, one, beside] = found[draw, beside, one] = second


def correlation(covariance: Array) -> Array:
    """Correlation matrices from covariance matrices ``[..., M, M]``; NaN beside a constant row."""
    variance = np.einsum("...ii->...i", covariance)
    with np.errstate(invalid="ignore"):
        return np.asarray(covariance / np.sqrt(variance[..., :, None] * variance[..., None, :]))


def permutation_p(
    observed: float, null: ArrayLike, alternative: Literal["greater", "less", "two-sided"], size: float = 0.0
) -> float:
    """Permutation p with the +1 rule, (1 + #{null at least as extreme}) / (1 + B): never zero.

    Two-sided is twice the smaller side, at most 1; NaN where nothing is ``observed``. What differs by rounding is
    equal: by that of the figures given, or of numbers of ``size`` that they are differences of. Source: Phipson & Smyth
    2010.
    """
    (draws,) = images(null=null)
    slack = 1e-12 * max(size, abs(observed), float(np.abs(draws).max()))
    greater = (1 + np.sum(draws >= observed - slack)) / (1 + len(draws))
    less = (1 + np.sum(draws <= observed + slack)) / (1 + len(draws))
    sides = {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}
    if alternative not in sides:
        raise McdoError(f"alternative {alternative!r}; give one of {', '.join(sides)}")
    return math.nan if math.isnan(observed) else float(sides[alternative])


def proportion(
    successes: int, n: int, *, level: float = 0.95, method: Literal["wilson", "exact"] = "wilson"
) -> Estimate:
    """A share with Wilson's score interval (1927), or with the exact one of Clopper & Pearson (1934)."""
    check_resampling(1, level)
    if not (1 <= n < math.inf and 0 <= successes <= n) or (int(successes), int(n)) != (successes, n):
        raise McdoError(f"{successes} of {n} is not a share; give whole numbers, 0 <= successes <= n and n >= 1")
    if method not in ("wilson", "exact"):
        raise McdoError(f"method {method!r}; give wilson or exact")
    low, high = (_wilson if method == "wilson" else _clopper_pearson)(int(successes), int(n), (1 + level) / 2)
    return Estimate(successes / n, 0.0 if successes == 0 else low, 1.0 if successes == n else high, int(n), level)


def _wilson(successes: int, n: int, tail: float) -> tuple[float, float]:
    # as scipy.stats.binomtest has it, whose import takes longer than most commands that ask for a share
    z, p = float(scipy.special.ndtri(tail)), successes / n
    middle, arm = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return (middle - arm) / (1 + z**2 / n), (middle + arm) / (1 + z**2 / n)


def _clopper_pearson(successes: int, n: int, tail: float) -> tuple[float, float]:
    low = scipy.special.betaincinv(successes, n - successes + 1, 1 - tail)
    return float(low), float(scipy.special.betaincinv(successes + 1, n - successes, tail))


@dataclass(frozen=True)
class NullRate:
    """How often permuted scores passed: ``passed`` of ``rate.n``, with the exact (Clopper–Pearson) interval."""

    passed: int
    rate: Estimate


def null_pass_rate(
    passes: Callable[[Array], bool],
    scores: ArrayLike,
    *,
    permutations: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> NullRate:
    """Share of random permutations of ``scores`` over images (last axis) that satisfy the bars ``passes(permuted)``.

    Rows of [K, N] scores move together. A sound pair of bars passes at most at its stated rate.
    """
    held = numbers("scores", scores)
    permutations = arguments.whole("permutations", permutations, least=1)
    if held.ndim not in (1, 2) or not held.size:
        raise McdoError(f"scores have shape {list(held.shape)}; give [N] or [K, N]")
    finite("scores", held, ("trial", "image")[-held.ndim :])
    rng = generator(seed)
    passed = sum(bool(passes(held[..., rng.permutation(held.shape[-1])])) for _ in range(permutations))
    return NullRate(passed, proportion(passed, permutations, level=level, method="exact"))


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values (1979), in the order given: family-wise error at any dependence."""
    p = numbers("p_values", p_values)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise McdoError("p_values must be one-dimensional and within [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted
