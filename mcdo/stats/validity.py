"""Does the score mean what it should? Its rank relation to ambiguity, to degradation, and to what it must not follow.

Every figure is an :class:`Estimate` whose interval is a bootstrap over images, or an exact or score interval where
the figure is a share. A figure that the data leave undefined (a constant argument, a single class) is NaN with a
NaN interval, so that its verdict is "undecided"; malformed input is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mcdo.stats._checks import Array, flags, images, jsonable, numbers
from mcdo.stats.ambiguity import AmbiguityTargets
from mcdo.stats.resampling import (
    Estimate,
    Ranking,
    blockwise,
    bootstrap,
    check_resampling,
    correlation,
    multiplicities,
    percentile_estimate,
    proportion,
    rank_covariance,
)

PUBLISHED = (
    "rho_uncertainty_vs_negative_margin",
    "rho_uncertainty_vs_entropy",
    "rho_uncertainty_vs_prompt_sensitivity",
    "auroc_low_margin",
    "auroc_high_entropy",
    "auroc_error",
)


def spearman(x: ArrayLike, y: ArrayLike, *, seed: int = 0, resamples: int = 1000, level: float = 0.95) -> Estimate:
    """Spearman's ρ (1904) of two ``[N]`` arrays, N >= 3: Pearson's r of the ranks, ties at their mean rank."""
    return _rank_estimates(np.stack(images(3, x=x, y=y)), {"": _plain}, seed, resamples, level)[""]


def partial_spearman(
    x: ArrayLike, y: ArrayLike, given: ArrayLike, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Estimate:
    """Spearman's ρ of ``x`` and ``y`` with the ranks of ``given`` ([N], or [C, N] for C covariates) held fixed.

    Definition: r of the residuals of rank(x) and rank(y), each after linear regression on the ranks of the
    covariates; for one covariate (r_xy − r_xz r_yz)/√((1 − r_xz²)(1 − r_yz²)) (Kendall 1942). Constant or repeated
    covariates change nothing; an argument that the covariates determine leaves NaN. ``[N]`` with N >= 3 + C.
    """
    covariates = np.atleast_2d(numbers("given", given))
    named = {f"given[{index}]": row for index, row in enumerate(covariates)}
    rows = np.stack(images(3 + len(covariates), x=x, y=y, **named))
    return _rank_estimates(rows, {"": _partial}, seed, resamples, level)[""]


def spearman_permutation_p(
    x: ArrayLike,
    y: ArrayLike,
    *,
    alternative: Literal["greater", "less", "two-sided"] = "two-sided",
    seed: int = 0,
    permutations: int = 1000,
) -> float:
    """Permutation p of Spearman's ρ under independence, by SciPy, with the +1 rule; exact where N! <= permutations."""
    a, b = (stats.rankdata(row) - (len(row) + 1) / 2 for row in images(3, x=x, y=y))
    if not a.any() or not b.any():
        return math.nan

    def products(permuted: Array, axis: int = -1) -> Array:
        return np.asarray((permuted * b).sum(axis=axis))

    found = stats.permutation_test(
        (a,), products, permutation_type="pairings", vectorized=True, alternative=alternative,
        n_resamples=permutations, random_state=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def disattenuated(rho: float, reliability_x: float, reliability_y: float) -> float:
    """ρ/√(rel_x rel_y), the correlation that error-free scores would have (Spearman 1904).

    NaN when a reliability is not positive. Not clipped: a value beyond 1 says that the reliabilities are too low.
    """
    shared = reliability_x * reliability_y
    return rho / math.sqrt(shared) if min(reliability_x, reliability_y) > 0 else math.nan


def auroc(
    score: ArrayLike, positive: ArrayLike, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Estimate:
    """P(score of a positive > score of a negative) + P(equal)/2, the area under the ROC curve (Hanley & McNeil 1982).

    ``score`` [N], ``positive`` [N] of 0/1 or bool. One class only: NaN. Resamples with one class are left out of
    the interval.
    """
    values, labels = images(1, score=score, positive=positive)
    return _areas(values, {"": flags("positive", labels)}, seed, resamples, level)[""]


def auroc_high(score: ArrayLike, target: ArrayLike, quantile: float = 0.9, **resampling: Any) -> Estimate:
    """AUROC of ``score`` for ``target`` at or above its own quantile (linear interpolation), as the sample sets it."""
    score, target = images(1, score=score, target=target)
    return auroc(score, target >= np.quantile(target, quantile), **resampling)


def auroc_low(score: ArrayLike, target: ArrayLike, quantile: float = 0.1, **resampling: Any) -> Estimate:
    """AUROC of ``score`` for ``target`` at or below its own quantile (linear interpolation), as the sample sets it."""
    score, target = images(1, score=score, target=target)
    return auroc(score, target <= np.quantile(target, quantile), **resampling)


@dataclass(frozen=True)
class PairedIncrease:
    """What :func:`wilcoxon_increase` found over ``n`` pairs, ``ties`` of them equal."""

    p_value: float
    fraction: Estimate
    relative_change: Estimate
    n: int
    ties: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: p_value, fraction, relative_change, n, ties."""
        return {
            "p_value": self.p_value,
            "fraction": self.fraction.as_dict(),
            "relative_change": self.relative_change.as_dict(),
            "n": self.n,
            "ties": self.ties,
        }


def wilcoxon_increase(
    degraded: ArrayLike, clean: ArrayLike, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> PairedIncrease:
    """Paired test that the score of ``degraded`` [N] exceeds that of ``clean`` [N], image by image.

    p: one-sided Wilcoxon signed-rank test, equal pairs dropped (Wilcoxon 1945), 1 when all are equal. fraction:
    strictly greater pairs over all N, equal ones not counted as increased, with Wilson's interval.
    relative_change: mean(degraded)/mean(clean) − 1, bootstrap interval; NaN when the clean mean is zero.
    """
    after, before = images(2, degraded=degraded, clean=clean)
    difference = after - before
    moved = difference[difference != 0]
    p_value = float(stats.wilcoxon(moved, alternative="greater").pvalue) if len(moved) else 1.0

    def change(a: Array, b: Array) -> float:
        return float(a.mean() / b.mean() - 1) if b.mean() != 0 else math.nan

    return PairedIncrease(
        p_value,
        proportion(int(np.sum(difference > 0)), len(difference), level=level),
        bootstrap(change, after, before, seed=seed, resamples=resamples, level=level),
        len(difference),
        len(difference) - len(moved),
    )


def ambiguity_estimates(
    score: ArrayLike,
    targets: AmbiguityTargets,
    feature_norm: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """The six published figures of ``score`` [N] against ``targets``, and each again with the feature norm held fixed.

    ``rho_uncertainty_vs_{negative_margin,entropy,prompt_sensitivity}`` by :func:`spearman`;
    ``auroc_{low_margin,high_entropy,error}`` for the lowest tenth of margins, the highest tenth of entropies, and
    wrong predictions. With ``feature_norm`` [N] also ``<key>_given_norm``: the partial rank correlation, or the AUROC
    of the residual of rank(score) on rank(norm). A target that is None gives NaN.
    """
    optional = {} if targets.prompt_sensitivity is None else {"prompt_sensitivity": targets.prompt_sensitivity}
    controls = {} if feature_norm is None else {"feature_norm": feature_norm}
    rows = np.stack(
        images(3 + len(controls), score=score, negative_margin=targets.neg_margin, entropy=targets.entropy,
               **optional, **controls)
    )  # fmt: skip
    positive = {
        "auroc_low_margin": rows[1] >= np.quantile(rows[1], 0.9),
        "auroc_high_entropy": rows[2] >= np.quantile(rows[2], 0.9),
    }
    if targets.correct is not None:
        positive["auroc_error"] = ~flags("correct", images(1, score=rows[0], correct=targets.correct)[1])
    names = enumerate(["negative_margin", "entropy", *optional], start=1)
    pairs = {f"rho_uncertainty_vs_{name}": index for index, name in names}
    figures = {key: _among(0, index) for key, index in pairs.items()}
    if controls:
        figures |= {f"{key}_given_norm": _among(0, index, -1) for key, index in pairs.items()}
    found = _rank_estimates(rows, figures, seed, resamples, level) | _areas(rows[0], positive, seed, resamples, level)
    if controls:
        free = _areas(_rank_residual(rows[0], rows[-1]), positive, seed, resamples, level)
        found |= {f"{key}_given_norm": estimate for key, estimate in free.items()}
    undefined = Estimate(math.nan, math.nan, math.nan, rows.shape[1], level)
    endings = ("", "_given_norm") if controls else ("",)
    return {key + ending: found.get(key + ending, undefined) for ending in endings for key in PUBLISHED}


def ambiguity_report(
    score: ArrayLike, targets: AmbiguityTargets, feature_norm: ArrayLike | None = None, **resampling: Any
) -> dict[str, Any]:
    """:func:`ambiguity_estimates` for a result file: ``key``, ``key_ci`` = [low, high], ``n``, ``level``, ``n_errors``.

    Undefined figures are None and listed under ``undefined``.
    """
    found = ambiguity_estimates(score, targets, feature_norm, **resampling)
    report: dict[str, Any] = {}
    for key, estimate in found.items():
        report[key] = jsonable(estimate.value)
        report[f"{key}_ci"] = [jsonable(estimate.low), jsonable(estimate.high)]
    first = next(iter(found.values()))
    errors = None if targets.correct is None else int(np.sum(~targets.correct))
    undefined = [key for key, estimate in found.items() if math.isnan(estimate.value)]
    return {**report, "n": first.n, "n_errors": errors, "level": first.level, "undefined": undefined}


def _rank_estimates(
    rows: Array, figures: Mapping[str, Callable[[Array], Array]], seed: int, resamples: int, level: float
) -> dict[str, Estimate]:
    """Several figures, each a function of the rank covariance of ``rows``, from one set of resamples."""
    check_resampling(resamples, level)
    N = rows.shape[1]
    values = rank_covariance(rows, np.ones((1, N)))
    draws = rank_covariance(rows, multiplicities(N, resamples, seed))
    return {name: _estimate(float(of(values)[0]), of(draws), N, level) for name, of in figures.items()}


def _areas(
    score: Array, positive: Mapping[str, NDArray[np.bool_]], seed: int, resamples: int, level: float
) -> dict[str, Estimate]:
    """AUROC for several definitions of positive, from one ranking of the score and one set of resamples."""
    check_resampling(resamples, level)
    N, ranking = len(score), Ranking(score)
    truth = np.stack(list(positive.values()), axis=1).astype(np.float64)

    def areas(weights: Array) -> Array:
        n = weights @ truth
        with np.errstate(invalid="ignore"):
            return np.asarray((weights * ranking.centred(weights)) @ truth / (n * (N - n)) + 0.5)

    values, draws = areas(np.ones((1, N)))[0], blockwise(areas, multiplicities(N, resamples, seed), N)
    return {name: _estimate(float(values[i]), draws[:, i], N, level) for i, name in enumerate(positive)}


def _estimate(value: float, draws: Array, N: int, level: float) -> Estimate:
    return percentile_estimate(value, np.full(1, math.nan) if math.isnan(value) else draws, N, level)


def _among(*rows: int) -> Callable[[Array], Array]:
    """The correlation of the first two of ``rows``, given the rest if there are any."""
    picked = list(rows)
    of = _partial if len(picked) > 2 else _plain
    return lambda covariance: of(covariance[:, picked][:, :, picked])


def _plain(covariance: Array) -> Array:
    return np.asarray(correlation(covariance)[:, 0, 1])


def _partial(covariance: Array) -> Array:
    """Correlation of the first two rows given the others: the Schur complement of the covariance."""
    own, cross, other = covariance[:, :2, :2], covariance[:, :2, 2:], covariance[:, 2:, 2:]
    left = own - cross @ np.linalg.pinv(other, rcond=1e-10, hermitian=True) @ cross.transpose(0, 2, 1)
    variance = np.einsum("rii->ri", left)
    gone = (variance <= 1e-9 * np.einsum("rii->ri", own)).any(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = left[:, 0, 1] / np.sqrt(np.abs(variance[:, 0] * variance[:, 1]))
    return np.asarray(np.where(gone, np.nan, np.clip(r, -1, 1)))


def _rank_residual(values: Array, covariate: Array) -> Array:
    y, z = (stats.rankdata(row) - (len(row) + 1) / 2 for row in (values, covariate))
    slope = (y @ z) / (z @ z) if z.any() else 0.0
    # equal (score, norm) pairs must stay equal after rounding, and rank functions of the norm must vanish
    return np.asarray(np.round(y - slope * z, 9))
