"""Exp3: which kind of perturbation gives a score that repeats and means something, and do they rank images alike?

A attention probabilities, B hidden activation of the MLP (after the nonlinearity), C stochastic depth (per image),
D final projection, E every linear map; G Gaussian, S multiplicative, and W dropout with one mask over tokens (a sample
of the weights, the Bayesian reading). All inject the same relative variance p/(1 − p) where they act. In the published
run A did nothing, C drew one mask per batch, D was an early MLP layer by a slip of sorting, and all were stacked trial
after trial, so its table is not a comparison of types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.encoders import find_spec
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.experiments.phase1.exp5_subset_ambiguity import RHO_ENTROPY_BAR
from mcdo.names import file_name
from mcdo.perturbation import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    Multiplicative,
    Perturbation,
    StochasticDepth,
    TiedDropout,
)
from mcdo.report.figures import save_figure
from mcdo.report.panels import correlation_panel, interval_panel
from mcdo.stats import (
    THRESHOLDS,
    Estimate,
    RankMatrix,
    Reliability,
    ambiguity_estimates,
    ambiguity_targets,
    bootstrap,
    rank_matrix,
    reliability,
    spearman,
    trial_drift,
)

FOLDER = "exp3_dropout_types"
TYPES = {
    "A": "attention probabilities",
    "B": "MLP hidden activation",
    "C": "stochastic depth",
    "D": "final projection",
    "E": "every linear map",
    "G": "Gaussian",
    "S": "multiplicative",
    "W": "mask tied over tokens",
}
SCORES = ("trace_pre", "trace_pre_relative", "trace_post")
ROUNDING = 1e-11
"""A relative trace that float32 rounding alone can leave: (2^-24)² is 4e-15, and errors add up over some layers."""


@dataclass(frozen=True)
class Exp3Config(ExperimentConfig):
    """N images, K trials at one T, for every type."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 50, "passes": 32, "trials": 3}

    n: int = 1000
    passes: int = 64
    trials: int = 5

    def kinds(self, model: str) -> dict[str, Perturbation]:
        """The perturbation of each type; a tower with a pooling head has no final projection, hence no D."""
        p, sites = self.dropout.p, self.dropout.sites
        kinds = {
            "A": AttentionDropout(p),
            "B": HiddenDropout(p),
            "C": StochasticDepth(p),
            "D": Dropout(p, "projection"),
            "E": self.dropout,
            "G": Gaussian(p, sites),
            "S": Multiplicative(p, sites),
            "W": TiedDropout(p, sites),
        }
        if find_spec(model).family != "clip":
            del kinds["D"]
        return kinds


@dataclass(frozen=True)
class Exp3Result:
    """By type: mean trace_pre, drift over trials, correlation with the norm. By score and type: reliability, the six
    figures of validity with their norm-held-fixed controls. By score: the matrix over types.
    """

    means: dict[str, Estimate]
    drift: dict[str, Estimate]
    norm: dict[str, Estimate]
    reliability: dict[str, dict[str, Reliability]]
    validity: dict[str, dict[str, dict[str, Estimate]]]
    matrices: dict[str, RankMatrix]
    norm_validity: dict[str, Estimate]


def needs(config: Exp3Config, model: str) -> list[Need]:
    """One run per type."""
    t = (config.passes,)
    return [
        Need(model, config.n, MonteCarloConfig(kind, t, config.trials, config.seed))
        for kind in config.kinds(model).values()
    ]


def check_disturbed(kind: str, run: MonteCarloRun, passes: int) -> float:
    """The least trace_pre over images, as a share of the squared feature norm.

    Raises:
        McdoError: if it is no more than float32 rounding: a dead type is a fault, never a low score.

    """
    share = run.scores("trace_pre", passes).mean(axis=0) / np.square(run.feature_norm)
    least = int(share.argmin())
    if not share[least] > ROUNDING:
        raise McdoError(
            f"{run.encoder}: type {kind} ({TYPES[kind]}) does nothing to {run.ids[least]}: its trace is "
            f"{share[least]:.1e} of the squared norm; look at the census of its sites"
        )
    return float(share[least])


def compute(
    config: Exp3Config,
    runs: Mapping[str, MonteCarloRun],
    logits: NDArray[np.float64],
    labels: NDArray[np.int64] | None,
) -> Exp3Result:
    """Everything of one model.

    Args:
        config: the protocol.
        runs: by type.
        logits: ``[templates, N, C]``.
        labels: ``[N]``, or None where unknown.

    """
    seed, targets = config.seed, ambiguity_targets(logits, labels)
    norm = next(iter(runs.values())).feature_norm
    scores = {
        name: {kind: run.scores(name, config.passes)[: config.trials] for kind, run in runs.items()} for name in SCORES
    }
    trace = scores["trace_pre"]
    return Exp3Result(
        means={kind: bootstrap(np.mean, v, seed=seed) for kind, v in trace.items()},
        drift={
            kind: trial_drift(v, seed=seed, resamples=4000, level=1 - 0.01 / len(trace)) for kind, v in trace.items()
        },
        norm={kind: spearman(v.mean(axis=0), norm, seed=seed) for kind, v in trace.items()},
        reliability={
            name: {kind: reliability(v, seed=seed) for kind, v in by_kind.items()} for name, by_kind in scores.items()
        },
        validity={
            name: {kind: ambiguity_estimates(v.mean(axis=0), targets, norm, seed=seed) for kind, v in by_kind.items()}
            for name, by_kind in scores.items()
        },
        matrices={name: rank_matrix(by_kind, seed=seed, resamples=500) for name, by_kind in scores.items()},
        norm_validity=ambiguity_estimates(norm, targets, seed=seed),
    )


def summary(result: Exp3Result) -> dict[str, Any]:
    """What stands in ``exp3_summary.json``, apart from the origin."""
    return {
        "types": TYPES,
        "results_by_type": {
            kind: {
                "meaning": TYPES[kind],
                "mean_trace_pre": mean.as_dict(),
                "trial_drift": result.drift[kind].as_dict(),
                "spearman_with_feature_norm": result.norm[kind].as_dict(),
                "reliability": {name: by_kind[kind].as_dict() for name, by_kind in result.reliability.items()},
                "validity": {
                    name: {key: e.as_dict() for key, e in by_kind[kind].items()}
                    for name, by_kind in result.validity.items()
                },
            }
            for kind, mean in result.means.items()
        },
        "left_out": [kind for kind in TYPES if kind not in result.means],
        "cross_type": {name: matrix.as_dict() for name, matrix in result.matrices.items()},
        "validity_of_the_feature_norm": {key: e.as_dict() for key, e in result.norm_validity.items()},
    }


def write(
    config: Exp3Config, runs: Mapping[str, MonteCarloRun], result: Exp3Result, reports: Path, session: str
) -> Path:
    """Per model ``exp3_summary.json``, ``exp3_type_X_trials.npz`` of each type and the figure; an overall summary."""
    first = next(iter(runs.values()))
    folder = reports / FOLDER / file_name(first.encoder)
    for kind, run in runs.items():
        arrays = {name: run.scores(name, config.passes)[: config.trials] for name in SCORES}
        write_npz(folder / f"exp3_type_{kind}_trials.npz", paths=np.array(run.ids), **arrays)
    sites = {kind: {"kind": type(run.config.dropout).__name__, "roles": list(run.roles)} for kind, run in runs.items()}
    found = {"model": first.encoder, **summary(result), "perturbations": sites, **origin(config, runs["E"])}
    write_json(folder / "exp3_summary.json", found)
    save_figure(figure(config, first.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp3_overall_summary.json"
    add_to_json(overall, session, "results", first.encoder, found)
    return overall


def figure(config: Exp3Config, model: str, result: Exp3Result) -> Figure:
    """Reliability and validity of every type, and the matrix over types."""
    drawn = Figure(figsize=(18, 5.5), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    drawn.suptitle(f"{model}: kinds of perturbation (p={config.dropout.p:g}, T={config.passes}, K={config.trials})")
    traces = {name: {kind: r.estimate("spearman") for kind, r in result.reliability[name].items()} for name in SCORES}
    interval_panel(left, traces, THRESHOLDS.usable_spearman, "median ρ between trials [95 %]")
    rho = {
        f"{name}{label}": {kind: found[f"rho_uncertainty_vs_entropy{key}"] for kind, found in by_kind.items()}
        for name, by_kind in result.validity.items()
        for label, key in (("", ""), (" given norm", "_given_norm"))
        if name == "trace_pre" or not label
    }
    interval_panel(middle, rho, RHO_ENTROPY_BAR, "ρ with the zero-shot entropy [95 %]")
    kinds = [f"{kind} {TYPES[kind]}" for kind in result.means]
    for axes in (left, middle):
        axes.set_xlabel(f"type: {'; '.join(kinds[:4])};\n{'; '.join(kinds[4:])}", fontsize=7)
    matrix = result.matrices["trace_pre"]
    correlation_panel(right, matrix.names, matrix.values("disattenuated"), "trace_pre, corrected for noise")
    return drawn
