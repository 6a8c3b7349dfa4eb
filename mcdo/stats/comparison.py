"""Is one score better than another on the same images? Paired bootstrap of the difference of two rank figures.

Both scores are ranked in the same resamples of the images, so what the images share cancels; the interval is of the
difference, not of two separate figures. p-values of a family are corrected by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mcdo.errors import McdoError, nearest
from mcdo.stats._checks import Array, flags, images, jsonable
from mcdo.stats.resampling import (
    Estimate,
    Ranking,
    blockwise,
    check_resampling,
    correlation,
    holm,
    multiplicities,
    percentile_estimate,
    rank_covariance,
)

LEAST_CLASS = 20
"""Images of the rarer class that an AUROC needs before its differences are tested."""


@dataclass(frozen=True)
class Difference:
    """A score's figure minus the reference's: the estimate, its two-sided bootstrap p, and p after Holm."""

    estimate: Estimate
    p_value: float
    p_holm: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; undefined numbers become None."""
        p = {"p_value": jsonable(self.p_value), "p_holm": jsonable(self.p_holm)}
        return {**self.estimate.as_dict(), **p}

    def __str__(self) -> str:
        return f"{self.estimate} p_holm={self.p_holm:.3g}"


def spearman_differences(
    scores: Mapping[str, ArrayLike],
    reference: str,
    target: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Difference]:
    """ρ(score, target) − ρ(reference, target) for every other score; ``scores`` and ``target`` are [N], N >= 3.

    Percentile interval, and p by :func:`normal_p`. Holm runs over the scores of this call; more families are joined
    with :func:`corrected`. A score or target that is constant gives NaN.
    """
    names, rows = _rows(scores, reference, 3, target=target)

    def figures(weights: Array) -> Array:
        return np.asarray(correlation(rank_covariance(rows, weights))[:, :-1, -1])

    return _differences(names, reference, figures, rows.shape[1], seed, resamples, level)


def auroc_differences(
    scores: Mapping[str, ArrayLike],
    reference: str,
    positive: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Difference]:
    """AUROC(score) − AUROC(reference) for ``positive`` [N] of 0/1 or bool; otherwise as :func:`spearman_differences`.

    Resamples with one class only are left out; one class in the data gives NaN. With fewer than ``LEAST_CLASS`` images
    in either class there is no p (NaN): their bootstrap spread says too little to test by.
    """
    names, rows = _rows(scores, reference, 2, positive=positive)
    truth, rankings, N = (
        flags("positive", rows[-1]).astype(np.float64),
        [Ranking(row) for row in rows[:-1]],
        len(rows[0]),
    )

    def block(weights: Array) -> Array:
        n = weights @ truth
        ranks = np.stack([(weights * ranking.centred(weights)) @ truth for ranking in rankings], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(ranks / (n * (N - n))[:, None] + 0.5)

    found = _differences(names, reference, lambda w: blockwise(block, w, N * len(rankings)), N, seed, resamples, level)
    if min(truth.sum(), N - truth.sum()) < LEAST_CLASS:
        return {name: Difference(d.estimate, math.nan, math.nan) for name, d in found.items()}
    return found


def corrected(families: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """The same differences with Holm over all families together; undefined ones (NaN) are not tests and stay so."""
    flat = [(f, name, d) for f, family in families.items() for name, d in family.items()]
    tests = [i for i, (_, _, d) in enumerate(flat) if not math.isnan(d.p_value)]
    adjusted = np.full(len(flat), math.nan)
    adjusted[tests] = holm([flat[i][2].p_value for i in tests]) if tests else []
    joined: dict[str, dict[str, Difference]] = {f: {} for f in families}
    for (f, name, d), p in zip(flat, adjusted, strict=True):
        joined[f][name] = Difference(d.estimate, d.p_value, float(p))
    return joined


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


def bootstrap_p(draws: ArrayLike) -> float:
    """Two-sided p of "the true value is zero" by counting bootstrap ``draws`` beyond it; NaN when none is defined.

    Twice the smaller share on one side, with the +1 rule. NaNs are left out. For single tests: it is never below
    2/(resamples + 1).
    """
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return math.nan
    side = min(np.sum(defined <= 0), np.sum(defined >= 0))
    return float(min(1.0, 2 * (1 + side) / (1 + len(defined))))


def _rows(scores: Mapping[str, ArrayLike], reference: str, least: int, **last: ArrayLike) -> tuple[list[str], Array]:
    if reference not in scores:
        raise McdoError(f"no score {reference!r} to compare with; nearest: {nearest(reference, scores)}")
    if len(scores) < 2:
        raise McdoError(f"only {reference!r} was given; name a score to compare it with")
    return list(scores), np.stack(images(least, **{**scores, **last}))


def _differences(
    names: list[str],
    reference: str,
    figures: Callable[[Array], Array],
    N: int,
    seed: int,
    resamples: int,
    level: float,
) -> dict[str, Difference]:
    check_resampling(resamples, level)
    at = names.index(reference)
    values, draws = figures(np.ones((1, N)))[0], figures(multiplicities(N, resamples, seed))
    found = {}
    for i, name in enumerate(names):
        if i != at:
            value, drawn = float(values[i] - values[at]), draws[:, i] - draws[:, at]
            drawn = np.full(1, math.nan) if math.isnan(value) else drawn
            p = normal_p(value, drawn)
            found[name] = Difference(percentile_estimate(value, drawn, N, level), p, p)
    return corrected({"": found})[""]
