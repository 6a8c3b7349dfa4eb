"""Exp4 (full), across models: do encoders agree on which images are uncertain, and which of them repeats best?

The matrix over models is raw and corrected for each model's own noise, beside the same for the score over the squared
norm. Runs of other roles are refused: different perturbations cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcdo.experiments.phase2.exp4_full_models import OVERALL, MatchedModels
from mcdo.harness import ALL_MODELS, Claim, Files, Inputs, Settings, Subject
from mcdo.perturbation import check_comparable
from mcdo.report.figures import Panel
from mcdo.report.panels import correlation_panel, interval_panel
from mcdo.stats import THRESHOLDS, Estimate, RankMatrix, rank_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pair = tuple[str, str]


@dataclass(frozen=True)
class AgreementResult:
    """By score, the matrix over models, and the paired differences of their reliabilities; empty for one model."""

    matrices: Mapping[str, RankMatrix]

    def weakest(self, score: str) -> Pair | None:
        """The pair whose corrected correlation may be lowest, one that is undefined before all others."""
        if not self.matrices:
            return None
        pairs = self.matrices[score].disattenuated
        return min(pairs, key=lambda pair: -math.inf if math.isnan(pairs[pair].low) else pairs[pair].low)


@dataclass(frozen=True)
class ModelAgreement(MatchedModels[AgreementResult]):
    """All models of the session together."""

    key = "exp4_full_agreement"
    files = Files(
        summary="exp4_full_agreement_summary.json",
        overall=OVERALL,
        figure="exp4_full_model_matrix.png",
    )

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return (Subject(ALL_MODELS, settings.models),)

    def compute(self, inputs: Inputs) -> AgreementResult:
        runs = {model: inputs[self.run(model)] for model in inputs.subject.models}
        if len(runs) < 2:
            return AgreementResult({})
        check_comparable({model: run.roles for model, run in runs.items()})
        origins = next(iter(runs.values())).origins

        def matrix(score: str) -> RankMatrix:
            scores = {model: run.scores(score) for model, run in runs.items()}
            return rank_matrix(scores, origins=origins, seed=self.seed, resamples=500)

        return AgreementResult({score: matrix(score) for score in self.reported})

    def claims(self) -> Sequence[Claim[AgreementResult]]:
        """That every two models agree: the weakest pair decides. All must lie above zero, so no correction is due."""
        return (Claim("agreement", _of_the_weakest, above=0.0, beside=_beside),)

    def summary(self, result: AgreementResult) -> Mapping[str, Any]:
        return {
            "cross_model": result.matrices,
            "correction": "Holm over the differences of reliability of one score",
            "perturbation": self.matched,
        }

    def overall(self, result: AgreementResult, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"cross_model": summary["cross_model"]} if result.matrices else {}

    def title(self) -> str:
        sites = self.matched.sites
        named = sites if isinstance(sites, str) else ", ".join(sites)
        return f"matched sites ({named}; p={self.dropout.p:g}, N={self.n}, T={self.passes}, K={self.trials})"

    def panels(self, inputs: Inputs, result: AgreementResult) -> Sequence[Panel]:
        """Reliability by model, and the corrected matrices of the score and of its norm-free control."""
        if not result.matrices:
            return ()

        def repeats(axes: Axes) -> None:
            series = {score: matrix.reliability for score, matrix in result.matrices.items()}
            interval_panel(axes, series, THRESHOLDS.usable_spearman, "mean ρ between trials [95 %]", "model")

        def agrees(axes: Axes, score: str) -> None:
            matrix = result.matrices[score]
            correlation_panel(
                axes, matrix.names, matrix.values("disattenuated"), f"{score}, corrected for noise", "model"
            )

        return repeats, lambda axes: agrees(axes, "trace_pre"), lambda axes: agrees(axes, "trace_pre_relative")


def _of_the_weakest(result: AgreementResult) -> Estimate | None:
    pair = result.weakest("trace_pre")
    return None if pair is None else result.matrices["trace_pre"].disattenuated[pair]


def _beside(result: AgreementResult) -> str:
    pair = result.weakest("trace_pre")
    if pair is None:
        return "agreement needs at least two models; name them with --models"
    raw, relative = (
        result.matrices["trace_pre"].raw[pair],
        result.matrices["trace_pre_relative"].disattenuated[pair],
    )
    return f"weakest pair {'~'.join(pair)}, raw {raw}; over the squared norm {relative}"
