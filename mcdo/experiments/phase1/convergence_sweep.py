"""Convergence: where does reliability saturate, and could one run at a smaller T have told?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.estimators import MonteCarloConfig
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Outcome, Passes, Settings, View
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    THRESHOLDS,
    Estimate,
    PredictedReliability,
    Reliability,
    UsablePasses,
    predicted_reliability,
    reliability,
    smallest_usable_passes,
)


@dataclass(frozen=True)
class ConvergenceResult:
    """Measured and predicted reliability of ``score`` by T, and the fewest passes predicted to be usable."""

    score: str
    measured: Mapping[int, Reliability]
    predicted: Mapping[int, PredictedReliability]
    usable_from: UsablePasses

    def agrees(self, passes: int) -> Outcome:
        """Whether the predicted and the measured interval of ρ have anything in common."""
        predicted, measured = self.predicted[passes].spearman, self.measured[passes].estimate("spearman")
        if np.isnan([predicted.low, predicted.high, measured.low, measured.high]).any():
            return "undecided"
        return "met" if predicted.low <= measured.high and measured.low <= predicted.high else "not met"


@dataclass(frozen=True)
class ConvergenceSweep(Experiment[ConvergenceResult]):
    """Few images, many passes; everything is predicted from the run as it was at ``predict_from`` passes."""

    key = "convergence"
    name = "convergence_sweep"
    phase = "phase1"
    about_estimator = "mc"
    files = Files(summary="convergence_summary.json", figure="convergence_sweep.png")
    of_one_model = True
    quick = {"n": 60, "trials": 3}
    knows_shared_noise = True

    n: int = 200
    passes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    trials: int = 5
    predict_from: int = 32
    score: str = "trace_pre"

    @classmethod
    def sizes(cls, settings: Settings) -> dict[str, Any]:
        """As everywhere; it is predicted from a T that is measured, and below the largest."""
        found = super().sizes(settings)
        smaller = [t for t in found["passes"][:-1] if t <= cls.predict_from]
        return {**found, "predict_from": max(smaller, default=found["passes"][0])}

    def run(self, model: str) -> Passes:
        return Passes(model, Images(self.n), MonteCarloConfig(self.dropout, self.passes, self.trials, self.seed))

    def requests(self, about: View) -> Iterable[Passes]:
        return (self.run(about.model),)

    def compute(self, inputs: Inputs) -> ConvergenceResult:
        run = inputs[self.run(inputs.model)]
        scores = {t: run.scores(self.score, t) for t in self.passes}
        pilot = {t: scores[t] for t in self.passes if t <= self.predict_from}
        # few trials cannot judge from the data whether masks are each image's own
        shared = self.dropout.shared_by_images
        how: dict[str, Any] = {"origins": run.origins, "shared_noise": shared, "seed": self.seed}
        return ConvergenceResult(
            score=self.score,
            measured={t: reliability(scores[t], **how) for t in self.passes},
            predicted=predicted_reliability(pilot, self.predict_from, self.passes, **how),
            usable_from=smallest_usable_passes(pilot, self.predict_from, self.passes, **how),
        )

    def claims(self) -> Sequence[Claim[ConvergenceResult]]:
        return [self._predicted(t) for t in self.passes if t > self.predict_from]

    def _predicted(self, passes: int) -> Claim[ConvergenceResult]:
        def measured(r: ConvergenceResult) -> Estimate | None:
            open_ = r.predicted[passes].status == "not predictable"
            return None if open_ else r.measured[passes].estimate("spearman")

        return Claim(
            f"predicted/T={passes}",
            measured,
            rule=("the interval predicted from a smaller T meets the measured one", lambda r: r.agrees(passes)),
            beside=lambda r: _said(r.predicted[passes], self.predict_from),
        )

    def summary(self, result: ConvergenceResult) -> Mapping[str, Any]:
        usable = result.usable_from
        return {
            "results": {
                f"T={t}": {"measured": result.measured[t], "predicted": result.predicted[t]} for t in self.passes
            },
            "smallest_usable_T": {
                "predicted": usable.continuous,
                "ci": [usable.low, usable.high],
                "on_grid": usable.on_grid,
                "limited_by": usable.limiting,
                "not_predictable": usable.reason,
                "measured": next((t for t in self.passes if result.measured[t].status == "usable"), None),
            },
        }

    def arrays(self, inputs: Inputs, result: ConvergenceResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.run(inputs.model)]
        trials = {f"trial_T{t}": run.scores(self.score, t) for t in self.passes}
        return {"convergence_trials.npz": {"paths": np.array(run.ids), **trials}}

    def title(self) -> str:
        return f"convergence of {self.score} (N={self.n}, K={self.trials}; predicted from T={self.predict_from})"

    def panels(self, inputs: Inputs, result: ConvergenceResult) -> Sequence[Panel]:
        later = [t for t in self.passes if t > self.predict_from]
        laws = dict.fromkeys(law for t in later for law in result.predicted[t].laws)
        series = {
            "measured": {str(t): result.measured[t].estimate("spearman") for t in self.passes},
            **{
                f"predicted, {law}": {
                    str(t): result.predicted[t].laws[law] for t in later if law in result.predicted[t].laws
                }
                for law in laws
            },
        }
        bar, label = THRESHOLDS.usable_spearman, "Spearman's ρ of two trials [95 %]"
        return (lambda axes: interval_panel(axes, series, bar, label, "passes T", joined=True),)


def _said(predicted: PredictedReliability, start: int) -> str:
    words = f"predicted from T={start}: {predicted.spearman}, {predicted.status}"
    return f"{words} ({predicted.reason})" if predicted.reason else words
