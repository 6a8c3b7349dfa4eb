"""Preliminary investigation: does the mean over passes converge on the deterministic feature, or on something else?

r(T) = ‖mean_t x_t − x‖/‖x‖ is fitted as √(b² + c/T), b being the bias that no number of passes removes. The noise term
is known without the fit: c = D · trace_pre/‖x‖². The published reading took the bare slope of log r on log T, which is
−1/2 without a bias and anything up to 0 with one; it stands beside the fit as a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.stats import Estimate, MeanBias, bootstrap, mean_bias

FOLDER = "prelim_mean_convergence"
SLOPE = -0.5
SLOPE_TOLERANCE = 0.05
"""What the published reading expects of a mean that converges."""


@dataclass(frozen=True)
class MeanConvergenceConfig(ExperimentConfig):
    """N images, K trials, nested T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 100, "passes": (4, 8, 16, 32)}

    n: int = 500
    passes: tuple[int, ...] = (4, 8, 16, 32, 64)
    trials: int = 3


@dataclass(frozen=True)
class MeanConvergenceResult:
    """The fit, c as the trace predicts it, b² without a fit (r² − c/T at the largest T), and statistics of r by T."""

    fit: MeanBias
    predicted_noise: Estimate
    direct_bias_squared: Estimate
    distances: dict[int, dict[str, float]]


def needs(config: MeanConvergenceConfig, model: str) -> Need:
    """Nested T, K trials."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, config.passes, config.trials, config.seed))


def shifts(config: MeanConvergenceConfig, run: MonteCarloRun) -> NDArray[np.float64]:
    """r, ``[T, K, N]``."""
    return np.stack([run.scores("mean_shift", t)[: config.trials] for t in config.passes])


def compute(config: MeanConvergenceConfig, run: MonteCarloRun) -> MeanConvergenceResult:
    """Everything of one model."""
    r, last, D = shifts(config, run), config.passes[-1], run.features.shape[1]
    noise = D * run.scores("trace_pre_relative", last)[: config.trials]
    return MeanConvergenceResult(
        fit=mean_bias(r, config.passes, seed=config.seed),
        predicted_noise=bootstrap(np.mean, noise, seed=config.seed),
        direct_bias_squared=bootstrap(np.mean, np.square(r[-1]) - noise / last, seed=config.seed),
        distances={t: _statistics(r[i]) for i, t in enumerate(config.passes)},
    )


def _statistics(r: NDArray[np.float64]) -> dict[str, float]:
    return {
        "rel_dist_mean": float(r.mean()),
        "rel_dist_median": float(np.median(r)),
        "rel_dist_std": float(r.std(ddof=1)),
        "rel_dist_q95": float(np.quantile(r, 0.95)),
        "rel_dist_max": float(r.max()),
    }


def summary(config: MeanConvergenceConfig, result: MeanConvergenceResult) -> dict[str, Any]:
    """What stands in the summary, apart from the origin."""
    return {
        **result.fit.as_dict(),
        "noise_predicted_by_the_trace": result.predicted_noise.as_dict(),
        "bias_squared_without_a_fit": result.direct_bias_squared.as_dict(),
        "share_of_noise_by_T": {str(t): result.fit.noise_share(t) for t in config.passes},
        "distances_by_T": {str(t): held for t, held in result.distances.items()},
    }


def write(
    config: MeanConvergenceConfig, run: MonteCarloRun, result: MeanConvergenceResult, reports: Path, session: str
) -> Path:
    """Per model ``prelim_mean_convergence_summary.json``, ``prelim_mean_convergence.npz`` and the figure."""
    folder = reports / FOLDER / file_name(run.encoder)
    r = shifts(config, run)
    write_npz(
        folder / f"{FOLDER}.npz",
        paths=np.array(run.ids),
        passes=np.array(config.passes),
        **{f"rel_dist_T{t}": r[i] for i, t in enumerate(config.passes)},
    )
    found = {"model": run.encoder, **summary(config, result), **origin(config, run)}
    write_json(folder / f"{FOLDER}_summary.json", found)
    save_figure(figure(config, run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / f"{FOLDER}_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, found)
    return overall


def figure(config: MeanConvergenceConfig, model: str, result: MeanConvergenceResult) -> Figure:
    """R by T with the fit, its floor b, and the straight line of slope −1/2 that would have no floor."""
    drawn = Figure(figsize=(8, 5.5), layout="constrained")
    axes, fit = drawn.subplots(), result.fit
    T = np.array(config.passes, dtype=np.float64)
    rms = np.array([e.value for e in fit.rms.values()])
    arms = np.array([[e.value - e.low, e.high - e.value] for e in fit.rms.values()]).T.clip(0)
    axes.errorbar(T, rms, yerr=arms, fmt="o", capsize=3, label="measured, root mean square [95 %]")
    grid = np.geomspace(T[0], 16 * T[-1], 200)
    b2, c = fit.bias_squared.value, fit.noise.value
    axes.plot(grid, np.sqrt(np.clip(b2 + c / grid, 1e-300, None)), label=f"√(b² + c/T), bare slope {fit.slope}")
    axes.plot(grid, rms[0] * np.sqrt(T[0] / grid), ":", label="slope −1/2: no bias")
    axes.axhline(fit.bias.value, color="black", linestyle="--", linewidth=1, label=f"bias b = {fit.bias.value:.4f}")
    axes.axhspan(fit.bias.low, fit.bias.high, color="black", alpha=0.1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("passes T")
    axes.set_ylabel("‖mean − deterministic‖ / ‖deterministic‖")
    axes.set_title(f"{model}: convergence of the mean (N={config.n}, K={config.trials}, p={config.dropout.p:g})")
    axes.legend()
    return drawn
