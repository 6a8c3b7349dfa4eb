"""Exp5 (subset): does the score follow ambiguity, or only the norm of the feature?

The targets come from a deterministic pass and zero-shot prompts made of class *names*. Every score stands beside its
correlation given the feature norm, and beside the norm itself as a score that costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.images import ImageSet
from mcdo.names import file_name
from mcdo.stats import AmbiguityTargets, Estimate, ambiguity_estimates, ambiguity_report, ambiguity_targets, proportion

FOLDER = "exp5_subset_ambiguity"
RHO_ENTROPY_BAR = 0.3
AUROC_ENTROPY_BAR = 0.6
"""Sanity bars of S0 §6."""
BARS = {
    "rho_entropy": ("rho_uncertainty_vs_entropy", RHO_ENTROPY_BAR),
    "auroc_high_entropy": ("auroc_high_entropy", AUROC_ENTROPY_BAR),
}
"""By claim: the figure, and what it must lie above."""


@dataclass(frozen=True)
class Exp5SubsetConfig(ExperimentConfig):
    """N images, one trial at one T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 500}

    n: int = 5000
    passes: int = 64
    trials: int = 1


@dataclass(frozen=True)
class Exp5SubsetResult:
    """Targets by head, estimates of the traces against the softmax targets, and reports of every score."""

    targets: dict[str, AmbiguityTargets]
    estimates: dict[str, dict[str, Estimate]]
    reports: dict[str, dict[str, Any]]
    accuracy: Estimate | None


def needs(config: Exp5SubsetConfig, model: str) -> Need:
    """One trial."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed))


def compute(
    config: Exp5SubsetConfig, run: MonteCarloRun, logits: NDArray[np.float64], labels: NDArray[np.int64] | None
) -> Exp5SubsetResult:
    """Everything from the first trial at T.

    Args:
        config: the protocol.
        run: the measurement.
        logits: ``[templates, N, C]`` from :func:`~mcdo.encoders.zero_shot.zero_shot_logits`.
        labels: ``[N]``, or None where unknown.

    """
    targets = {
        "softmax": ambiguity_targets(logits, labels, head="softmax"),
        "sigmoid": ambiguity_targets(logits, labels, head="sigmoid"),
    }
    scores = {name: run.scores(name, config.passes)[0] for name in ("trace_pre", "trace_post")}
    scores["trace_pre_relative"] = run.scores("trace_pre_relative", config.passes)[0]
    scores["feature_norm"] = run.feature_norm
    seed, norm = config.seed, run.feature_norm
    reports = {
        f"{name}/{head}": ambiguity_report(
            score, target, None if name == "feature_norm" else norm, seed=seed, resamples=200
        )
        for name, score in scores.items()
        for head, target in targets.items()
    }
    correct = targets["softmax"].correct
    return Exp5SubsetResult(
        targets=targets,
        estimates={
            name: ambiguity_estimates(scores[name], targets["softmax"], norm, seed=seed)
            for name in ("trace_pre", "trace_post")
        },
        reports=reports,
        accuracy=None if correct is None else proportion(int(correct.sum()), len(correct)),
    )


def write(
    config: Exp5SubsetConfig,
    run: MonteCarloRun,
    images: ImageSet,
    logits: NDArray[np.float64],
    result: Exp5SubsetResult,
    reports: Path,
    session: str,
) -> Path:
    """Per model a summary and the arrays; ``exp5_subset_overall_summary.json`` for all."""
    folder, targets = reports / FOLDER, result.targets["softmax"]
    write_npz(
        folder / f"exp5_subset_{file_name(run.encoder)}.npz",
        paths=np.array(run.ids),
        uncertainty=run.scores("trace_pre", config.passes)[0],
        margin=-targets.neg_margin,
        entropy=targets.entropy,
        prompt_sensitivity=targets.prompt_sensitivity if targets.prompt_sensitivity is not None else np.array([]),
        logits=logits[0].astype(np.float32),
        gt_labels=np.full(len(run.ids), -1) if images.labels is None else images.labels,
        pred_labels=targets.predicted,
        feature_norm=run.feature_norm,
    )
    summary: dict[str, Any] = {
        "model": run.encoder,
        **result.reports["trace_pre/softmax"],
        "accuracy": None if result.accuracy is None else result.accuracy.as_dict(),
        "scores": result.reports,
        "templates": TEMPLATES,
        **origin(config, run),
    }
    write_json(folder / f"exp5_subset_{file_name(run.encoder)}_summary.json", summary)
    overall = folder / "exp5_subset_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, summary)
    left_out = [{"path": image.path, "reason": image.reason} for image in images.skipped]
    add_to_json(overall, session, "skipped", run.encoder, left_out)
    return overall
