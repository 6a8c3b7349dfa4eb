"""Exp4 (full): does a model's score repeat, when every model is perturbed at the same roles?

These are the four linear maps of a transformer block, which every tower has. A tower with a final projection or a
pooling head has more sites, and there the published comparison perturbed each model differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Passes, View
from mcdo.perturbation import Perturbation
from mcdo.stats import THRESHOLDS, Estimate, Reliability, reliability, spearman, trial_drift

MATCHED = ("qkv", "attention_output", "fc1", "fc2")
"""Roles that every tower has."""
OVERALL = "exp4_full_overall_summary.json"
Result = TypeVar("Result")


@dataclass(frozen=True)
class MatchedModels(Experiment[Result]):
    """N images, K trials at one T, under matched sites: what is asked of one model, and of all, rests on these runs."""

    name = "exp4_full_model_matrix"
    phase = "phase2"
    quick = {"n": 120, "passes": 32, "trials": 5}
    published = ("trace_pre", "trace_pre_relative", "angular_var")

    n: int = 500
    passes: int = 64
    trials: int = 10

    @property
    def matched(self) -> Perturbation:
        """The session's perturbation, where it says "all" at :data:`MATCHED`."""
        return self.dropout.at(*MATCHED) if self.dropout.sites == "all" else self.dropout

    def run(self, model: str) -> Passes:
        t = (self.passes,)
        return Passes(model, Images(self.n), self.protocol(t, self.trials, self.matched, geometry=t))

    def requests(self, about: View) -> Iterable[Passes]:
        return [self.run(model) for model in about.subject.models]


@dataclass(frozen=True)
class ModelReliabilityResult:
    """Of one model.

    Attributes:
        reliability, means: by score.
        norm: rank correlation of trace_pre with the feature norm.
        drift: relative growth of the mean trace_pre from trial to trial.

    """

    reliability: Mapping[str, Reliability]
    means: Mapping[str, float]
    norm: Estimate
    drift: Estimate


@dataclass(frozen=True)
class ModelReliability(MatchedModels[ModelReliabilityResult]):
    """Reliability of one model."""

    key = "exp4_full"
    files = Files(summary="{}/exp4_full_summary.json", overall=OVERALL)

    def compute(self, inputs: Inputs) -> ModelReliabilityResult:
        run = inputs[self.run(inputs.model)]
        scores = {name: run.scores(name) for name in self.reported}
        trace = scores["trace_pre"]
        sampling: dict[str, Any] = {"origins": run.origins, "seed": self.seed}
        return ModelReliabilityResult(
            reliability={name: reliability(values, **sampling) for name, values in scores.items()},
            means={name: float(values.mean()) for name, values in scores.items()},
            norm=spearman(trace, run.feature_norm, **sampling),
            drift=trial_drift(trace, **sampling, resamples=4000, level=0.99),
        )

    def claims(self) -> Sequence[Claim[ModelReliabilityResult]]:
        return [_repeats(score) for score in self.reported if score != "trace_pre_relative"]

    def summary(self, result: ModelReliabilityResult) -> Mapping[str, Any]:
        return {
            **{name: {**r.as_dict(), "mean": result.means[name]} for name, r in result.reliability.items()},
            "spearman_with_feature_norm": result.norm,
            "trial_drift": result.drift,
            "perturbation": self.matched,
        }

    def arrays(self, inputs: Inputs, result: ModelReliabilityResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.run(inputs.model)]
        trials = {f"trial_{name}": run.scores(name) for name in self.reported}
        named = {"paths": np.array(run.ids), "origins": np.array(run.origins), "feature_norm": run.feature_norm}
        return {"{}/exp4_full_trials.npz": {**named, **trials}}


def _repeats(score: str) -> Claim[ModelReliabilityResult]:
    return Claim(
        f"reliable/{score}",
        lambda r: r.reliability[score].estimate("spearman"),
        above=THRESHOLDS.usable_spearman,
        beside=lambda r: r.reliability[score].brief,
    )
