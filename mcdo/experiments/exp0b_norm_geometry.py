"""Exp0b: what shape does the cloud of passes have, and do the ways to measure its size agree?

Off-diagonal mass is near one for independent noise already when T is small beside D, so it stands beside its floor: the
mass that independent dimensions of the same variances have, image by image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, origin, write_json, write_npz
from mcdo.stats import Estimate, bootstrap

FOLDER = "exp0b_norm_geometry"
ARRAYS = {
    "trace_pre_per_d": "trace_pre",
    "trace_post_per_d": "trace_post",
    "angular_var": "angular_var",
    "offdiag_pre": "offdiag_l1_pre",
    "offdiag_post": "offdiag_l1_post",
    "offdiag_frobenius_pre": "offdiag_frobenius_pre",
    "offdiag_frobenius_post": "offdiag_frobenius_post",
    "offdiag_pre_floor": "offdiag_l1_pre_floor",
    "offdiag_post_floor": "offdiag_l1_post_floor",
    "offdiag_frobenius_pre_floor": "offdiag_frobenius_pre_floor",
    "offdiag_frobenius_post_floor": "offdiag_frobenius_post_floor",
    "effective_rank": "effective_rank",
    "top1_ratio": "top1_ratio",
}
"""Names in the files, and the score behind each."""

PAIRS = {
    "corr_trace_pre_angular": ("trace_pre", "angular_var"),
    "corr_trace_post_angular": ("trace_post", "angular_var"),
    "corr_trace_pre_post": ("trace_pre", "trace_post"),
}


@dataclass(frozen=True)
class Exp0bConfig(ExperimentConfig):
    """N images, K trials at one T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 120}

    n: int = 500
    passes: int = 64
    trials: int = 5


@dataclass(frozen=True)
class Exp0bResult:
    """Means over images and trials, rank correlations averaged over trials, and the leading eigenvalues."""

    means: dict[str, Estimate]
    correlations: dict[str, Estimate]
    eigenvalues: tuple[float, ...]


def needs(config: Exp0bConfig, model: str) -> Need:
    """A part of exp0's run, with the geometry at T."""
    t = (config.passes,)
    return Need(model, config.n, MonteCarloConfig(config.dropout, t, config.trials, config.seed, geometry=t))


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean())


def _mean_spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]))


def compute(config: Exp0bConfig, run: MonteCarloRun) -> Exp0bResult:
    """Means and correlations with bootstrap intervals over images."""

    def scores(name: str) -> NDArray[np.float64]:
        return run.scores(name, config.passes)[: config.trials]

    means = {name: bootstrap(_mean, scores(score), seed=config.seed, resamples=400) for name, score in ARRAYS.items()}
    correlations = {
        name: bootstrap(_mean_spearman, scores(a), scores(b), seed=config.seed, resamples=200)
        for name, (a, b) in PAIRS.items()
    }
    leading = run.eigenvalues(config.passes)[: config.trials].mean(axis=(0, 1))
    return Exp0bResult(means, correlations, tuple(float(value) for value in leading))


def write(config: Exp0bConfig, run: MonteCarloRun, result: Exp0bResult, reports: Path) -> Path:
    """``exp0b_summary.json`` with the published keys, and the arrays of every trial."""
    arrays = {name: run.scores(score, config.passes)[: config.trials] for name, score in ARRAYS.items()}
    eigenvalues = run.eigenvalues(config.passes)[: config.trials]
    write_npz(
        reports / FOLDER / "exp0b_geometry_trials.npz", paths=np.array(run.ids), eigenvalues=eigenvalues, **arrays
    )
    summary: dict[str, Any] = {"model": run.encoder}
    for name, estimate in result.means.items():
        summary |= {f"{name}_mean": estimate.value, f"{name}_mean_ci": [estimate.low, estimate.high]}
    for name, estimate in result.correlations.items():
        summary |= {name: estimate.value, f"{name}_ci": [estimate.low, estimate.high]}
    summary["top_eigenvalues_mean"] = list(result.eigenvalues)
    return write_json(reports / FOLDER / "exp0b_summary.json", {**summary, **origin(config, run)})
