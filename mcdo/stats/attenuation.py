"""Rank correlations of single trials, and what their noise takes from them.

Noise makes a rank correlation smaller than that of the noise-free scores. Spearman (1904) divides by the root of the
reliabilities; here all of it is measured between single trials and by ranks, as in
:func:`~mcdo.stats.rank_matrix`. In simulation (ρ .786, K = 4 and 10, N = 2000; normal, t with three degrees of freedom
and log-normal scores, noise up to the size of the signal) the corrected mean was .782 to .791, where raw correlations
of means over trials were .54 to .77, and correcting those by the ICC of the mean gave .75 to .82.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, images, trial_mean, trials
from mcdo.stats.association import as_ranks, nearly_constant
from mcdo.stats.resampling import Estimate, Origins, correlation, rank_covariance
from mcdo.stats.sample import Figures, Inferred, Sample
from mcdo.stats.trials import shared_trials, widened, without_each

_ROUNDING = 1e-9


def disattenuated(rho: float, reliability_x: float, reliability_y: float) -> float:
    """ρ/√(rel_x rel_y), the correlation that error-free scores would have (Spearman 1904).

    NaN when a reliability is not positive. Not clipped: a value beyond 1 says that the reliabilities are too low.

    Raises:
        McdoError: for a correlation or a reliability beyond 1, such as one in per cent.

    """
    for name, value in (("rho", abs(rho)), ("reliability_x", reliability_x), ("reliability_y", reliability_y)):
        if value > 1 + _ROUNDING:
            raise McdoError(f"{name} is {value:g} in size; a correlation and a reliability are at most 1")
    shared = reliability_x * reliability_y
    return rho / math.sqrt(shared) if min(reliability_x, reliability_y) > 0 else math.nan


def no_correction(weak: Iterable[str]) -> str:
    """Why there is none: trials of ``weak`` scores."""
    return f"trials of {' and of '.join(weak)} do not rank alike beyond chance: no correction for noise"


def disattenuated_spearman(
    scores: ArrayLike,
    exact: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Spearman's ρ that ``scores`` [K, N], K >= 2, would have with ``exact`` [N] if they had no noise.

    Definition: mean ρ of a trial with ``exact`` over the root of the mean ρ between two trials. Not clipped at 1.
    Percentile interval of the bootstrap over origins, with ``shared_noise`` widened by the trials
    (:mod:`mcdo.stats.trials`). NaN where the trials' own correlation is not positive at ``level``: the correction would
    divide by noise.
    """
    held = trials("scores", scores)
    if len(held) < 2:
        raise McdoError("scores hold one trial, whose noise cannot be seen; give [K, N] with K >= 2")
    truth = images(3, scores=held[0], exact=exact)[1]

    def figure(trials: Sequence[Array]) -> Figures:
        rows = np.concatenate([trials[0], [truth]])
        i, j = np.triu_indices(len(trials[0]), 1)

        def of(weights: Array) -> Array:
            r = correlation(rank_covariance(rows, weights))
            own = r[:, i, j].mean(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.where(own > 0, r[:, :-1, -1].mean(axis=1) / np.sqrt(np.abs(own)), math.nan)[:, None]

        return of

    sample = Sample(len(truth), origins, seed, resamples, level)
    return _inferred(figure, {"scores": held}, sample, shared_noise, (-math.inf, math.inf), truth).estimate


def trial_spearman(
    x: ArrayLike,
    y: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Mean over trials of Spearman's ρ between ``x`` and ``y`` of the same trial, both [K, N].

    Percentile interval of the bootstrap over origins, with ``shared_noise`` widened by the trials
    (:mod:`mcdo.stats.trials`).
    """
    first, second = trials("x", x), trials("y", y)
    if first.shape != second.shape:
        raise McdoError(f"x has shape {list(first.shape)} and y {list(second.shape)}; give [K, N] of the same trials")

    def figure(trials: Sequence[Array]) -> Figures:
        def of(weights: Array) -> Array:
            pairs = zip(*trials, strict=True)
            rho = [correlation(rank_covariance(np.stack(pair), weights))[:, 0, 1] for pair in pairs]
            return np.asarray(np.mean(rho, axis=0))[:, None]

        return of

    sample = Sample(first.shape[1], origins, seed, resamples, level)
    return _inferred(figure, {"x": first, "y": second}, sample, shared_noise, (-1.0, 1.0)).estimate


def _inferred(
    figure: Callable[[Sequence[Array]], Figures],
    held: Mapping[str, Array],
    sample: Sample,
    shared_noise: bool,
    bounds: tuple[float, float],
    *exact: Array,
) -> Inferred:
    """The figure of trials ``held`` ([K, N] each) and ``exact`` [N]; undefined where too many of its draws are."""
    trials = list(held.values())
    if shared_noise:
        shared_trials({name: len(array) for name, array in held.items()})
    whole, draws = sample.both(figure(trials))
    if np.isnan(draws).mean() > (1 - sample.level) / 2:
        return sample.undefined(no_correction(held) if len(held) == 1 else "")
    reason = nearly_constant([*map(trial_mean, trials), *exact], sample.units)
    found = as_ranks(sample.inferred(whole[0], draws[:, 0]), sample.units, reason)
    if not shared_noise:
        return found
    without = [sample.whole(figure(left))[0] for left in without_each(trials)]
    return widened(found, np.array(without), bounds)
