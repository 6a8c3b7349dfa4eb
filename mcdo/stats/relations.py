"""What does a score follow, and does it beat what costs nothing? Many rank relations from one set of resamples.

All figures come from the covariance of mid-ranks: Spearman's ρ is its correlation, the partial ρ its Schur complement,
and AUROC = 1/2 + cov(score, truth)/(2 var(truth)), because a 0/1 truth has two ranks only. So one bootstrap over
origins serves every pair, and differences are paired by construction. p-values of a call are corrected by Holm as one
family.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, flags, images, jsonable
from mcdo.stats.association import RankFigure, among, rank_figures
from mcdo.stats.comparison import Difference, corrected
from mcdo.stats.resampling import Estimate, Origins, correlation, holm
from mcdo.stats.sample import Sample


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
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str], Relation]:
    """Spearman's ρ of every score [N] with every other quantity [N], keyed by (score, other).

    Args:
        scores: by name.
        others: by name; booleans count as 0 and 1.
        given: the covariate [N] of the partial correlation. One that equals a score or an other leaves it NaN.
        origins: the origin of each image, [N].
        seed: of the resamples.
        resamples: of the origins.
        level: of the intervals. p by :func:`~mcdo.stats.normal_p`.

    """
    table = _table(scores, others, **({} if given is None else {"given": given}))
    sample = Sample(table.shape[1], origins, seed, resamples, level)
    names, start = list(itertools.product(scores, others)), len(scores)
    places = [(i, start + j) for i in range(len(scores)) for j in range(len(others))]
    plain = _tested(sample, table, [among(*at) for at in places])
    if given is None:
        partial = [(sample.undefined, math.nan)] * len(plain)
    else:
        partial = _tested(sample, table, [among(*at, -1) for at in places])
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
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str, str], Difference]:
    """How far each score is ahead of each baseline, keyed by (score, baseline, target); positive: the score wins.

    A score says beforehand which way it points (larger is more uncertain), a baseline may be read either way: the
    difference is ρ(score) − |ρ(baseline)| for each target in ``follows`` [N], and AUROC(score) −
    max(AUROC, 1 − AUROC)(baseline) for each 0/1 target in ``detects`` [N]. A baseline is not set against a target of
    its own name. Origins are resampled for both at once; Holm over the whole call.
    """
    truths = {name: flags(name, images(2, **{name: values})[0]) for name, values in detects.items()}
    table = _table(scores, baselines, **follows, **truths)
    sample = Sample(table.shape[1], origins, seed, resamples, level)
    S, B, figures = len(scores), len(baselines), {}
    for (i, score), (j, baseline) in itertools.product(enumerate(scores), enumerate(baselines)):
        for k, target in enumerate([*follows, *truths]):
            if target != baseline:
                figures[score, baseline, target] = _directed(i, S + j, S + B + k, as_area=target in truths)
    found = _tested(sample, table, list(figures.values()))
    differences = {str(key): Difference(estimate, p, p) for key, (estimate, p) in zip(figures, found, strict=True)}
    joined = corrected({"": differences})[""]
    return {key: joined[str(key)] for key in figures}


def _directed(score: int, baseline: int, target: int, *, as_area: bool) -> RankFigure:
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


def _tested(sample: Sample, rows: Array, figures: Sequence[RankFigure]) -> list[tuple[Estimate, float]]:
    """Figures of the rank covariance of ``rows``, each with its interval and p of "it is zero"."""
    if not figures:
        return []
    whole, draws = sample.both(rank_figures(rows, figures))
    return [sample.tested(whole[i], draws[:, i]) for i in range(len(figures))]


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm over the defined ones; NaN stays NaN and is no test."""
    tests = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    for i, p in zip(tests, holm([p_values[i] for i in tests]) if tests else [], strict=True):
        adjusted[i] = float(p)
    return adjusted
