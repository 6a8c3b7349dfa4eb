"""Exp4 (full): do encoders agree on which images are uncertain, and which of them repeats best?

All are perturbed at the same roles: the four linear maps of a transformer block, which every tower has. A tower with a
final projection or a pooling head has more sites, and there the published comparison perturbed each model differently.
Runs of other roles are refused. The matrix over models is raw and corrected for each model's own noise, beside the same
for the score over the squared norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.names import file_name
from mcdo.perturbation import Perturbation, check_comparable
from mcdo.report.figures import save_figure
from mcdo.report.panels import correlation_panel, interval_panel
from mcdo.stats import THRESHOLDS, Estimate, RankMatrix, Reliability, rank_matrix, reliability, spearman

FOLDER = "exp4_full_model_matrix"
PUBLISHED = ("clip_b32", "clip_l14", "siglip2_b16", "siglip2_so400m")
"""The published set; siglip2_g16 is opt-in, by ``--models``."""
MATCHED = ("qkv", "attention_output", "fc1", "fc2")
"""Roles that every tower has."""
SCORES = ("trace_pre", "trace_pre_relative", "angular_var")
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Exp4FullConfig(ExperimentConfig):
    """N images, K trials at one T, under matched sites."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 120, "passes": 32, "trials": 5}

    n: int = 500
    passes: int = 64
    trials: int = 10

    @property
    def matched(self) -> Perturbation:
        """The session's perturbation, where it says "all" at :data:`MATCHED`."""
        return self.dropout.at(*MATCHED) if self.dropout.sites == "all" else self.dropout


@dataclass(frozen=True)
class Exp4FullResult:
    """Of one model. By score: reliability; and the correlation of trace_pre with the feature norm."""

    reliability: dict[str, Reliability]
    means: dict[str, float]
    norm: Estimate


def needs(config: Exp4FullConfig, model: str) -> Need:
    """One run, with the angular variance at T."""
    t = (config.passes,)
    return Need(model, config.n, MonteCarloConfig(config.matched, t, config.trials, config.seed, geometry=t))


def compute(config: Exp4FullConfig, run: MonteCarloRun) -> Exp4FullResult:
    """Reliability of one model."""
    scores = {name: run.scores(name, config.passes)[: config.trials] for name in SCORES}
    return Exp4FullResult(
        reliability={name: reliability(values, seed=config.seed) for name, values in scores.items()},
        means={name: float(values.mean()) for name, values in scores.items()},
        norm=spearman(scores["trace_pre"].mean(axis=0), run.feature_norm, seed=config.seed),
    )


def across(config: Exp4FullConfig, runs: Mapping[str, MonteCarloRun]) -> dict[str, RankMatrix]:
    """By score, the matrix over models, and every paired difference of their reliabilities (Holm over the pairs).

    Raises:
        McdoError: for models perturbed at different roles or p, models shown other images, or fewer than two models.

    """
    check_comparable({model: run.roles for model, run in runs.items()})
    first = next(iter(runs.values()))
    for model, run in runs.items():
        if run.ids != first.ids:
            raise McdoError(f"exp4: {model} saw other images than {first.encoder}; measure all on the same set")
        if run.config.dropout.p != first.config.dropout.p:
            raise McdoError(
                f"exp4: {model} was perturbed with p = {run.config.dropout.p}, {first.encoder} with "
                f"{first.config.dropout.p}; different perturbations cannot be compared"
            )
    return {
        name: rank_matrix(
            {model: run.scores(name, config.passes)[: config.trials] for model, run in runs.items()},
            seed=config.seed,
            resamples=500,
        )
        for name in SCORES
    }


def write(config: Exp4FullConfig, run: MonteCarloRun, result: Exp4FullResult, reports: Path, session: str) -> Path:
    """Per model ``exp4_full_summary.json`` and ``exp4_full_trials.npz``; its part of the overall summary."""
    folder = reports / FOLDER / file_name(run.encoder)
    trials = {f"trial_{name}": run.scores(name, config.passes)[: config.trials] for name in SCORES}
    write_npz(folder / "exp4_full_trials.npz", paths=np.array(run.ids), feature_norm=run.feature_norm, **trials)
    found = {
        "model": run.encoder,
        **{name: {**r.as_dict(), "mean": result.means[name]} for name, r in result.reliability.items()},
        "spearman_with_feature_norm": result.norm.as_dict(),
        **origin(config, run),
        "perturbation": config.matched.as_dict(),
    }
    write_json(folder / "exp4_full_summary.json", found)
    overall = reports / FOLDER / "exp4_full_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, found)
    return overall


def write_across(
    config: Exp4FullConfig,
    results: Mapping[str, Exp4FullResult],
    matrices: Mapping[str, RankMatrix],
    reports: Path,
    session: str,
) -> Path:
    """The matrices in the overall summary, and the figure."""
    overall = reports / FOLDER / "exp4_full_overall_summary.json"
    for name, matrix in matrices.items():
        add_to_json(overall, session, "cross_model", name, matrix.as_dict())
    save_figure(figure(config, results, matrices), reports / FOLDER / f"{FOLDER}.png")
    return overall


def figure(config: Exp4FullConfig, results: Mapping[str, Exp4FullResult], matrices: Mapping[str, RankMatrix]) -> Figure:
    """Reliability by model, and the corrected matrices of the score and of its norm-free control."""
    drawn = Figure(figsize=(18, 5.5), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    drawn.suptitle(
        f"models under matched sites ({', '.join(MATCHED)}; p={config.dropout.p:g}, N={config.n}, T={config.passes}, "
        f"K={config.trials})"
    )
    traces = {
        name: {model: result.reliability[name].estimate("spearman") for model, result in results.items()}
        for name in SCORES
    }
    interval_panel(left, traces, THRESHOLDS.usable_spearman, "median ρ between trials [95 %]")
    left.set_xlabel("model")
    for axes, name in ((middle, "trace_pre"), (right, "trace_pre_relative")):
        matrix = matrices[name]
        correlation_panel(axes, matrix.names, matrix.values("disattenuated"), f"{name}, corrected for noise")
    return drawn
