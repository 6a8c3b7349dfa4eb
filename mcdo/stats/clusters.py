"""Validity where images come in clusters: several variants of one original are not independent draws.

The bootstrap draws whole clusters with replacement (Field & Welsh 2007), so an interval says what other originals would
have given. Where every image is a cluster of its own it is the ordinary bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError, nearest
from mcdo.stats._checks import Array, flags, images
from mcdo.stats.ambiguity import AmbiguityTargets
from mcdo.stats.comparison import Difference, bootstrap_p, corrected
from mcdo.stats.resampling import (
    Estimate,
    Ranking,
    blockwise,
    check_resampling,
    correlation,
    percentile_estimate,
)
from mcdo.stats.validity import PUBLISHED, _among, _rank_residual


def clustered_ambiguity(
    score: ArrayLike,
    targets: AmbiguityTargets,
    clusters: Sequence[str],
    feature_norm: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """The figures of :func:`~mcdo.stats.ambiguity_estimates`, same keys and values, with intervals over clusters.

    ``clusters`` names the original of each image, [N]; an interval's ``n`` is the number of *clusters*.

    Raises:
        McdoError: for fewer than two clusters, or another number of names than images.

    """
    check_resampling(resamples, level)
    optional = {} if targets.prompt_sensitivity is None else {"prompt_sensitivity": targets.prompt_sensitivity}
    controls = {} if feature_norm is None else {"feature_norm": feature_norm}
    rows = np.stack(
        images(3 + len(controls), score=score, negative_margin=targets.neg_margin, entropy=targets.entropy,
               **optional, **controls)
    )  # fmt: skip
    find = _Resampled(clusters, rows.shape[1], seed, resamples, level)
    pairs = {f"rho_uncertainty_vs_{name}": i for i, name in enumerate(["negative_margin", "entropy", *optional], 1)}
    figures = {key: _among(0, place) for key, place in pairs.items()}
    if controls:
        figures |= {f"{key}_given_norm": _among(0, place, -1) for key, place in pairs.items()}
    positive = _positive(rows, targets)
    found = find.correlations(rows, figures) | find.areas(rows[0], positive)
    if controls:
        free = find.areas(_rank_residual(rows[0], rows[-1]), positive)
        found |= {f"{key}_given_norm": estimate for key, estimate in free.items()}
    undefined = Estimate(math.nan, math.nan, math.nan, find.n, level)
    endings = ("", "_given_norm") if controls else ("",)
    return {key + ending: found.get(key + ending, undefined) for ending in endings for key in PUBLISHED}


def clustered_spearman_differences(
    scores: Mapping[str, ArrayLike],
    reference: str,
    target: ArrayLike,
    clusters: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
) -> dict[str, Difference]:
    """ρ(score, target) − ρ(reference, target) for every other score, with intervals and p over clusters.

    :func:`~mcdo.stats.spearman_differences` for images in clusters; Holm runs over the scores of this call.

    Raises:
        McdoError: for an unknown reference, or as :func:`clustered_ambiguity`.

    """
    check_resampling(resamples, level)
    if reference not in scores:
        raise McdoError(f"no score {reference!r} to compare with; nearest: {nearest(reference, scores)}")
    rows = np.stack(images(3, **{**scores, "target": target}))
    find = _Resampled(clusters, rows.shape[1], seed, resamples, level)
    names = list(scores)
    whole, drawn = (correlation(part)[:, :-1, -1] for part in find.covariances(rows))
    at, found = names.index(reference), {}
    for i, name in enumerate(names):
        if i != at:
            value, draws = float(whole[0, i] - whole[0, at]), drawn[:, i] - drawn[:, at]
            p = math.nan if math.isnan(value) else bootstrap_p(draws)
            found[name] = Difference(find.estimate(value, draws), p, p)
    return corrected({"": found})[""]


def _positive(rows: Array, targets: AmbiguityTargets) -> dict[str, NDArray[np.bool_]]:
    positive = {
        "auroc_low_margin": rows[1] >= np.quantile(rows[1], 0.9),
        "auroc_high_entropy": rows[2] >= np.quantile(rows[2], 0.9),
    }
    if targets.correct is not None:
        positive["auroc_error"] = ~flags("correct", images(1, score=rows[0], correct=targets.correct)[1])
    return positive


def _members(clusters: Sequence[str], n: int) -> NDArray[np.intp]:
    """The number of each image's cluster, [N]."""
    if len(clusters) != n:
        raise McdoError(f"{len(clusters)} cluster names for {n} images; give one per image")
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise McdoError(f"all images are of one cluster ({names[0]}); an interval needs at least two")
    return members


class _Resampled:
    """Figures of the sample, and of resamples in which cluster c occurs ``drawn[r, c]`` times."""

    def __init__(self, clusters: Sequence[str], images: int, seed: int, resamples: int, level: float) -> None:
        self.members, self.level = _members(clusters, images), level
        self.n = int(self.members.max()) + 1
        rng = np.random.default_rng(seed)
        self.drawn = rng.multinomial(self.n, np.full(self.n, 1 / self.n), size=resamples).astype(np.float64)

    def correlations(self, rows: Array, figures: Mapping[str, Callable[[Array], Array]]) -> dict[str, Estimate]:
        """Figures that are functions of the rank covariance [R, M, M] of ``rows`` [M, N]."""
        whole, draws = self.covariances(rows)
        return {name: self.estimate(float(of(whole)[0]), of(draws)) for name, of in figures.items()}

    def covariances(self, rows: Array) -> tuple[Array, Array]:
        """Rank covariances of the sample [1, M, M] and of the resamples [R, M, M]."""
        rankings = [Ranking(row) for row in rows]

        def covariance(drawn: Array) -> Array:
            weights = drawn[:, self.members]
            ranks = np.stack([ranking.centred(weights) for ranking in rankings], axis=1)
            return np.asarray((ranks * weights[:, None]) @ ranks.transpose(0, 2, 1))

        return self._both(covariance, rows.size)

    def areas(self, score: Array, positive: Mapping[str, NDArray[np.bool_]]) -> dict[str, Estimate]:
        """AUROC of ``score`` for several definitions of positive."""
        truth, ranking = np.stack(list(positive.values()), axis=1).astype(np.float64), Ranking(score)

        def area(drawn: Array) -> Array:
            weights = drawn[:, self.members]
            n, total = weights @ truth, weights.sum(axis=1, keepdims=True)
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray((weights * ranking.centred(weights)) @ truth / (n * (total - n)) + 0.5)

        whole, draws = self._both(area, len(score))
        return {name: self.estimate(float(whole[0, i]), draws[:, i]) for i, name in enumerate(positive)}

    def estimate(self, value: float, draws: Array) -> Estimate:
        """``value`` with the interval of its draws; n is the number of clusters."""
        return percentile_estimate(value, np.full(1, math.nan) if math.isnan(value) else draws, self.n, self.level)

    def _both(self, of: Callable[[Array], Array], size: int) -> tuple[Array, Array]:
        return of(np.ones((1, self.n))), blockwise(of, self.drawn, size)
