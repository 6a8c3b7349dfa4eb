"""Reliability at other numbers of passes, predicted from one run, and the fewest passes that would be usable.

A score from T passes is the image's own value plus noise of variance c/T, so with λ the noise-corrected variance
between images ICC(T) = λ/(λ + c/T), and SNR(T) at K trials is λT/c + 1/K: exact for independent passes, whatever their
distribution, as long as λ and c are not those of a few images. Noise falls as 1/(T − 1) instead where features are near
normal over passes (``degrees_lost=1``); the intervals hold both.

**Ranks obey no law of their own.** Three say what ρ is at T:

- ``icc``: ρ = (6/π) asin(ICC/2), of normal images and noise (Pearson 1907). Too low where scores are skewed and
  their noise grows with them, far too high where a few images carry λ.
- ``spearman_brown``: odds of ρ grow as T (Spearman 1910, Brown 1910). Far too high where rare passes are disturbed: the
  calm passes rank images at small T, the disturbances at large T, and ρ stays where it is or falls in between.
- ``growth``: odds of ρ grow by the power of T that the run itself shows.

Up to K/2 times its T, no law is needed: means of disjoint blocks of trials measure ρ there (``run``, see
:mod:`mcdo.stats.growth`). Beyond, the laws start from the largest blocks, and the interval holds all three, each with
its sampling error. The value is that of ``icc`` or ``spearman_brown``: the one that errs less on the run's own blocks
or smaller T; the lower one where there are neither, or where the laws disagree.

**Not predictable** is a status that the intervals leave open where there is a reason to distrust single values: the
laws lie more than .1 apart, the run is not above chance, a few originals carry the variance, fewer than ten or than a
quarter of the number in normal scores, single trials make the noise (:func:`mcdo.stats.growth.carriers`), or scores are
as if rounded. Where all
lower and all upper ends give one status, that status stands; where single trials make the noise, those of rare passes,
only "failed" does.

**Simulated** in tests/calibration, twelve populations from even images and near-normal passes to one image in a hundred
30 times as uncertain and one pass in a hundred disturbed: 95 % intervals of ρ cover .97–1.00 on average and .90 at
least, where Spearman–Brown with sampling error only covers .41–.95, and nothing where passes are disturbed. ICC covers
.97–.99 from K = 5 on and .93–.97 at K = 3; less where the sample cannot know (few samples hold a strange image; an
energy without third moment). A decided status was better than measured in 2 of 270 predictions of that last population
and in none of the eleven others. docs/experiments/convergence.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats.growth import ENDS, End
from mcdo.stats.pilot import Pilot, Run
from mcdo.stats.resampling import Estimate, Origins
from mcdo.stats.status import THRESHOLDS, Status, Thresholds, status_of

PredictedStatus = Status | Literal["not predictable"]
_FARTHEST = 16  # octaves above the pilot within which usable passes are looked for
_STEPS = 8  # of an octave


@dataclass(frozen=True)
class PredictedReliability:
    """Expected figures at ``passes``, each with an interval that holds the sampling error and the laws' own.

    Attributes:
        passes: T.
        spearman: ρ as the run measures it in blocks of trials, beyond them by a law.
        snr: at as many trials as the run has.
        icc: ICC(1).
        status: that of the three values; "not predictable" where it is not decided and there is a ``reason``.
        decided: whether the status is the same at all lower and at all upper ends, and failed where rare passes make
            the noise.
        worst: the status of the lower ends.
        best: the status of the upper ends.
        laws: ρ by each: "icc", "spearman_brown", "growth" (where the run shows one), "run" (where it measures it).
        reason: why a single value is not to be trusted; empty where it is.

    """

    passes: int
    spearman: Estimate
    snr: Estimate
    icc: Estimate
    status: PredictedStatus
    decided: bool
    worst: Status
    best: Status
    laws: Mapping[str, Estimate]
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For strict JSON."""
        figures = {name: getattr(self, name).as_dict() for name in ("spearman", "snr", "icc")}
        texts = {name: getattr(self, name) for name in ("status", "decided", "worst", "best", "reason")}
        return {**figures, **texts, "laws": {name: law.as_dict() for name, law in self.laws.items()}}


@dataclass(frozen=True)
class UsablePasses:
    """Smallest T predicted to be usable: as a real number, and on the grid asked for; None where no T would do.

    At ``low`` all figures are usable at their upper, at ``high`` all at their lower interval ends: plan with ``high``.
    ``limiting`` names the figure that needs the most passes; ``reason`` says why ``continuous`` is not to be trusted.
    """

    continuous: float | None
    low: float | None
    high: float | None
    on_grid: int | None
    limiting: str
    reason: str


def predicted_reliability(
    run: Run,
    measured_passes: int,
    target_passes: Iterable[int],
    *,
    origins: Origins | None = None,
    degrees_lost: int = 0,
    shared_noise: bool | None = None,
    thresholds: Thresholds = THRESHOLDS,
    seed: int = 0,
) -> dict[int, PredictedReliability]:
    """Expected reliability at each of ``target_passes``, from one ``run`` of ``measured_passes``.

    Args:
        run: scores [K, N], or one run's scores by T, ``{T: [K, N]}``: those of smaller T test the laws where K < 4
            trials make no blocks, and are measured, not predicted, themselves; larger T are not looked at. Instead of
            scores their :class:`Reliability` will do, without blocks and without a look at who carries the variance.
        measured_passes: T of the scores to predict from.
        target_passes: T to predict.
        origins: the original of each image, [N]; intervals count originals.
        degrees_lost: of each run's passes, 0 or 1: noise falls as 1/(T − degrees_lost).
        shared_noise: as in :func:`~mcdo.stats.reliability.reliability`.
        thresholds: of the status.
        seed: of the bootstrap and of the choice of blocks.

    Raises:
        McdoError: for one trial, scores that do not vary, or passes that do not exceed ``degrees_lost``.

    """
    pilot = Pilot.of(run, measured_passes, origins, degrees_lost, shared_noise, seed)
    targets = arguments.wholes("target_passes", target_passes)
    return {passes: _predicted(pilot, passes, thresholds) for passes in targets}


def smallest_usable_passes(
    run: Run,
    measured_passes: int,
    grid: Iterable[int] = (),
    *,
    origins: Origins | None = None,
    degrees_lost: int = 0,
    shared_noise: bool | None = None,
    thresholds: Thresholds = THRESHOLDS,
    seed: int = 0,
) -> UsablePasses:
    """The fewest passes at which :func:`predicted_reliability` reaches "usable", at least 2 (a variance needs two).

    Looked for up to 2^16 times the measured passes; usable there and at every larger T.
    """
    pilot = Pilot.of(run, measured_passes, origins, degrees_lost, shared_noise, seed)
    bars = {"spearman": thresholds.usable_spearman, "snr": thresholds.usable_snr, "icc": thresholds.usable_icc}
    figure = cache(pilot.figure)  # all look over one grid

    def fewest(names: Iterable[str], end: End) -> float | None:
        return _fewest(lambda T: all(getattr(figure(name, T), end) >= bars[name] for name in names), pilot)

    needed = {name: fewest([name], "value") for name in bars}
    continuous = fewest(bars, "value")
    return UsablePasses(
        continuous=continuous,
        low=fewest(bars, "high"),
        high=fewest(bars, "low"),
        on_grid=min((passes for passes in grid if continuous is not None and passes > continuous - 1e-9), default=None),
        limiting=max(needed, key=lambda name: needed[name] or math.inf),
        reason=pilot.reason(measured_passes if continuous is None else continuous),
    )


def _predicted(pilot: Pilot, passes: int, thresholds: Thresholds) -> PredictedReliability:
    if passes <= pilot.lost:
        raise McdoError(f"passes {passes} with degrees_lost={pilot.lost}: passes must exceed degrees_lost >= 0")
    of = pilot.measured[passes].estimate if passes in pilot.measured else lambda name: pilot.figure(name, passes)
    rho, snr, icc = of("spearman"), of("snr"), of("icc")
    status, worst, best = (
        status_of(getattr(rho, end), getattr(snr, end), getattr(icc, end), thresholds) for end in ENDS
    )
    reason = pilot.reason(passes)
    decided = worst == best != "insufficient_trials" and not (pilot.rare and best != "failed")
    return PredictedReliability(
        passes=passes,
        spearman=rho,
        snr=snr,
        icc=icc,
        status="not predictable" if reason and not decided else status,
        decided=decided,
        worst=worst,
        best=best,
        laws=pilot.laws(passes, pilot.lost),
        reason=reason,
    )


def _fewest(usable: Callable[[float], bool], pilot: Pilot) -> float | None:
    """The T from which on ``usable`` holds, between 2 and 2^16 times the pilot's; None where it does not there."""
    octaves = _FARTHEST + math.log2(pilot.passes / 2)
    grid = 2.0 ** (1 + np.linspace(0, octaves, math.ceil(octaves * _STEPS) + 1))
    holds = [usable(T) for T in grid]
    if not holds[-1]:
        return None
    if all(holds):
        return 2.0
    last = max(i for i, held in enumerate(holds) if not held)
    low, high = float(grid[last]), float(grid[last + 1])
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if usable(middle) else (middle, high)
    return high
