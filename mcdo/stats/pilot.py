"""What one run says of other numbers of passes: three laws for ranks, one for ICC, and where they cannot be trusted.

:mod:`mcdo.stats.prediction` says what the laws are and how well they do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, trials
from mcdo.stats.growth import (
    ENDS,
    Carriers,
    GrowthPoint,
    along,
    carriers,
    exponent,
    log_odds,
    measured_point,
    pooled_points,
    share_of,
)
from mcdo.stats.reliability import Reliability, reliability
from mcdo.stats.resampling import Estimate, Origins, Units
from mcdo.stats.signal_noise import snr_from_icc

Run = Reliability | ArrayLike | Mapping[int, Reliability | ArrayLike]
"""One run: scores [K, N] or their reliability, or either by T."""
AGREEMENT = 0.1
"""Laws whose values at one T lie further apart than this disagree."""
FEWEST_CARRIERS = 10
LEAST_SHARE = 0.25
"""Of the carriers of normal scores: fewer, and a few images carry the variance."""
SINGLE_TRIALS = 0.5
"""Noise that is nearer to one trial's for each image than to normal noise (:attr:`Carriers.single`)."""
MOST_TIED = 0.03
"""Share of pairs of images with the same score above which scores are taken for rounded: that noise has no T."""


@dataclass(frozen=True)
class Pilot:
    """One run.

    Attributes:
        measured: its figures by T.
        passes: the largest of these T.
        ranks: log odds of ρ by T, then by blocks of trials.
        shares: log odds of ICC by T, where it is above chance and at ``passes``.
        carriers: of the variance of its scores.
        tied: share of pairs of images with the same score, within trials.
        lost: degrees of freedom lost per trial.

    """

    measured: Mapping[int, Reliability]
    passes: int
    ranks: tuple[GrowthPoint, ...]
    shares: tuple[GrowthPoint, ...]
    carriers: Carriers
    tied: float
    lost: int

    @classmethod
    def of(
        cls, run: Run, passes: int, origins: Origins | None, lost: int, shared_noise: bool | None, seed: int
    ) -> Pilot:
        """From the scores or reliabilities of ``passes`` and, where given, of smaller T."""
        passes = arguments.whole("measured_passes", passes, least=1)
        runs = dict(run) if isinstance(run, Mapping) else {passes: run}
        if passes not in runs:
            raise McdoError(f"the run holds T={sorted(runs)}, not the measured_passes={passes} to predict from")
        if lost < 0 or min(runs) <= lost:
            raise McdoError(f"passes {sorted(runs)} with degrees_lost={lost}: passes must exceed degrees_lost >= 0")

        def figures(held: Reliability | ArrayLike) -> Reliability:
            if isinstance(held, Reliability):
                return held
            return reliability(held, origins=origins, shared_noise=shared_noise, seed=seed)

        measured = {T: figures(runs[T]) for T in sorted(runs) if passes >= T}
        start, scores = measured[passes], runs[passes]
        if start.status == "insufficient_trials":
            raise McdoError(
                f"no prediction from K={start.n_trials} trials with spearman {start.spearman} and SNR {start.snr}: "
                "run at least 2 trials whose scores vary over images"
            )
        ranks = [measured_point(run, T) for T, run in measured.items() if not math.isnan(run.spearman)]
        shares = [_share_point(run, T) for T, run in measured.items() if passes == T or run.snr_corrected_ci[0] > 0]
        carrying, tied = Carriers(math.nan, math.nan), 0.0
        if not isinstance(scores, Reliability):
            array = trials("scores", scores)
            units = Units.of(origins, array.shape[1])
            ranks += pooled_points(array, start, passes, units, seed)
            carrying, tied = carriers(array, units), _tied(array)
        return cls(measured, passes, tuple(ranks), tuple(shares), carrying, tied, lost)

    @property
    def run(self) -> Reliability:
        """The figures to predict from."""
        return self.measured[self.passes]

    def figure(self, name: str, passes: float) -> Estimate:
        """``spearman``, ``snr`` or ``icc`` at ``passes``; the interval holds both ways in which noise falls with T."""
        if name == "spearman":
            return self.spearman(passes)
        icc = self.icc(passes)
        if name == "icc":
            return icc
        return self._estimate(snr_from_icc(getattr(icc, end), self.run.n_trials) for end in ENDS)

    def spearman(self, passes: float) -> Estimate:
        """As the run measures it; beyond, by :meth:`_better` of two laws, the interval over all."""
        point, *others = (self.laws(passes, lost) for lost in self._losses(passes))
        if "run" in point:
            return _hull(point["run"], *(laws.get("run", laws["spearman_brown"]) for laws in others))
        return _hull(point[self._better(point)], *(law for laws in (point, *others) for law in laws.values()))

    def icc(self, passes: float) -> Estimate:
        """By its law, the interval over what the run's smaller T say of the law."""
        point, *others = (self._icc(passes, lost) for lost in self._losses(passes))
        return _hull(point["law"], *(law for laws in (point, *others) for law in laws.values()))

    def laws(self, passes: float, lost: int) -> dict[str, Estimate]:
        """ρ by each law; Spearman–Brown and growth from the nearest T that the run measures."""
        at = math.log(passes - lost)
        first, last = self.ranks[0], self.ranks[-1]
        within = first.clock(lost) - 1e-9 <= at <= last.clock(lost) + 1e-9
        anchor = measured_point(self.run, self.passes) if within else first if at < first.clock(lost) else last
        ahead = at - anchor.clock(lost)
        icc = _hull(*self._icc(passes, lost).values())
        laws = {
            "icc": self._estimate(normal_spearman(getattr(icc, end)) for end in ENDS),
            "spearman_brown": self._estimate(share_of(getattr(anchor, end) + ahead) for end in ENDS),
        }
        if within:
            laws["run"] = self._estimate(share_of(along(self.ranks, at, end, lost)) for end in ENDS)
        elif (power := self._power(self.ranks, lost)) is not None:
            laws["growth"] = self._estimate(share_of(getattr(anchor, end) + power * ahead) for end in ENDS)
        return laws

    @property
    def rare(self) -> bool:
        """Whether rare passes make the noise: of what more passes bring, the run holds too little."""
        return self.carriers.single > SINGLE_TRIALS

    def reason(self, passes: float) -> str:
        """Why nothing is predicted at ``passes``; empty where something is."""
        if passes in self.measured:
            return ""
        run, reasons = self.run, []
        if run.reason:
            reasons.append(f"no interval at T={self.passes}: {run.reason}")
        elif min(run.spearman_ci[0], run.snr_corrected_ci[0]) <= 0:
            reasons.append(f"not above chance at T={self.passes}")
        if self.carriers.units < FEWEST_CARRIERS or self.carriers.share < LEAST_SHARE:
            reasons.append(f"{self.carriers.units:.0f} of {run.n_origins} originals carry the variance")
        if self.rare:
            reasons.append("the noise of the images that have most of it comes from single trials")
        if self.tied > MOST_TIED:
            reasons.append(f"{self.tied:.0%} of the pairs of images have the same score, as if rounded")
        laws = self.laws(passes, self.lost)
        if "run" not in laws and _spread(laws) > AGREEMENT:
            said = ", ".join(f"{name} {law.value:.2f}" for name, law in laws.items())
            reasons.append(f"laws disagree at T={passes:.0f}: {said}")
        return "; ".join(reasons)

    def _icc(self, passes: float, lost: int) -> dict[str, Estimate]:
        """ICC by its law, and by the growth that the run's smaller T show where they are above chance."""
        start = self.shares[-1]
        ahead = math.log(passes - lost) - start.clock(lost)
        icc = {"law": self._estimate(share_of(getattr(start, end) + ahead) for end in ENDS)}
        if (power := self._power(self.shares, lost)) is not None:
            icc["growth"] = self._estimate(share_of(getattr(start, end) + power * ahead) for end in ENDS)
        return icc

    def _better(self, laws: Mapping[str, Estimate]) -> str:
        """The law that errs less within the run; the lower where the run cannot test them or they disagree."""
        if (span := self._span(self.ranks)) is None or _spread(laws) > AGREEMENT:
            return min(("icc", "spearman_brown"), key=lambda name: laws[name].value)
        start, stop = span
        at = stop.clock(self.lost)
        by_icc = normal_spearman(self._icc(math.exp(at) + self.lost, self.lost)["law"].value)
        by_odds = share_of(start.value + at - start.clock(self.lost))
        errors = {
            name: abs(value - share_of(stop.value)) for name, value in (("icc", by_icc), ("spearman_brown", by_odds))
        }
        return min(errors, key=lambda name: errors[name])

    def _power(self, curve: Sequence[GrowthPoint], lost: int) -> float | None:
        """Exponent of growth as the run shows it."""
        span = self._span(curve)
        return None if span is None else exponent(*span, lost)

    def _span(self, curve: Sequence[GrowthPoint]) -> tuple[GrowthPoint, GrowthPoint] | None:
        """Two points to test growth between: T and the largest blocks of trials, or about T/4 and T."""
        start = next(point for point in curve if (point.passes, point.blocks) == (self.passes, 1))
        if curve[-1].blocks > 1:
            return start, curve[-1]
        smaller = [point for point in curve if point.passes <= self.passes / 2]
        quarter = min(smaller, key=lambda point: abs(math.log(4 * point.passes / self.passes)), default=None)
        return None if quarter is None else (quarter, start)

    def _losses(self, passes: float) -> list[int]:
        """Degrees lost to try, the one asked for first."""
        least = min(passes, self.ranks[0].passes)
        return [self.lost, *(lost for lost in (0, 1) if lost != self.lost and lost < least)]

    def _estimate(self, ends: Iterable[float]) -> Estimate:
        value, low, high = ends
        return Estimate(value, low, high, self.run.n_origins, self.run.level)


def _tied(scores: Array) -> float:
    """Share of pairs of images with the same score in a trial of ``scores`` [K, N]."""
    counts = np.concatenate([np.unique(trial, return_counts=True)[1] for trial in scores])
    same = float((counts * (counts - 1)).sum())
    return same / float(scores.size * (scores.shape[1] - 1))


def _share_point(run: Reliability, passes: int) -> GrowthPoint:
    """The point of ICC, from the corrected SNR r: r/(1 + r)."""
    ratios = (run.snr_corrected, *run.snr_corrected_ci)
    return GrowthPoint(passes, 1, *(log_odds(1.0 if math.isinf(r) else r / (1 + r)) for r in ratios))


def normal_spearman(icc: float) -> float:
    """ρ between two normals with correlation ``icc`` (Pearson 1907)."""
    return 6 / math.pi * math.asin(icc / 2)


def _spread(laws: Mapping[str, Estimate]) -> float:
    values = [law.value for law in laws.values()]
    return max(values) - min(values)


def _hull(point: Estimate, *others: Estimate) -> Estimate:
    """``point`` with an interval that holds all; NaN where one is."""
    lows, highs = zip(*((law.low, law.high) for law in (point, *others)), strict=True)
    return replace(point, low=float(np.min(lows)), high=float(np.max(highs)))
