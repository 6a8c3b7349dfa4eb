"""How rank reliability grows with passes inside one run: its own smaller T, and trials averaged in blocks.

The mean of m trials of T passes each is the score of one trial of about m·T passes. Two disjoint blocks of m trials
therefore *measure* the rank correlation at m·T passes, for every m up to K/2, with no law of growth. For ICC there is
nothing to measure so: averaging trials is what its law says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Literal

import numpy as np

from mcdo.stats._checks import Array, trial_mean
from mcdo.stats.reliability import Interval, Reliability
from mcdo.stats.resampling import Units, correlation, quantiles, rank_covariance

End = Literal["value", "low", "high"]
ENDS: tuple[End, End, End] = ("value", "low", "high")
_SPLITS = 12
_RESAMPLES = 400
_CEILING = 30.0  # of |log odds|: a share beyond it is 0 or 1 to thirteen digits


@dataclass(frozen=True)
class GrowthPoint:
    """Log odds of ρ between means of ``blocks`` trials of ``passes`` passes, with the ends of its interval."""

    passes: int
    blocks: int
    value: float
    low: float
    high: float

    def clock(self, degrees_lost: float) -> float:
        """Log of the passes that count: each trial spends ``degrees_lost`` of its T on its own mean."""
        return math.log(self.blocks * (self.passes - degrees_lost))


def measured_point(run: Reliability, passes: int) -> GrowthPoint:
    """The point of a measured reliability."""
    low, high = run.spearman_ci
    return GrowthPoint(passes, 1, log_odds(run.spearman), log_odds(low), log_odds(high))


def pooled_points(scores: Array, run: Reliability, passes: int, units: Units, seed: int) -> list[GrowthPoint]:
    """ρ at m·``passes`` passes from blocks of m trials of ``scores`` [K, N], for m = 2, 4, … and K/2; none for K < 4.

    The median ρ over pairs of disjoint blocks (all, or a dozen at random where there are more), as that of pairs of
    trials, with the percentile bootstrap over units. Its arms are lengthened as those of ``run`` are over the same
    bootstrap at m = 1: that part comes from what images of one trial share.
    """
    largest = len(scores) // 2
    if largest < 2:
        return []
    weights = units.multiplicities(_RESAMPLES, seed)
    below, above = _lengthening(measured_point(run, passes), _pooled(scores, passes, 1, weights, run.level, seed))
    points = []
    for blocks in sorted({largest, *(2**i for i in range(1, largest.bit_length()))}):
        at = _pooled(scores, passes, blocks, weights, run.level, seed)
        low, high = at.value - below * (at.value - at.low), at.value + above * (at.high - at.value)
        points.append(GrowthPoint(passes, blocks, at.value, low, high))
    return points


@dataclass(frozen=True)
class Carriers:
    """How many units carry the variance of scores, and whether the noise of those that do comes from single trials.

    Attributes:
        units: their number.
        share: of what normal scores would give.
        single: how far the noise is that of one trial each, 0 for normal noise and 1 where all other trials are alike;
            NaN below four trials.

    """

    units: float
    share: float
    single: float = math.nan


def carriers(scores: Array, units: Units) -> Carriers:
    """Carriers of the variance between images, or of the noise, whichever are the fewer for normal scores [K, N].

    Their number is the participation ratio (Σ a)²/Σ a² over units, with a the unit's squared deviation of the mean over
    trials, or its variance over trials: n where all contribute alike, 1 where one has everything. Normal scores give
    n/3 and n(K − 1)/(K + 1). ``single`` is on the scale between normal noise and one trial the share
    A = Σ d⁴/Σ (Σ_k d²)² for the deviations d of trials from the image's mean: noise that a few passes make, of which
    more passes bring others.
    """
    K, n = len(scores), units.n
    between = (scores.mean(axis=0) - scores.mean()) ** 2, n / 3
    within = scores.var(axis=0, ddof=1), n * (K - 1) / (K + 1)
    found = [Carriers(math.nan, math.nan)]
    for squares, normal in (between, within):
        part = np.bincount(units.members, squares, n)
        if part.any():
            ratio = float(part.sum() ** 2 / (part @ part))
            found.append(Carriers(ratio, ratio / normal))
    fewest = min(found[1:], key=lambda each: each.share, default=found[0])
    return replace(fewest, single=_single(scores))


def _single(scores: Array) -> float:
    """How far the noise of ``scores`` [K, N] is that of one trial for each image."""
    K = len(scores)
    squares = (scores - scores.mean(axis=0)) ** 2
    total = float((squares.sum(axis=0) ** 2).sum())
    if K < 4 or total == 0:
        return math.nan
    normal = 3 * (K - 1) / (K * (K + 1))
    one = ((K - 1) ** 3 + 1) / (K**2 * (K - 1))
    return (float((squares**2).sum()) / total - normal) / (one - normal)


def along(points: Sequence[GrowthPoint], at: float, end: End, degrees_lost: float) -> float:
    """Log odds at the clock ``at``, linear between ``points``."""
    return float(np.interp(at, [p.clock(degrees_lost) for p in points], [getattr(p, end) for p in points]))


def exponent(start: GrowthPoint, stop: GrowthPoint, degrees_lost: float) -> float:
    """Growth of the odds between two points as a power of the passes, within [−1, 2]; the law says 1."""
    power = (stop.value - start.value) / (stop.clock(degrees_lost) - start.clock(degrees_lost))
    return max(-1.0, min(2.0, power))


def log_odds(share: float) -> float:
    """log(share/(1 − share)) within ±30; below chance is chance."""
    if math.isnan(share):
        return math.nan
    if not 0 < share < 1:
        return -_CEILING if share <= 0 else _CEILING
    return max(-_CEILING, min(_CEILING, math.log(share) - math.log1p(-share)))


def share_of(odds: float) -> float:
    """Inverse of :func:`log_odds`; its bounds are exactly 0 and 1."""
    if odds >= _CEILING:
        return 1.0
    return 0.0 if odds <= -_CEILING else 1 / (1 + math.exp(-odds))


def _pooled(scores: Array, passes: int, blocks: int, weights: Array, level: float, seed: int) -> GrowthPoint:
    splits = [(tuple(a), tuple(b)) for a, b in _splits(len(scores), blocks, seed)]
    numbers = {block: number for number, block in enumerate(dict.fromkeys(chain(*splits)))}  # each is in several
    rows = np.stack([trial_mean(scores[list(block)]) for block in numbers])
    one, other = np.array([(numbers[a], numbers[b]) for a, b in splits]).T

    def median_correlation(weights: Array) -> Array:
        return np.asarray(np.median(correlation(rank_covariance(rows, weights))[:, one, other], axis=1))

    (value,) = median_correlation(np.ones((1, scores.shape[1])))
    found = median_correlation(weights)
    low, high = quantiles(found, [(1 - level) / 2, (1 + level) / 2])
    return GrowthPoint(passes, blocks, log_odds(float(value)), log_odds(float(low)), log_odds(float(high)))


def _splits(K: int, blocks: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of disjoint blocks of the K trials: all of them, or a dozen at random where there are more."""
    if math.comb(K, blocks) * math.comb(K - blocks, blocks) // 2 <= _SPLITS:
        first = [list(block) for block in combinations(range(K), blocks)]
        return [(a, b) for a, b in combinations(first, 2) if not set(a) & set(b)]
    rng = np.random.default_rng((seed, blocks))
    orders = [rng.permutation(K).tolist() for _ in range(_SPLITS)]
    return [(order[:blocks], order[blocks : 2 * blocks]) for order in orders]


def _lengthening(run: GrowthPoint, here: GrowthPoint) -> Interval:
    """By what the arms of ``run`` exceed those found ``here``, at least 1; NaN where the run has no interval."""

    def ratio(wide: float, narrow: float) -> float:
        return wide if math.isnan(wide) else max(1.0, wide / narrow) if narrow > 0 else 1.0

    return ratio(run.value - run.low, here.value - here.low), ratio(run.high - run.value, here.high - here.value)
