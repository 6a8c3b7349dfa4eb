"""What does a score follow, and does it beat what costs nothing? Many rank relations from one set of resamples.

Spearman's ρ is the correlation in the covariance of mid-ranks, the partial ρ its Schur complement, so one bootstrap
over origins serves every pair, and differences are paired by construction. p-values of a call are corrected by Holm as
one family. Scores may be [N] or [K, N], see :mod:`mcdo.stats.trials`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, flags, images
from mcdo.stats.association import RankFigure, RankFigures, among
from mcdo.stats.comparison import AreaDifferences, Difference, differences, holm_of_defined
from mcdo.stats.resampling import Estimate, Origins, correlation, rank_covariance
from mcdo.stats.sample import Sample
from mcdo.stats.trials import Scores, infer


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

    def __str__(self) -> str:
        return f"{self.rho} p_holm={self.p_holm:.2g}; given {self.given}"


def rank_relations(
    scores: Mapping[str, ArrayLike],
    others: Mapping[str, ArrayLike],
    *,
    given: ArrayLike | None = None,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str], Relation]:
    """Spearman's ρ of every score with every other quantity, keyed by (score, other).

    Args:
        scores: [N] or [K, N] by name.
        others: [N] by name; booleans count as 0 and 1.
        given: the covariate [N] of the partial correlation. One that equals a score or an other leaves it NaN.
        origins: the origin of each image, [N].
        shared_noise: whether the images of a trial share its noise.
        seed: of the resamples.
        resamples: of the origins.
        level: of the intervals. p as in :class:`~mcdo.stats.Inferred`.

    """
    held = _scores({"score": scores}, shared_noise)
    quantities = {f"other {name}": values for name, values in others.items()}
    table = _rows(held, quantities if given is None else {**quantities, "given": given})
    sample = Sample(table.shape[1], origins, seed, resamples, level)
    names, start = list(itertools.product(scores, others)), len(scores)
    places = [(i, start + j) for i in range(len(scores)) for j in range(len(others))]
    figures = [among(*at) for at in places] + ([] if given is None else [among(*at, -1) for at in places])
    found = infer(RankFigures(sample, figures, table), held)
    plain, partial = found[: len(names)], found[len(names) :] or [sample.undefined()] * len(names)
    adjusted = holm_of_defined([one.p_value for one in (*plain, *partial)])
    return {
        name: Relation(rho.estimate, part.estimate, rho.p_value, first, second)
        for name, rho, part, first, second in zip(
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
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str, str], Difference]:
    """How far each score is ahead of each baseline, keyed by (score, baseline, target); positive: the score wins.

    A score says beforehand which way it points (larger is more uncertain), a baseline may be read either way: the
    difference is ρ(score) − |ρ(baseline)| for each target in ``follows`` [N], and AUROC(score) −
    max(AUROC, 1 − AUROC)(baseline) for each 0/1 target in ``detects`` [N]. Which way a baseline points is read off the
    sample once, not in every resample, where one that follows nothing would seem to follow twice as much. Scores and
    baselines are [N] or [K, N]. A baseline is not set against a target of its own name. Intervals and p as in
    :func:`~mcdo.stats.spearman_differences` and :func:`~mcdo.stats.auroc_differences`; Holm over the whole call.
    """
    truths = {name: flags(name, images(2, **{name: values})[0]) for name, values in detects.items()}
    held = _scores({"score": scores, "baseline": baselines}, shared_noise)
    table = _rows(held, {**follows, **truths})
    sample = Sample(table.shape[1], origins, seed, resamples, level)
    pairs = {
        (score, baseline, target): (i, len(scores) + j)
        for (i, score), (j, baseline) in itertools.product(enumerate(scores), enumerate(baselines))
        for target in (*follows, *truths)
        if target != baseline
    }
    goals = {target: len(scores) + len(baselines) + i for i, target in enumerate(follows)}
    rows = np.concatenate([held.means, table[: len(follows)]])
    rho = correlation(rank_covariance(rows, np.ones((1, sample.images))))[0]
    following = {
        key: _directed(i, j, goals[key[2]], -1 if rho[j, goals[key[2]]] < 0 else 1)
        for key, (i, j) in pairs.items()
        if key[2] in goals
    }
    detecting = {key: (*at, truths[key[2]]) for key, at in pairs.items() if key[2] not in goals}
    found = infer(RankFigures(sample, list(following.values()), table[: len(follows)]), held) if following else []
    found += infer(AreaDifferences(sample, list(detecting.values()), directed=True), held)
    by_key = differences([*following, *detecting], found)
    return {key: by_key[key] for key in pairs}


def _directed(score: int, baseline: int, target: int, sign: int) -> RankFigure:
    """ρ(score) − ``sign`` ρ(baseline)."""

    def difference(covariance: Array) -> Array:
        rho = correlation(covariance)[:, :, target]
        return np.asarray(rho[:, score] - sign * rho[:, baseline])

    return RankFigure(difference, (score, baseline, target), most=2.0)


def _scores(roles: Mapping[str, Mapping[str, ArrayLike]], shared_noise: bool) -> Scores:
    """Scores of several roles; messages name each by its role, so that names may repeat between roles."""
    if not all(roles.values()):
        raise McdoError("nothing to relate: give at least one score and one quantity to set beside it")
    named = {f"{role} {name}": values for role, scores in roles.items() for name, values in scores.items()}
    return Scores.of(named, shared_noise=shared_noise, least=5)


def _rows(scores: Scores, others: Mapping[str, ArrayLike]) -> Array:
    """Rows [M, N] of what the scores are set beside."""
    if not others:
        raise McdoError("nothing to relate: give at least one score and one quantity to set beside it")
    return np.stack(images(5, scores=scores.means[0], **others)[1:])
