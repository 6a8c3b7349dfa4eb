"""Loss or site? Which of training loss, tower and perturbed sites decides whether the score is reliable and valid.

The published explanation, softmax against sigmoid loss, compared one model of each: they differed in the tower and in
which of their maps were perturbed as well. Here all twelve cells of {softmax, sigmoid} x {MultiheadAttention tower,
timm tower} x {all, mlp, attention} are measured under one protocol: the same images, T, K, p and roles. "all" means the
roles that every tower has; what a tower has beyond them (final projection, pooling head) is perturbed in four further
cells for comparison, outside the analysis.

Effects are main effects over the balanced grid with intervals over images. There is one trained encoder for each loss
and tower: what is particular to an encoder falls into loss, tower and their interaction, and another training could
move those by more than the intervals say. A second analysis therefore sets the encoder as a whole against the sites,
which are compared within encoders and do not suffer from that.
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

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, origin, write_json, write_npz
from mcdo.perturbation import check_comparable
from mcdo.report.figures import save_figure
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    FactorialAnalysis,
    Reliability,
    corrected,
    factorial_analysis,
    normal_p,
    reliability,
)
from mcdo.stats.association import among
from mcdo.stats.resampling import correlation, multiplicities, percentile_estimate, rank_covariance

FOLDER = "prelim_loss_or_site"
ENCODERS = {
    ("softmax", "mha"): "clip_tiny",
    ("sigmoid", "mha"): "clip_tiny_sigmoid",
    ("softmax", "timm"): "siglip_tiny_softmax",
    ("sigmoid", "timm"): "siglip_tiny",
}
SITES = {
    "all": ("qkv", "attention_output", "fc1", "fc2"),
    "mlp": ("fc1", "fc2"),
    "attention": ("qkv", "attention_output"),
}
"""Roles by level. "all" are the roles that the four towers share."""
FACTORS = {"loss": ("softmax", "sigmoid"), "tower": ("mha", "timm"), "site": tuple(SITES)}
UNMATCHED = "everything"
SCORES = ("trace_pre", "trace_post", "trace_pre_relative")
Array = NDArray[np.float64]
Cell = tuple[str, str, str]


@dataclass(frozen=True)
class LossOrSiteConfig(ExperimentConfig):
    """N images of ``images``, K trials at one T for every cell, and one trial at every degradation."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 80, "passes": 16, "trials": 2}

    n: int = 500
    passes: int = 64
    trials: int = 3
    images: str = "digits"
    degradations: tuple[str, ...] = ("blur:4%", "blur:10%")
    resamples: int = 1000

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The twelve, in the order of :data:`FACTORS`."""
        return tuple(itertools.product(*FACTORS.values()))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Measured:
    """What a cell's figures are computed from.

    Attributes:
        scores: by name, [K, N].
        degraded: by degradation and name, [N], under the masks of the first trial.
        norm: of the deterministic features, [N].
        entropy: of the softmax over classes, [N].
        own_entropy: the same for the head the model was trained with.

    """

    scores: dict[str, Array]
    degraded: dict[str, dict[str, Array]]
    norm: Array
    entropy: Array
    own_entropy: Array


@dataclass(frozen=True)
class LossOrSiteResult:
    """What the grid says.

    Attributes:
        figures: by score, outcome and cell.
        reliability: by score and cell.
        analyses: by score and outcome: loss, tower and site.
        by_encoder: by score and outcome: the encoder as a whole and site.
        within: by score, outcome and (loss, tower): all sites less MLP sites, within one encoder; Holm over them.
        unmatched: by score and (loss, tower): reliability and ρ(entropy) with everything perturbed that the tower has.

    """

    figures: dict[str, dict[str, dict[Cell, Estimate]]]
    reliability: dict[str, dict[Cell, Reliability]]
    analyses: dict[str, dict[str, FactorialAnalysis]]
    by_encoder: dict[str, dict[str, FactorialAnalysis]]
    within: dict[str, dict[str, dict[tuple[str, str], Difference]]]
    unmatched: dict[str, dict[tuple[str, str], dict[str, Estimate]]]


def needs_of(config: LossOrSiteConfig, cell: Cell) -> dict[str | None, Need]:
    """The clean run of a cell (None) and those of its degradations; degraded images are seen in one trial."""
    loss, tower, site = cell
    model = ENCODERS[loss, tower]
    kind = replace(config.dropout, sites="all" if site == UNMATCHED else SITES[site])
    clean = Need(
        model, config.n, MonteCarloConfig(kind, (config.passes,), config.trials, config.seed), images=config.images
    )
    once = replace(clean.config, trials=1)
    later = () if site == UNMATCHED else config.degradations
    return {None: clean} | {spec: replace(clean, config=once, degradation=spec) for spec in later}


def measured(
    config: LossOrSiteConfig,
    clean: MonteCarloRun,
    degraded: Mapping[str, MonteCarloRun],
    targets: AmbiguityTargets,
    own: AmbiguityTargets,
) -> Measured:
    """A cell's measurement, by what its figures need."""
    return Measured(
        scores={name: clean.scores(name, config.passes)[: config.trials] for name in SCORES},
        degraded={
            spec: {name: run.scores(name, config.passes)[0] for name in SCORES} for spec, run in degraded.items()
        },
        norm=clean.feature_norm,
        entropy=targets.entropy,
        own_entropy=own.entropy,
    )


def check_roles(runs: Mapping[Cell, MonteCarloRun]) -> None:
    """Refuse cells of one site level that were perturbed at different roles.

    Raises:
        McdoError: naming them.

    """
    for site in SITES:
        check_comparable({f"{loss}/{tower}": run.roles for (loss, tower, at), run in runs.items() if at == site})


def outcomes(config: LossOrSiteConfig) -> tuple[str, ...]:
    """Names of the figures of a cell."""
    return (
        "reliability",
        "rho_entropy",
        "rho_entropy_given_norm",
        "rho_own_entropy",
        *(f"increased/{spec}" for spec in config.degradations),
    )


def compute(config: LossOrSiteConfig, cells: Mapping[Cell, Measured]) -> LossOrSiteResult:
    """Everything.

    Args:
        config: the protocol.
        cells: the twelve, and those of site ``everything`` where measured.

    """
    draws = {
        (score, cell): _draws(config, cells[cell], score) for score in SCORES for cell in cells
    }  # {outcome: [1 + R], the sample first}
    n = len(next(iter(cells.values())).norm)

    def grid(score: str, outcome: str) -> Array:
        shape = tuple(len(levels) for levels in FACTORS.values())
        return np.stack([draws[score, cell][outcome] for cell in config.cells], axis=1).reshape(-1, *shape)

    analyses, by_encoder, within = {}, {}, {}
    encoders = tuple(ENCODERS[key] for key in itertools.product(FACTORS["loss"], FACTORS["tower"]))
    two = {"encoder": encoders, "site": tuple(SITES)}
    for score in SCORES:
        grids = {outcome: grid(score, outcome) for outcome in outcomes(config)}
        analyses[score] = {o: factorial_analysis(FACTORS, g[0], g[1:], n) for o, g in grids.items()}
        flat = {o: g.reshape(len(g), -1, len(SITES)) for o, g in grids.items()}
        by_encoder[score] = {o: factorial_analysis(two, g[0], g[1:], n) for o, g in flat.items()}
        within[score] = _within(grids, n)
    return LossOrSiteResult(
        figures={
            score: {
                outcome: {cell: _estimate(draws[score, cell][outcome], n) for cell in config.cells}
                for outcome in outcomes(config)
            }
            for score in SCORES
        },
        reliability={
            score: {cell: reliability(held.scores[score], seed=config.seed) for cell, held in cells.items()}
            for score in SCORES
        },
        analyses=analyses,
        by_encoder=by_encoder,
        within=within,
        unmatched={
            score: {
                (loss, tower): {
                    outcome: _estimate(draws[score, (loss, tower, site)][outcome], n)
                    for outcome in outcomes(config)[:4]
                }
                for loss, tower, site in cells
                if site == UNMATCHED
            }
            for score in SCORES
        },
    )


def _draws(config: LossOrSiteConfig, held: Measured, score: str) -> dict[str, Array]:
    """Every outcome in the sample and in each resample of the images, [1 + R]; the same resamples in every cell."""
    trials, N = held.scores[score], len(held.norm)
    weights = np.concatenate([np.ones((1, N)), multiplicities(N, config.resamples, config.seed)])
    i, j = np.triu_indices(len(trials), 1)
    pairs = correlation(rank_covariance(trials, weights))[:, i, j]
    rows = np.stack([trials.mean(axis=0), held.entropy, held.own_entropy, held.norm])
    ranks = rank_covariance(rows, weights)
    increased = {spec: after[score] > trials[0] for spec, after in held.degraded.items()}
    return {
        "reliability": np.median(pairs, axis=1) if len(i) else np.full(len(weights), math.nan),
        "rho_entropy": among(0, 1)(ranks),
        "rho_entropy_given_norm": among(0, 1, 3)(ranks),
        "rho_own_entropy": among(0, 2)(ranks),
        **{f"increased/{spec}": weights @ more / N for spec, more in increased.items()},
    }


def _estimate(draws: Array, n: int) -> Estimate:
    return percentile_estimate(float(draws[0]), draws[1:], n, 0.95)


def _within(grids: Mapping[str, Array], n: int) -> dict[str, dict[tuple[str, str], Difference]]:
    """All sites less MLP sites, for each encoder and outcome."""
    places = list(itertools.product(enumerate(FACTORS["loss"]), enumerate(FACTORS["tower"])))
    every, mlp = (FACTORS["site"].index(site) for site in ("all", "mlp"))
    found: dict[str, dict[str, Difference]] = {}
    for outcome, grid in grids.items():
        found[outcome] = {}
        for (i, loss), (j, tower) in places:
            difference = grid[:, i, j, every] - grid[:, i, j, mlp]
            p = normal_p(float(difference[0]), difference[1:])
            found[outcome][f"{loss}/{tower}"] = Difference(_estimate(difference, n), p, p)
    joined = corrected(found)
    return {
        outcome: {(loss, tower): table[f"{loss}/{tower}"] for (_, loss), (_, tower) in places}
        for outcome, table in joined.items()
    }


def summary(config: LossOrSiteConfig, result: LossOrSiteResult) -> dict[str, Any]:
    """What stands in ``prelim_loss_or_site_summary.json``, apart from the origin."""
    return {
        "encoders": {"/".join(key): model for key, model in ENCODERS.items()},
        "roles": SITES,
        "scores": {
            score: {
                "cells": {
                    "/".join(cell): {
                        **{o: result.figures[score][o][cell].as_dict() for o in outcomes(config)},
                        "trials": result.reliability[score][cell].as_dict(),
                    }
                    for cell in config.cells
                },
                "analysis": {outcome: found.as_dict() for outcome, found in result.analyses[score].items()},
                "encoder_or_site": {outcome: found.as_dict() for outcome, found in result.by_encoder[score].items()},
                "all_less_mlp": {
                    outcome: {"/".join(key): d.as_dict() for key, d in table.items()}
                    for outcome, table in result.within[score].items()
                },
                "everything_perturbed": {
                    "/".join(key): {outcome: e.as_dict() for outcome, e in table.items()}
                    for key, table in result.unmatched[score].items()
                },
            }
            for score in SCORES
        },
        "intervals": "bootstrap over images; one trained encoder per loss and tower, so training is not resampled",
        "correction": "Holm over the contrasts of one outcome; over all outcomes and encoders for all less mlp",
    }


def write(
    config: LossOrSiteConfig,
    cells: Mapping[Cell, Measured],
    run: MonteCarloRun,
    result: LossOrSiteResult,
    reports: Path,
    session: str,
) -> Path:
    """``prelim_loss_or_site_summary.json``, ``prelim_loss_or_site.npz`` and the figure. ``run`` is any cell's."""
    folder = reports / FOLDER
    arrays: dict[str, Array] = {}
    for cell, held in cells.items():
        name = "/".join(cell)
        arrays |= {f"{name}/{score}": values for score, values in held.scores.items()}
        arrays |= {f"{name}/{spec}/{s}": v for spec, after in held.degraded.items() for s, v in after.items()}
    for (loss, tower), model in ENCODERS.items():
        held = cells[loss, tower, "all"]
        arrays |= {f"{model}/entropy": held.entropy, f"{model}/feature_norm": held.norm}
    write_npz(folder / f"{FOLDER}.npz", paths=np.array(run.ids), **arrays)
    facts = origin(config, run)
    facts["sites"] = {site: list(roles) for site, roles in SITES.items()}
    write_json(folder / f"{FOLDER}_summary.json", {"session": session, **summary(config, result), **facts})
    return save_figure(figure(config, result), folder / f"{FOLDER}.png")


def figure(config: LossOrSiteConfig, result: LossOrSiteResult, score: str = "trace_pre") -> Figure:
    """Per outcome: the twelve cells, and below the shares of the factors."""
    shown = outcomes(config)
    drawn = Figure(figsize=(4.6 * len(shown), 8.5), layout="constrained")
    drawn.suptitle(f"{score}: loss, tower or site? (N={config.n}, T={config.passes}, K={config.trials}, matched roles)")
    panels = np.asarray(drawn.subplots(2, len(shown)))
    sites = FACTORS["site"]
    for column, outcome in enumerate(shown):
        top, bottom = panels[:, column]
        for place, (loss, tower) in enumerate(ENCODERS):
            cells = [result.figures[score][outcome][loss, tower, site] for site in sites]
            x = np.arange(len(sites)) + (place - 1.5) * 0.15
            arms = np.array([[e.value - e.low, e.high - e.value] for e in cells]).T.clip(0)
            marker = "o" if tower == "mha" else "s"
            colour = "tab:blue" if loss == "softmax" else "tab:orange"
            top.errorbar(x, [e.value for e in cells], yerr=np.nan_to_num(arms), fmt=marker, color=colour, capsize=3,
                         label=f"{loss}, {tower}")  # fmt: skip
        top.set_xticks(range(len(sites)), sites)
        top.set_xlabel("perturbed sites")
        top.set_ylabel(_label(outcome))
        top.legend(fontsize=7)
        shares = dict(result.analyses[score][outcome].shares)
        shares["encoder"] = result.by_encoder[score][outcome].shares["encoder"]
        values = np.array([[e.value, e.value - e.low, e.high - e.value] for e in shares.values()])
        bottom.bar(range(len(shares)), values[:, 0], yerr=values[:, 1:].T.clip(0), capsize=4, label="share [95 %]")
        bottom.set_xticks(range(len(shares)), list(shares), rotation=40, ha="right")
        bottom.set_ylim(0, 1)
        bottom.set_xlabel("factor (encoder = loss, tower, loss x tower)")
        bottom.set_ylabel("share of the spread between cells")
        bottom.legend(fontsize=7)
    return drawn


def _label(outcome: str) -> str:
    name, _, spec = outcome.partition("/")
    words = {
        "reliability": "Spearman's ρ between trials",
        "rho_entropy": "ρ with entropy",
        "rho_entropy_given_norm": "ρ with entropy, given the norm",
        "rho_own_entropy": "ρ with entropy of the trained head",
        "increased": f"share more uncertain at {spec}",
    }
    return f"{words[name]} [95 %]"
