"""Reliability at other numbers of passes, predicted from one run, and the fewest passes that would be usable.

A score from T passes is the image's own value plus noise of variance c/T, so with λ the noise-corrected variance
between images ICC(T) = λ/(λ + c/T), and SNR(T) at K trials is λT/c + 1/K. For the ranking, the same law is applied to
the measured Spearman itself: ρ(T) = fρ/(1 + (f − 1)ρ), f = T/T₀ (Spearman 1910, Brown 1910).

Why not through ICC and the normal-theory ρ = (6/π) asin(r/2)? Scores are variances, skewed and with noise that
grows with the score; ranks see a monotone transform in which that noise is even, ICC does not. In simulation
(log-normal images × χ² noise, N = 500, K = 10) the mean error in ρ from T₀ = 8 or 32 to T = 64 was at most .023 either
way at mild skew (σ = .25, .5), but .002 against .009 at σ = 1. With heavy-tailed noise (one pass in ten disturbs a
feature) and a measured ρ below about .3, Spearman–Brown is too low by up to .17: cautious, never optimistic
when T > T₀. Predictions down to a smaller T lean the other way (too high by up to .07; heavy tails .16).

The law in T: noise falls as 1/T when single passes are heavy-tailed, as 1/(T − 1) when features are near normal over
passes. ``degrees_lost=1`` selects the second; it removes the error of about .02 seen above at T₀ = 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats.reliability import THRESHOLDS, Interval, Reliability, Status, Thresholds, reliability, status_of
from mcdo.stats.resampling import Estimate


@dataclass(frozen=True)
class PredictedReliability:
    """Expected figures at ``passes``, each with the interval carried over from the measured run."""

    passes: int
    spearman: Estimate
    snr: Estimate
    icc: Estimate
    status: Status


@dataclass(frozen=True)
class UsablePasses:
    """Smallest T predicted to be usable: as a real number, and on the grid asked for; None where no T would do.

    ``low`` and ``high`` hold for all figures at their upper, or all at their lower, interval ends at once, so the
    pair is on the cautious side. ``limiting`` names the figure that needs the most passes.
    """

    continuous: float | None
    low: float | None
    high: float | None
    on_grid: int | None
    limiting: str


def predicted_reliability(
    run: Reliability | ArrayLike,
    measured_passes: int,
    target_passes: Iterable[int],
    *,
    degrees_lost: int = 0,
    thresholds: Thresholds = THRESHOLDS,
    seed: int = 0,
) -> dict[int, PredictedReliability]:
    """Expected reliability at each of ``target_passes``, from one ``run`` ([K, N] scores, or their Reliability).

    A figure that is not above chance in the run (corrected SNR or ρ <= 0) is predicted to stay at chance. Intervals
    are the measured ones carried through the same monotone maps, which is what a percentile bootstrap of the
    prediction would give. They do not hold the error of the law itself.
    """
    measured = _measured(run, seed)
    return {
        int(passes): _at(measured, int(passes), _factor(measured_passes, int(passes), degrees_lost), thresholds)
        for passes in target_passes
    }


def smallest_usable_passes(
    run: Reliability | ArrayLike,
    measured_passes: int,
    grid: Iterable[int] = (),
    *,
    degrees_lost: int = 0,
    thresholds: Thresholds = THRESHOLDS,
    seed: int = 0,
) -> UsablePasses:
    """The fewest passes at which :func:`predicted_reliability` reaches "usable", at least 2 (a variance needs two)."""
    measured = _measured(run, seed)
    _factor(measured_passes, measured_passes, degrees_lost)

    def needed(spearman: float, corrected: float) -> dict[str, float | None]:
        wanted = {
            "spearman": (_odds(thresholds.usable_spearman), _odds(spearman)),
            "snr": (thresholds.usable_snr - 1 / measured.n_trials, corrected),
            "icc": (_odds(thresholds.usable_icc), corrected),
        }
        kept = measured_passes - degrees_lost
        return {
            name: max(2.0, degrees_lost + kept * goal / have) if have > 0 else None
            for name, (goal, have) in wanted.items()
        }

    at = needed(measured.spearman, measured.snr_corrected)
    continuous = _largest(at)
    return UsablePasses(
        continuous=continuous,
        low=_largest(needed(measured.spearman_ci[1], measured.snr_corrected_ci[1])),
        high=_largest(needed(measured.spearman_ci[0], measured.snr_corrected_ci[0])),
        on_grid=min((passes for passes in grid if continuous is not None and passes > continuous - 1e-9), default=None),
        limiting=max(at, key=lambda name: at[name] or math.inf),
    )


def _measured(run: Reliability | ArrayLike, seed: int) -> Reliability:
    found = run if isinstance(run, Reliability) else reliability(run, seed=seed)
    if found.status == "insufficient_trials":
        raise McdoError(
            f"no prediction from K={found.n_trials} trials with spearman {found.spearman} and SNR {found.snr}: "
            "run at least 2 trials whose scores vary over images"
        )
    return found


def _factor(measured: int, target: int, lost: int) -> float:
    if lost < 0 or measured <= lost or target <= lost:
        raise McdoError(f"passes {measured} -> {target} with degrees_lost={lost}: passes must exceed degrees_lost >= 0")
    return (target - lost) / (measured - lost)


def _odds(share: float) -> float:
    return math.inf if share >= 1 else share / (1 - share)


def _share(odds: float) -> float:
    """Inverse of odds, chance (0) for what is not above it."""
    return 1.0 if math.isinf(odds) else max(0.0, odds) / (1 + max(0.0, odds))


def _largest(needed: dict[str, float | None]) -> float | None:
    values = [value for value in needed.values() if value is not None]
    return max(values) if len(values) == len(needed) else None


def _at(run: Reliability, passes: int, factor: float, thresholds: Thresholds) -> PredictedReliability:
    def carried(value: float, ends: Interval, kind: str) -> Estimate:
        def to(measured: float) -> float:
            if kind == "spearman":
                return _share(factor * _odds(max(0.0, measured)))
            scaled = factor * max(0.0, measured)
            return _share(scaled) if kind == "icc" else scaled + 1 / run.n_trials

        return Estimate(to(value), to(ends[0]), to(ends[1]), run.n_origins, run.level)

    spearman = carried(run.spearman, run.spearman_ci, "spearman")
    snr = carried(run.snr_corrected, run.snr_corrected_ci, "snr")
    icc = carried(run.snr_corrected, run.snr_corrected_ci, "icc")
    return PredictedReliability(passes, spearman, snr, icc, status_of(spearman.value, snr.value, icc.value, thresholds))
