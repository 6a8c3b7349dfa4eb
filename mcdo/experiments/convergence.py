"""Convergence: where does reliability saturate, and could one run at a smaller T have told?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, origin, write_json, write_npz
from mcdo.stats import (
    PredictedReliability,
    Reliability,
    UsablePasses,
    predicted_reliability,
    reliability,
    smallest_usable_passes,
)

FOLDER = "convergence_sweep"


@dataclass(frozen=True)
class ConvergenceConfig(ExperimentConfig):
    """Few images, many passes; everything is predicted from the reliability at ``predict_from``."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 60, "trials": 3}

    n: int = 200
    passes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    trials: int = 5
    predict_from: int = 32
    score: str = "trace_pre"


@dataclass(frozen=True)
class ConvergenceResult:
    """Measured and predicted reliability by T, and the fewest passes predicted to be usable."""

    measured: dict[int, Reliability]
    predicted: dict[int, PredictedReliability]
    usable_from: UsablePasses


def needs(config: ConvergenceConfig, model: str) -> Need:
    """One run of the largest T."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, config.passes, config.trials, config.seed))


def compute(config: ConvergenceConfig, run: MonteCarloRun) -> ConvergenceResult:
    """Measured at every T; predicted at every T from one."""
    measured = {t: reliability(run.scores(config.score, t)[: config.trials], seed=config.seed) for t in config.passes}
    start = measured[config.predict_from]
    return ConvergenceResult(
        measured=measured,
        predicted=predicted_reliability(start, config.predict_from, config.passes),
        usable_from=smallest_usable_passes(start, config.predict_from, config.passes),
    )


def write(config: ConvergenceConfig, run: MonteCarloRun, result: ConvergenceResult, reports: Path) -> Path:
    """``convergence_summary.json`` and the trials at every T."""
    folder = reports / FOLDER
    trials = {f"trial_T{t}": run.scores(config.score, t)[: config.trials] for t in config.passes}
    write_npz(folder / "convergence_trials.npz", paths=np.array(run.ids), **trials)
    table = {
        f"T={t}": {
            "measured": result.measured[t].as_dict(),
            "predicted": {
                "spearman": result.predicted[t].spearman.as_dict(),
                "snr": result.predicted[t].snr.as_dict(),
                "icc": result.predicted[t].icc.as_dict(),
                "status": result.predicted[t].status,
            },
        }
        for t in config.passes
    }
    usable = result.usable_from
    summary = {
        "model": run.encoder,
        "results": table,
        "smallest_usable_T": {
            "predicted": usable.continuous,
            "ci": [usable.low, usable.high],
            "on_grid": usable.on_grid,
            "limited_by": usable.limiting,
            "measured": next((t for t in config.passes if result.measured[t].status == "usable"), None),
        },
        **origin(config, run),
    }
    return write_json(folder / "convergence_summary.json", summary)
