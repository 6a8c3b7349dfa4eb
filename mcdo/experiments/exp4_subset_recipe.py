"""Exp4 (subset): trace against angular variance as the recipe, on the same passes.

It shares exp0's passes, so its trace figures *are* exp0's: their agreement is evidence of nothing, and is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_npz
from mcdo.names import file_name
from mcdo.stats import Estimate, Reliability, reliability, spearman

FOLDER = "exp4_subset_recipe"
SCORES = {"trace": "trace_pre", "angular": "angular_var"}


@dataclass(frozen=True)
class Exp4SubsetConfig(ExperimentConfig):
    """N images, K trials at one T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 120, "trials": 5}

    n: int = 500
    passes: int = 64
    trials: int = 10


@dataclass(frozen=True)
class Exp4SubsetResult:
    """Reliability of both scores, and the rank correlation of their means over trials."""

    reliability: dict[str, Reliability]
    agreement: Estimate
    means: dict[str, float]


def needs(config: Exp4SubsetConfig, model: str) -> Need:
    """A part of exp0's run, with the angular variance at T."""
    t = (config.passes,)
    return Need(model, config.n, MonteCarloConfig(config.dropout, t, config.trials, config.seed, geometry=t))


def compute(config: Exp4SubsetConfig, run: MonteCarloRun) -> Exp4SubsetResult:
    """Both reliabilities and the agreement."""
    scores = {name: run.scores(score, config.passes)[: config.trials] for name, score in SCORES.items()}
    return Exp4SubsetResult(
        reliability={name: reliability(values, seed=config.seed) for name, values in scores.items()},
        agreement=spearman(*(values.mean(axis=0) for values in scores.values()), seed=config.seed),
        means={name: float(values.mean()) for name, values in scores.items()},
    )


def write(config: Exp4SubsetConfig, run: MonteCarloRun, result: Exp4SubsetResult, reports: Path, session: str) -> Path:
    """``exp4_subset_summary.json`` for all models, and the trials of each."""
    trials = {
        f"trial_{'pre' if name == 'trace' else name}": run.scores(score, config.passes)
        for name, score in SCORES.items()
    }
    write_npz(reports / FOLDER / f"exp4_{file_name(run.encoder)}.npz", paths=np.array(run.ids), **trials)
    summary: dict[str, Any] = {
        **{name: {**r.as_dict(), "mean": result.means[name]} for name, r in result.reliability.items()},
        "spearman_trace_angular": result.agreement.as_dict(),
        **origin(config, run),
    }
    overall = reports / FOLDER / "exp4_subset_summary.json"
    add_to_json(overall, session, "results", run.encoder, summary)
    return overall
