"""Exp1: does the ranking of images survive a change of the drop probability p, and where does first order end?

To first order the variance is p/(1 − p) times a sum over sites that does not depend on p, so every p would rank the
images alike. The sweep shows from which p on that fails: the mean score against its prediction, and the Spearman matrix
over p, raw and corrected for each p's own noise. A raw correlation alone cannot tell another ranking from a noisy one.

Trials at one p are exchangeable. The published sweep stacked its dropouts call after call, which made the mean trace
grow with the trial; the drift over trials is therefore measured and stands in the summary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.names import file_name
from mcdo.perturbation import Perturbation
from mcdo.report.figures import save_figure
from mcdo.report.panels import correlation_panel, interval_panel
from mcdo.stats import (
    THRESHOLDS,
    Estimate,
    RankMatrix,
    Reliability,
    bootstrap,
    rank_matrix,
    reliability,
    spearman,
    trial_drift,
)

FOLDER = "exp1_rank_stability"
STABLE = 0.8
"""Two p rank alike when their correlation lies above this."""
FIRST_ORDER = "first order"
SCORES = ("trace_pre", "trace_pre_relative")
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Exp1Config(ExperimentConfig):
    """N images, K trials at one T, for every p; ``probes`` of the first-order prediction per trial."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 60, "passes": 32, "probes": 4}

    n: int = 1000
    passes: int = 64
    trials: int = 3
    p: tuple[float, ...] = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
    reference: float = 0.01
    probes: int = 16

    def at(self, p: float) -> Perturbation:
        """The session's perturbation with another p."""
        return replace(self.dropout, p=p)


@dataclass(frozen=True)
class Exp1Result:
    """By p: mean trace_pre, its ratio to the first-order prediction, reliability, drift over trials (of the mean, per
    trial; simultaneous over all p), and correlation with the feature norm. By score: the matrix over p.
    """

    means: dict[float, Estimate]
    predicted: dict[float, float]
    ratio: dict[float, Estimate]
    reliability: dict[float, Reliability]
    drift: dict[float, Estimate]
    norm: dict[float, Estimate]
    matrices: dict[str, RankMatrix]

    def stable(self, kind: str = "disattenuated", score: str = "trace_pre") -> dict[tuple[float, float], str]:
        """For every pair of p whether its correlation lies above :data:`STABLE`: met, not met or undecided."""
        matrix = self.matrices[score]
        pairs = itertools.combinations(self.means, 2)
        return {(a, b): matrix.pair(kind, f"{a:g}", f"{b:g}").verdict(STABLE, ">") for a, b in pairs}


def needs(config: Exp1Config, model: str) -> list[Need]:
    """One run per p."""
    t = (config.passes,)
    return [Need(model, config.n, MonteCarloConfig(config.at(p), t, config.trials, config.seed)) for p in config.p]


def first_order_need(config: Exp1Config, model: str) -> Need:
    """What the first-order prediction is asked for; one run of it serves every p."""
    return next(need for need in needs(config, model) if need.config.dropout.p == config.reference)


def compute(config: Exp1Config, runs: Mapping[float, MonteCarloRun], linear: Mapping[float, Scores]) -> Exp1Result:
    """Everything of one model.

    Args:
        config: the protocol.
        runs: by p.
        linear: by p, the first-order prediction of trace_pre, [trials, N].

    """
    T, K, seed = config.passes, config.trials, config.seed
    scores = {name: {p: run.scores(name, T)[:K] for p, run in runs.items()} for name in SCORES}
    trace, norm = scores["trace_pre"], next(iter(runs.values())).feature_norm
    relative = linear[config.reference] / np.square(norm)
    return Exp1Result(
        means={p: bootstrap(np.mean, values, seed=seed) for p, values in trace.items()},
        predicted={p: float(values.mean()) for p, values in linear.items()},
        ratio={p: _ratio(values, linear[p], seed) for p, values in trace.items()},
        reliability={p: reliability(values, seed=seed) for p, values in trace.items()},
        # all p at once: 99 % that no interval misses zero where nothing drifts
        drift={
            p: trial_drift(values, seed=seed, resamples=4000, level=1 - 0.01 / len(trace))
            for p, values in trace.items()
        },
        norm={p: spearman(values.mean(axis=0), norm, seed=seed) for p, values in trace.items()},
        matrices={
            name: rank_matrix(
                {**{f"{p:g}": values for p, values in by_p.items()}, FIRST_ORDER: extra}, seed=seed, resamples=500
            )
            for (name, by_p), extra in zip(scores.items(), (linear[config.reference], relative), strict=True)
        },
    )


def _ratio(measured: Scores, predicted: Scores, seed: int) -> Estimate:
    """Mean measured over mean predicted score, over the same images.

    All images of a first-order trial share its probes, which a bootstrap over images cannot see, so the spread between
    those trials lengthens both arms in quadrature, with Student's t at K − 1 degrees of freedom.
    """

    def ratio(a: Scores, b: Scores) -> float:
        return float(a.mean() / b.mean())

    found = bootstrap(ratio, measured, predicted, seed=seed)
    by_trial = predicted.mean(axis=1)
    K = len(by_trial)
    if K < 2:
        return found
    error = by_trial.std(ddof=1) / by_trial.mean() / math.sqrt(K)
    reach = found.value * float(error * stats.t.ppf((1 + found.level) / 2, K - 1))
    low = found.value - math.hypot(found.value - found.low, reach)
    return replace(found, low=low, high=found.value + math.hypot(found.high - found.value, reach))


def summary(config: Exp1Config, result: Exp1Result) -> dict[str, Any]:
    """What stands in ``exp1_summary.json``, apart from the origin."""
    return {
        "reliability_by_p": {f"{p:g}": r.as_dict() for p, r in result.reliability.items()},
        "mean_by_p": {f"{p:g}": e.as_dict() for p, e in result.means.items()},
        "first_order_mean_by_p": {f"{p:g}": value for p, value in result.predicted.items()},
        "ratio_to_first_order_by_p": {f"{p:g}": e.as_dict() for p, e in result.ratio.items()},
        "trial_drift_by_p": {f"{p:g}": e.as_dict() for p, e in result.drift.items()},
        "spearman_with_feature_norm_by_p": {f"{p:g}": e.as_dict() for p, e in result.norm.items()},
        "spearman_matrix": {name: matrix.as_dict() for name, matrix in result.matrices.items()},
        "stable_pairs": {
            kind: {f"{a:g}~{b:g}": verdict for (a, b), verdict in result.stable(kind).items()}
            for kind in ("raw", "disattenuated")
        },
        "stable_bar": STABLE,
    }


def write(
    config: Exp1Config, runs: Mapping[float, MonteCarloRun], result: Exp1Result, reports: Path, session: str
) -> Path:
    """Per model ``exp1_summary.json``, ``exp1_rank_p_trials.npz`` and the figure; an overall summary for all."""
    first = next(iter(runs.values()))
    folder = reports / FOLDER / file_name(first.encoder)
    arrays = {f"trials_p_{p:g}": run.scores("trace_pre", config.passes)[: config.trials] for p, run in runs.items()}
    write_npz(
        folder / "exp1_rank_p_trials.npz",
        paths=np.array(first.ids),
        p_values=np.array(list(runs)),
        mean_uncertainty=np.stack([values.mean(axis=0) for values in arrays.values()]),
        spearman_matrix=result.matrices["trace_pre"].values("raw"),
        spearman_matrix_disattenuated=result.matrices["trace_pre"].values("disattenuated"),
        feature_norm=first.feature_norm,
        **arrays,
    )
    found = {"model": first.encoder, **summary(config, result), **origin(config, first)}
    write_json(folder / "exp1_summary.json", found)
    save_figure(figure(config, first.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp1_overall_summary.json"
    add_to_json(overall, session, "results", first.encoder, found)
    return overall


def figure(config: Exp1Config, model: str, result: Exp1Result) -> Figure:
    """Mean score against first order, the matrix over p, and reliability by p."""
    drawn = Figure(figsize=(17, 5), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    drawn.suptitle(f"{model}: rank stability over p (N={config.n}, T={config.passes}, K={config.trials})")
    p = list(result.means)
    left.loglog(p, [e.value for e in result.means.values()], "o-", label="Monte Carlo")
    left.loglog(p, [result.predicted[x] for x in p], "k--", label="first order, p/(1 − p)")
    left.set_xlabel("drop probability p")
    left.set_ylabel("mean trace_pre (squared feature units)")
    left.legend()
    matrix = result.matrices["trace_pre"]
    correlation_panel(middle, matrix.names, matrix.values("disattenuated"), "trace_pre, corrected for noise")
    series = {
        "between trials of one p": {f"{x:g}": r.estimate("spearman") for x, r in result.reliability.items()},
        f"with p = {config.reference:g}, corrected": {
            f"{x:g}": matrix.pair("disattenuated", f"{x:g}", f"{config.reference:g}")
            for x in p
            if x != config.reference
        },
    }
    interval_panel(right, series, THRESHOLDS.usable_spearman, "Spearman's ρ [95 %]")
    right.set_xlabel("drop probability p")
    return drawn
