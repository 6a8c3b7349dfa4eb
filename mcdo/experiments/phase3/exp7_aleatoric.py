"""Exp7: is the spread over dropout masks another thing than the spread over views of the image?

Epistemic: trace over passes, mean of K trials. Aleatoric: variance of the deterministic feature over the clean image
and its degraded versions, family by family (the published 13 variants held the clean image three times, and mixed
families whose effects differ by orders of magnitude). Do they rank images alike, once the noise of the trials is
allowed for and the feature norm is held fixed? And do both together find ambiguity and errors better than one?
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.images.degradations import graded
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    Reliability,
    ambiguity_estimates,
    ambiguity_report,
    ambiguity_targets,
    auroc_differences,
    corrected,
    disattenuated,
    partial_spearman,
    reliability,
    spearman,
    spearman_differences,
)

Array = NDArray[np.float64]
FOLDER = "exp7_aleatoric_epistemic"
DETERMINISTIC = ("jpeg", "blur", "down")
"""Families whose variants involve no draw, so that their spread is known without error."""


@dataclass(frozen=True)
class Exp7Config(ExperimentConfig):
    """N images, K trials at one T. Each family comes in its graded levels; the clean image is one variant of each."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 200}

    n: int = 500
    passes: int = 64
    trials: int = 3
    families: tuple[str, ...] = ("jpeg", "blur", "down", "noise", "occlusion")


@dataclass(frozen=True)
class Relation:
    """Epistemic against one aleatoric score: ρ, ρ given the feature norm, and ρ as it would be at infinite T and K.

    ``disattenuated`` is NaN where a reliability is unknown: families with random variants.
    """

    rho: Estimate
    given_norm: Estimate
    disattenuated: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        corrected_rho = None if math.isnan(self.disattenuated) else self.disattenuated
        return {"rho": self.rho.as_dict(), "given_norm": self.given_norm.as_dict(), "disattenuated": corrected_rho}


@dataclass(frozen=True)
class Exp7Result:
    """Scores [N] by name, how epistemic relates to each aleatoric one, and what each is worth on every target."""

    scores: dict[str, Array]
    relations: dict[str, Relation]
    epistemic_reliability: Reliability
    estimates: dict[str, dict[str, Estimate]]
    reports: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Difference]]


def needs(config: Exp7Config, model: str) -> Need:
    """The epistemic side; the aleatoric one needs deterministic features only."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed))


def variants(config: Exp7Config, side: int) -> dict[str, tuple[str, ...]]:
    """The degradations of every family for pictures with this shorter side, none of them twice."""
    return {family: graded(family, side) for family in config.families}


def aleatoric(clean: NDArray[np.floating], degraded: NDArray[np.floating]) -> Array:
    """Mean over dimensions of the sample variance over ``clean`` [N, D] and ``degraded`` [L, N, D]: ``[N]``."""
    every = np.concatenate([clean[None], degraded]).astype(np.float64)
    return np.asarray((every - every[:1]).var(axis=0, ddof=1).mean(axis=-1))


def z_score(values: Array) -> Array:
    """(x − mean)/sd, ``[N]``; a constant gives zeros."""
    sd = values.std(ddof=1)
    return np.zeros(len(values)) if sd == 0 else np.asarray((values - values.mean()) / sd)


def rank_score(values: Array) -> Array:
    """Mid-rank over N, ``[N]``."""
    return np.asarray(stats.rankdata(values) / len(values))


def gathered(
    run: MonteCarloRun, passes: int, trials: int, spreads: Mapping[str, Array], entropy: Array
) -> dict[str, Array]:
    """All scores [N], larger meaning more uncertain.

    ``aleatoric_z`` and ``aleatoric_rank`` average the families, each scaled first; ``combined_z`` and ``combined_rank``
    add the epistemic score on the same scale. The published product of z-scores is left out: two very low scores give
    a high one.
    """
    epistemic = run.scores("trace_pre", passes)[:trials].mean(0)
    by_z = np.mean([z_score(s) for s in spreads.values()], axis=0)
    by_rank = np.mean([rank_score(s) for s in spreads.values()], axis=0)
    return {
        "epistemic": epistemic,
        "epistemic_post": run.scores("trace_post", passes)[:trials].mean(0),
        **{f"aleatoric_{family}": spread for family, spread in spreads.items()},
        "aleatoric_z": by_z,
        "aleatoric_rank": by_rank,
        "combined_z": z_score(epistemic) + z_score(by_z),
        "combined_rank": rank_score(epistemic) + rank_score(by_rank),
        "inverse_norm": 1 / run.feature_norm,
        "zero_shot_entropy": entropy,
    }


def compute(
    config: Exp7Config,
    run: MonteCarloRun,
    degraded: Mapping[str, NDArray[np.floating]],
    logits: Array,
    labels: NDArray[np.int64] | None,
) -> Exp7Result:
    """Everything of one model.

    Args:
        config: the protocol.
        run: the measurement that :func:`needs` names.
        degraded: by family, deterministic features ``[L, N, D]``.
        logits: ``[templates, N, C]`` of the clean images.
        labels: ``[N]``, or None where unknown.

    """
    targets, seed, norm = ambiguity_targets(logits, labels), config.seed, run.feature_norm
    spreads = {family: aleatoric(run.features, features) for family, features in degraded.items()}
    scores = gathered(run, config.passes, config.trials, spreads, targets.entropy)
    repeated = reliability(run.scores("trace_pre", config.passes)[: config.trials], seed=seed)
    return Exp7Result(
        scores=scores,
        relations={
            name: _relation(scores["epistemic"], scores[name], norm, repeated, name, seed)
            for name in (*(f"aleatoric_{family}" for family in spreads), "aleatoric_rank")
        },
        epistemic_reliability=repeated,
        estimates={
            name: ambiguity_estimates(scores[name], targets, norm, seed=seed)
            for name in ("epistemic", "aleatoric_rank", "combined_rank")
        },
        reports={
            name: ambiguity_report(score, targets, None if name == "inverse_norm" else norm, seed=seed, resamples=500)
            for name, score in scores.items()
        },
        differences=_differences(scores, targets, seed),
    )


def of_mean(rho: float, trials: int) -> float:
    """Reliability of the mean of K trials from that of one (Spearman 1910, Brown 1910)."""
    return trials * rho / (1 + (trials - 1) * rho)


def _relation(epistemic: Array, other: Array, norm: Array, repeated: Reliability, name: str, seed: int) -> Relation:
    rho = spearman(epistemic, other, seed=seed)
    known = name.removeprefix("aleatoric_") in DETERMINISTIC
    of_epistemic = of_mean(repeated.spearman, repeated.n_trials)
    return Relation(
        rho,
        partial_spearman(epistemic, other, norm, seed=seed),
        disattenuated(rho.value, of_epistemic, 1.0) if known else math.nan,
    )


def _differences(scores: Mapping[str, Array], targets: AmbiguityTargets, seed: int) -> dict[str, dict[str, Difference]]:
    """Every score's figure minus that of epistemic alone, by target; Holm over all of them."""
    fair = {name: score for name, score in scores.items() if name != "zero_shot_entropy"}  # it *is* the first target
    families = {
        target: spearman_differences(fair, "epistemic", getattr(targets, target), seed=seed)
        for target in ("entropy", "neg_margin")
    }
    if targets.correct is not None:
        families["error"] = auroc_differences(scores, "epistemic", ~targets.correct)
    return corrected(families)


def write(config: Exp7Config, run: MonteCarloRun, result: Exp7Result, reports: Path, session: str) -> Path:
    """Per model a summary, the arrays and the figure; ``exp7_overall_summary.json`` for all."""
    folder = reports / FOLDER / file_name(run.encoder)
    write_npz(folder / "exp7_outputs.npz", paths=np.array(run.ids), feature_norm=run.feature_norm, **result.scores)
    summary: dict[str, Any] = {
        "model": run.encoder,
        "corr": {f"epistemic_vs_{name}": relation.as_dict() for name, relation in result.relations.items()},
        "methods": result.reports,
        "difference_to_epistemic": {
            target: {name: d.as_dict() for name, d in family.items()} for target, family in result.differences.items()
        },
        "correction": "Holm over all differences of the model",
        "epistemic_reliability": result.epistemic_reliability.as_dict(),
        **origin(config, run),
    }
    write_json(folder / "exp7_summary.json", summary)
    save_figure(figure(run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp7_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, summary)
    return overall


def figure(model: str, result: Exp7Result) -> Figure:
    """Left: how epistemic relates to each aleatoric score. Right: what each score says about ambiguity."""
    fig = Figure(figsize=(11, 4.4))
    left, right = fig.subplots(1, 2)
    for offset, (label, pick) in enumerate({"ρ": "rho", "ρ given the feature norm": "given_norm"}.items()):
        found: list[Estimate] = [getattr(relation, pick) for relation in result.relations.values()]
        place = np.arange(len(found)) + 0.2 * offset
        left.errorbar([e.value for e in found], place, xerr=_reach(found), fmt="o", capsize=3, label=label)
    left.set_yticks(range(len(result.relations)), list(result.relations))
    left.axvline(0, color="grey", linestyle=":")
    left.set_xlabel("Spearman's ρ with the epistemic score [1]")
    left.set_ylabel("aleatoric score")
    left.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
    names = [name for name in result.scores if name != "zero_shot_entropy"]
    for offset, (label, key) in enumerate(
        {"ρ(entropy)": "rho_uncertainty_vs_entropy", "AUROC(error)": "auroc_error"}.items()
    ):
        reports = [result.reports[name] for name in names]
        ends = [[math.nan if e is None else e for e in (r[key], *r[f"{key}_ci"])] for r in reports]
        shown = [Estimate(value, low, high, 0) for value, low, high in ends]
        place = np.arange(len(names)) + 0.2 * offset
        right.errorbar([e.value for e in shown], place, xerr=_reach(shown), fmt="o", capsize=3, label=label)
    right.set_yticks(range(len(names)), names)
    right.axvline(0.5, color="tab:orange", linestyle=":", label="chance of AUROC")
    right.axvline(0.0, color="tab:blue", linestyle=":", label="chance of ρ")
    right.set_xlabel("validity [1]")
    right.set_ylabel("score")
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=4)
    fig.suptitle(f"{model}: aleatoric and epistemic, N = {len(result.scores['epistemic'])}, 95 % intervals", y=1.04)
    fig.subplots_adjust(wspace=0.5)
    return fig


def _reach(found: list[Estimate]) -> Array:
    """Lengths of error bars, ``[2, n]``."""
    return np.asarray(np.abs(np.array([[e.value - e.low, e.high - e.value] for e in found]).T))
