"""What does a score follow, and does it beat what costs nothing? Many rank relations from one set of resamples.

All figures come from the covariance of mid-ranks: Spearman's ρ is its correlation, the partial ρ its Schur complement,
and AUROC = 1/2 + cov(score, truth)/(2 var(truth)), because a 0/1 truth has two ranks only. So one bootstrap over
images, or over clusters of them, serves every pair, and differences are paired by construction. p-values of a call are
corrected by Holm as one family.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, flags, images, jsonable
from mcdo.stats.clusters import _Resampled
from mcdo.stats.comparison import Difference, corrected, normal_p
from mcdo.stats.resampling import Estimate, check_resampling, correlation, holm
from mcdo.stats.validity import _among

Figure = Callable[[Array], Array]
"""A figure of rank covariances: [R, M, M] to [R]."""


@dataclass(frozen=True)
class Relation:
    """Spearman's ρ of a score with something else; ``given`` is the same with a covariate's ranks held fixed.

    ``given`` is NaN without a covariate. p-values are two-sided, of ρ; ``given_p_holm`` of the partial one. Holm runs
    over all ρ and all partial ρ of the call together.
    """

    rho: Estimate
    given: Estimate
    p_value: float
    p_holm: float
    given_p_holm: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; undefined numbers become None."""
        return {
            "rho": self.rho.as_dict(),
            "given": self.given.as_dict(),
            "p_value": jsonable(self.p_value),
            "p_holm": jsonable(self.p_holm),
            "given_p_holm": jsonable(self.given_p_holm),
        }

    def __str__(self) -> str:
        return f"{self.rho} p_holm={self.p_holm:.2g}; given {self.given}"


def rank_relations(
    scores: Mapping[str, ArrayLike],
    others: Mapping[str, ArrayLike],
    *,
    given: ArrayLike | None = None,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str], Relation]:
    """Spearman's ρ of every score [N] with every other quantity [N], keyed by (score, other).

    Args:
        scores: by name.
        others: by name; booleans count as 0 and 1.
        given: the covariate [N] of the partial correlation. One that equals a score or an other leaves it NaN.
        clusters: the original of each image, where several images stem from one; whole clusters are resampled.
        seed: of the resamples.
        resamples: of images or clusters.
        level: of the intervals. p by :func:`~mcdo.stats.normal_p`.

    """
    table = _table(scores, others, **({} if given is None else {"given": given}))
    found = _Figures(table, clusters, seed, resamples, level)
    names, start = list(itertools.product(scores, others)), len(scores)
    places = [(i, start + j) for i in range(len(scores)) for j in range(len(others))]
    plain = [found.of(_among(i, j)) for i, j in places]
    partial = [found.of(_among(i, j, -1)) if given is not None else found.undefined for i, j in places]
    adjusted = _holm([*(p for _, p in plain), *(p for _, p in partial)])
    return {
        name: Relation(rho, part, p, first, second)
        for name, (rho, p), (part, _), first, second in zip(
            names, plain, partial, adjusted[: len(names)], adjusted[len(names) :], strict=True
        )
    }


def advantages(
    scores: Mapping[str, ArrayLike],
    baselines: Mapping[str, ArrayLike],
    *,
    follows: Mapping[str, ArrayLike],
    detects: Mapping[str, ArrayLike],
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str, str], Difference]:
    """How far each score is ahead of each baseline, keyed by (score, baseline, target); positive: the score wins.

    A score says beforehand which way it points (larger is more uncertain), a baseline may be read either way: the
    difference is ρ(score) − |ρ(baseline)| for each target in ``follows`` [N], and AUROC(score) −
    max(AUROC, 1 − AUROC)(baseline) for each 0/1 target in ``detects`` [N]. A baseline is not set against a target of
    its own name. Images, or ``clusters``, are resampled for both at once; Holm over the whole call.
    """
    truths = {name: flags(name, images(2, **{name: values})[0]) for name, values in detects.items()}
    table = _table(scores, baselines, **follows, **truths)
    found, S, B = _Figures(table, clusters, seed, resamples, level), len(scores), len(baselines)
    differences = {}
    for (i, score), (j, baseline) in itertools.product(enumerate(scores), enumerate(baselines)):
        for k, target in enumerate([*follows, *truths]):
            if target != baseline:
                figure = _directed(i, S + j, S + B + k, as_area=target in truths)
                estimate, p = found.of(figure)
                differences[score, baseline, target] = Difference(estimate, p, p)
    joined = corrected({"": {str(key): value for key, value in differences.items()}})[""]
    return {key: joined[str(key)] for key in differences}


def _directed(score: int, baseline: int, target: int, *, as_area: bool) -> Figure:
    """ρ(score) − |ρ(baseline)| as a function of rank covariances [R, M, M]; halved or so, the same for AUROC − 1/2."""

    def difference(covariance: Array) -> Array:
        if as_area:
            with np.errstate(invalid="ignore", divide="ignore"):
                strength = covariance[:, :, target] / (2 * covariance[:, target, target])[:, None]
        else:
            strength = correlation(covariance)[:, :, target]
        return np.asarray(strength[:, score] - np.abs(strength[:, baseline]))

    return difference


def _table(first: Mapping[str, ArrayLike], second: Mapping[str, ArrayLike], **more: ArrayLike) -> Array:
    """All rows [M, N], scores first; messages name each by its role, so that names may repeat between roles."""
    if not first or not second:
        raise McdoError("nothing to relate: give at least one score and one quantity to set beside it")
    rows = {**{f"score {n}": v for n, v in first.items()}, **{f"other {n}": v for n, v in second.items()}, **more}
    return np.stack(images(5, **rows))


class _Figures:
    """Figures of rank covariances, with intervals and p-values from one set of resamples."""

    def __init__(self, rows: Array, clusters: Sequence[str] | None, seed: int, resamples: int, level: float) -> None:
        check_resampling(resamples, level)
        each = [str(i) for i in range(rows.shape[1])]
        self._resampled = _Resampled(each if clusters is None else clusters, rows.shape[1], seed, resamples, level)
        self._whole, self._draws = self._resampled.covariances(rows)

    def of(self, figure: Figure) -> tuple[Estimate, float]:
        """A figure with its interval, and p of "it is zero"."""
        value, draws = float(figure(self._whole)[0]), figure(self._draws)
        return self._resampled.estimate(value, draws), normal_p(value, draws)

    @property
    def undefined(self) -> tuple[Estimate, float]:
        """What an absent figure is."""
        return self._resampled.estimate(math.nan, np.full(1, math.nan)), math.nan


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm over the defined ones; NaN stays NaN and is no test."""
    tests = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    for i, p in zip(tests, holm([p_values[i] for i in tests]) if tests else [], strict=True):
        adjusted[i] = float(p)
    return adjusted
