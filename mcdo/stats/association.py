"""Does one quantity follow another? Spearman's ρ, plain and with a third held fixed, by the bootstrap over origins.

A figure that the data leave undefined (a constant argument) is NaN with a NaN interval, so that its verdict is
"undecided"; malformed input is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mcdo.stats._checks import Array, images, numbers
from mcdo.stats.resampling import Estimate, Origins, correlation, rank_covariance
from mcdo.stats.sample import Figures, Sample

RankFigure = Callable[[Array], Array]
"""A figure of rank covariances: [R, M, M] to [R]."""


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Spearman's ρ (1904) of two ``[N]`` arrays, N >= 3: Pearson's r of the ranks, ties at their mean rank."""
    return _estimate(np.stack(images(3, x=x, y=y)), Sample(np.size(x), origins, seed, resamples, level), among(0, 1))


def partial_spearman(
    x: ArrayLike,
    y: ArrayLike,
    given: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Spearman's ρ of ``x`` and ``y`` with the ranks of ``given`` ([N], or [C, N] for C covariates) held fixed.

    Definition: r of the residuals of rank(x) and rank(y), each after linear regression on the ranks of the
    covariates; for one covariate (r_xy − r_xz r_yz)/√((1 − r_xz²)(1 − r_yz²)) (Kendall 1942). Constant or repeated
    covariates change nothing; an argument that the covariates determine leaves NaN. ``[N]`` with N >= 3 + C.
    """
    covariates = np.atleast_2d(numbers("given", given))
    named = {f"given[{index}]": row for index, row in enumerate(covariates)}
    rows = np.stack(images(3 + len(covariates), x=x, y=y, **named))
    return _estimate(rows, Sample(rows.shape[1], origins, seed, resamples, level), among(*range(len(rows))))


def spearman_permutation_p(
    x: ArrayLike,
    y: ArrayLike,
    *,
    alternative: Literal["greater", "less", "two-sided"] = "two-sided",
    seed: int = 0,
    permutations: int = 1000,
) -> float:
    """Permutation p of Spearman's ρ under independence, by SciPy, with the +1 rule; exact where N! <= permutations.

    Images are exchanged one by one, so each must be an origin of its own.
    """
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


def among(*rows: int) -> RankFigure:
    """The rank correlation of the first two of ``rows``, given the rest if there are any."""
    picked = list(rows)
    of = _partial if len(picked) > 2 else _plain
    return lambda covariance: of(covariance[:, picked][:, :, picked])


def rank_figures(rows: Array, figures: Sequence[RankFigure]) -> Figures:
    """``figures`` of the rank covariance of ``rows`` [M, N] as functions of multiplicities."""

    def of(weights: Array) -> Array:
        covariance = rank_covariance(rows, weights)
        return np.stack([figure(covariance) for figure in figures], axis=1)

    return of


def _estimate(rows: Array, sample: Sample, figure: RankFigure) -> Estimate:
    whole, draws = sample.both(rank_figures(rows, [figure]))
    return sample.estimate(whole[0], draws[:, 0])


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
