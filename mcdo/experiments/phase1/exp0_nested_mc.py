"""Exp0: does the score rank images the same way when it is measured again, and from how many passes on?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Passes, View
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import THRESHOLDS, Estimate, Reliability, rank_matrix, reliability, trial_drift
from mcdo.stats.trials import few_trials

SPACES = {"pre_norm": "trace_pre", "post_norm": "trace_post"}
"""Published names of the two spaces, and the score of each."""


@dataclass(frozen=True)
class NestedResult:
    """What repeated trials agree on, by space.

    Attributes:
        reliability: by T, then by space.
        gain: mean rank correlation between two trials, at the largest T less at the smallest.
        drift: relative growth of the mean score from trial to trial, at the largest T.

    """

    reliability: Mapping[int, Mapping[str, Reliability]]
    gain: Mapping[str, Estimate]
    drift: Mapping[str, Estimate]


@dataclass(frozen=True)
class NestedPasses(Experiment[NestedResult]):
    """N images, K trials, nested T."""

    key = "exp0"
    name = "exp0_nested_mc"
    phase = "phase1"
    about_estimator = "mc"
    files = Files.of_each("exp0", "exp0_nested_mc")
    quick = {"n": 120, "trials": 5}
    knows_shared_noise = True

    n: int = 500
    passes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    trials: int = 10

    def run(self, model: str) -> Passes:
        return Passes(model, Images(self.n), self.protocol(self.passes, self.trials))

    @property
    def spaces(self) -> dict[str, str]:
        """Scores by the name of their space; further ones by their own."""
        return {**SPACES, **{name: name for name in self.further if name not in SPACES.values()}}

    def obstacles(self, about: View) -> Iterable[str]:
        """Too few trials, where all images of a pass share its noise."""
        return few_trials(self.trials) if self.dropout.shared_by_images else ()

    def requests(self, about: View) -> Iterable[Passes]:
        return (self.run(about.model),)

    def compute(self, inputs: Inputs) -> NestedResult:
        run = inputs[self.run(inputs.model)]
        first, last = self.passes[0], self.passes[-1]
        shared = self.dropout.shared_by_images
        how: dict[str, Any] = {"origins": run.origins, "shared_noise": shared, "seed": self.seed}
        simultaneous = 2 * len(self.spaces)

        def gain(score: str) -> Estimate:
            ends = {str(t): run.scores(score, t) for t in (first, last)}
            matrix = rank_matrix(ends, **how)
            return matrix.reliability_difference[str(first), str(last)].estimate

        return NestedResult(
            reliability={
                t: {
                    space: reliability(run.scores(score, t), **{**how, "shared_noise": shared or None})
                    for space, score in self.spaces.items()
                }
                for t in self.passes
            },
            gain={space: gain(score) for space, score in self.spaces.items()},
            drift={
                # all claims of two models at once: 99 % that no interval misses zero where nothing drifts
                space: trial_drift(run.scores(score, last), **how, resamples=4000, level=1 - 0.01 / simultaneous)
                for space, score in self.spaces.items()
            },
        )

    def claims(self) -> Sequence[Claim[NestedResult]]:
        return [
            Claim(f"more_passes_less_noise/{score}", lambda r, space=space: r.gain[space], above=0.0)  # type: ignore[misc]
            for space, score in self.spaces.items()
        ]

    def summary(self, result: NestedResult) -> Mapping[str, Any]:
        table = {f"T={t}": by for t, by in result.reliability.items()}
        return {
            "results": table,
            "gain_in_spearman": result.gain,
            "trial_drift": result.drift,
        }

    def overall(self, result: NestedResult, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"results": summary["results"]}

    def arrays(self, inputs: Inputs, result: NestedResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.run(inputs.model)]
        return {
            f"{{}}/exp0_trials_T{t}.npz": {
                "paths": np.array(run.ids),
                "trial_pre": run.scores("trace_pre", t),
                "trial_post": run.scores("trace_post", t),
                **{f"trial_{name}": run.scores(name, t) for name in self.further},
            }
            for t in self.passes
        }

    def documents(self, inputs: Inputs, result: NestedResult) -> Mapping[str, Any]:
        return {"../manifest_all.json": inputs.images(Images(self.n)).manifest()}

    def panels(self, inputs: Inputs, result: NestedResult) -> Sequence[Panel]:
        series = {
            score: {str(t): by[space].estimate("spearman") for t, by in result.reliability.items()}
            for space, score in self.spaces.items()
        }
        bar, label = THRESHOLDS.usable_spearman, "Spearman's ρ of two trials [95 %]"
        return (lambda axes: interval_panel(axes, series, bar, label, "passes T", joined=True),)

    def title(self) -> str:
        return f"reliability over passes (N={self.n}, K={self.trials})"
