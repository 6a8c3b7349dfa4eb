"""Exp4 (subset): trace against angular variance as the recipe, on the same passes.

It shares exp0's passes, so its trace figures *are* exp0's: their agreement is evidence of nothing, and is not offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.estimators import MonteCarloConfig
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Passes, View
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import THRESHOLDS, Estimate, Reliability, rank_matrix, reliability
from mcdo.stats.trials import few_trials

SCORES = {"trace": "trace_pre", "angular": "angular_var"}


@dataclass(frozen=True)
class RecipeResult:
    """Two scores of the same passes.

    Attributes:
        reliability, means: by score.
        advantage: mean rank correlation between two trials, of the trace less that of the angular variance.
        agreement: rank correlation of their means over trials.

    """

    reliability: Mapping[str, Reliability]
    means: Mapping[str, float]
    advantage: Estimate
    agreement: Estimate


@dataclass(frozen=True)
class SubsetRecipe(Experiment[RecipeResult]):
    """N images, K trials at one T."""

    key = "exp4"
    name = "exp4_subset_recipe"
    phase = "phase1"
    about_estimator = "mc"
    files = Files(overall="exp4_subset_summary.json", figure="exp4_{}.png")
    quick = {"n": 120, "trials": 5}
    knows_shared_noise = True

    n: int = 500
    passes: int = 64
    trials: int = 10

    def run(self, model: str) -> Passes:
        """A part of exp0's run, with the angular variance at T."""
        t = (self.passes,)
        return Passes(model, Images(self.n), MonteCarloConfig(self.dropout, t, self.trials, self.seed, geometry=t))

    def obstacles(self, about: View) -> Iterable[str]:
        """Too few trials, where all images of a pass share its noise."""
        return few_trials(self.trials) if self.dropout.shared_by_images else ()

    def requests(self, about: View) -> Iterable[Passes]:
        return (self.run(about.model),)

    def compute(self, inputs: Inputs) -> RecipeResult:
        run = inputs[self.run(inputs.model)]
        scores = {name: run.scores(score) for name, score in SCORES.items()}
        shared = self.dropout.shared_by_images
        how: dict[str, Any] = {"origins": run.origins, "seed": self.seed}
        matrix = rank_matrix({name: scores[name] for name in ("angular", "trace")}, **how, shared_noise=shared)
        return RecipeResult(
            reliability={name: reliability(s, **how, shared_noise=shared or None) for name, s in scores.items()},
            means={name: float(values.mean()) for name, values in scores.items()},
            advantage=matrix.reliability_difference["angular", "trace"].estimate,
            agreement=matrix.pair("raw", "angular", "trace"),
        )

    def claims(self) -> Sequence[Claim[RecipeResult]]:
        return (
            Claim(
                "trace_more_reliable_than_angular",
                lambda r: r.advantage,
                above=0.0,
                beside=lambda r: ", ".join(f"{name} {of.estimate('spearman')}" for name, of in r.reliability.items()),
            ),
        )

    def summary(self, result: RecipeResult) -> Mapping[str, Any]:
        return {
            **{name: {**r.as_dict(), "mean": result.means[name]} for name, r in result.reliability.items()},
            "spearman_trace_angular": result.agreement,
            "spearman_trace_less_angular": result.advantage,
        }

    def arrays(self, inputs: Inputs, result: RecipeResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.run(inputs.model)]
        trials = {f"trial_{'pre' if name == 'trace' else name}": run.scores(score) for name, score in SCORES.items()}
        return {"exp4_{}.npz": {"paths": np.array(run.ids), **trials}}

    def panels(self, inputs: Inputs, result: RecipeResult) -> Sequence[Panel]:
        spearman = {"two trials": {SCORES[name]: r.estimate("spearman") for name, r in result.reliability.items()}}
        return (lambda axes: interval_panel(axes, spearman, THRESHOLDS.usable_spearman, "Spearman's ρ [95 %]"),)

    def title(self) -> str:
        return f"the recipe (N={self.n}, T={self.passes}, K={self.trials})"
