"""Exp6: is MC dropout worth its T passes beside a Laplace posterior, which takes one?

Same images, same targets. Laplace is fitted on calibration images that are never scored: a last-layer posterior on the
zero-shot head, and a Kronecker-factored one on the image projection. Beside them stand first-order dropout, the
published leverage in its full form, and what costs nothing: the inverse feature norm and the zero-shot prediction
itself. Differences to MC dropout are paired over images; Holm runs over all of a model's comparisons.
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
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    ambiguity_estimates,
    ambiguity_report,
    ambiguity_targets,
    auroc_differences,
    corrected,
    proportion,
    spearman,
    spearman_differences,
)

Array = NDArray[np.float64]
FOLDER = "exp6_laplace_comparison"
REFERENCE = "mc_dropout"
LAPLACE = ("laplace_head", "laplace_projection")
CIRCULAR = {"entropy": ("zero_shot_entropy",), "neg_margin": ("zero_shot_margin",)}
"""Scores that *are* a target, and so are not compared on it."""

SIZE_OF_TIMING = ("plain", "mc_dropout", "laplace_head", "laplace_projection")


@dataclass(frozen=True)
class Exp6Config(ExperimentConfig):
    """N images, one trial at one T; ``fit`` calibration images; ``probes`` of the first-order estimator."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 500, "resamples": 500}

    n: int = 10_000
    passes: int = 64
    trials: int = 1
    fit: int = 1197
    probes: int = 16
    resamples: int = 1000


@dataclass(frozen=True)
class Exp6Result:
    """Scores [N] by name; estimates against softmax targets; reports by score and head; differences by target."""

    scores: dict[str, Array]
    targets: dict[str, AmbiguityTargets]
    estimates: dict[str, dict[str, Estimate]]
    reports: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Difference]]
    with_mc: dict[str, Estimate]
    accuracy: Estimate | None


def needs(config: Exp6Config, model: str) -> Need:
    """One trial."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed))


def gathered(
    run: MonteCarloRun, passes: int, laplace: Mapping[str, Array], first_order: Mapping[str, Array], logits: Array
) -> dict[str, Array]:
    """All scores [N], larger meaning more uncertain.

    Args:
        run: MC dropout.
        passes: its T.
        laplace: from :func:`mcdo.experiments.laplace_scores.laplace_scores`.
        first_order: "trace_pre" and "trace_post", [K, N].
        logits: ``[templates, N, C]``.

    """
    deterministic = ambiguity_targets(logits)
    return {
        REFERENCE: run.scores("trace_pre", passes).mean(0),
        "mc_dropout_post": run.scores("trace_post", passes).mean(0),
        "mc_dropout_relative": run.scores("trace_pre_relative", passes).mean(0),
        "laplace_head": laplace["head_logit_variance"],
        "laplace_head_margin": laplace["head_margin_variance"],
        "laplace_projection": laplace["projection_logit_variance"],
        "laplace_projection_margin": laplace["projection_margin_variance"],
        "laplace_projection_feature": laplace["projection_feature_variance"],
        "leverage": laplace["leverage"],
        "first_order": first_order["trace_pre"].mean(0),
        "first_order_post": first_order["trace_post"].mean(0),
        "inverse_norm": 1 / run.feature_norm,
        "zero_shot_entropy": deterministic.entropy,
        "zero_shot_margin": deterministic.neg_margin,
    }


def compute(
    config: Exp6Config, scores: dict[str, Array], feature_norm: Array, logits: Array, labels: NDArray[np.int64] | None
) -> Exp6Result:
    """Everything from scores and targets of the same images.

    Args:
        config: the protocol.
        scores: from :func:`gathered`.
        feature_norm: ``[N]``, the control.
        logits: ``[templates, N, C]``.
        labels: ``[N]``, or None where unknown.

    """
    softmax = ambiguity_targets(logits, labels, head="softmax")
    targets = {"softmax": softmax, "sigmoid": ambiguity_targets(logits, labels, head="sigmoid")}
    seed, correct = config.seed, softmax.correct
    return Exp6Result(
        scores=scores,
        targets=targets,
        estimates={
            name: ambiguity_estimates(score, softmax, feature_norm, seed=seed, resamples=config.resamples)
            for name, score in scores.items()
            if name in (REFERENCE, *LAPLACE)
        },
        reports={
            f"{name}/{head}": ambiguity_report(
                score, target, None if name == "inverse_norm" else feature_norm, seed=seed, resamples=200
            )
            for name, score in scores.items()
            for head, target in targets.items()
        },
        differences=_differences(config, scores, softmax),
        with_mc={
            name: spearman(score, scores[REFERENCE], seed=seed, resamples=200)
            for name, score in scores.items()
            if name != REFERENCE
        },
        accuracy=None if correct is None else proportion(int(correct.sum()), len(correct)),
    )


def _differences(
    config: Exp6Config, scores: Mapping[str, Array], targets: AmbiguityTargets
) -> dict[str, dict[str, Difference]]:
    """Every score's figure minus MC dropout's, by target; Holm over all of them."""
    how: dict[str, Any] = {"seed": config.seed, "resamples": config.resamples}
    families = {
        target: spearman_differences(
            {name: score for name, score in scores.items() if name not in CIRCULAR[target]},
            REFERENCE,
            getattr(targets, target),
            **how,
        )
        for target in CIRCULAR
    }
    if targets.correct is not None:
        families["error"] = auroc_differences(scores, REFERENCE, ~targets.correct)
    return corrected(families)


def cost(seconds: Array) -> dict[str, float]:
    """Time per image as a multiple of one plain pass."""
    return {name: float(s / seconds[0]) for name, s in zip(SIZE_OF_TIMING, seconds, strict=True)}


def write(
    config: Exp6Config,
    run: MonteCarloRun,
    result: Exp6Result,
    laplace: Mapping[str, Array],
    seconds: Array,
    reports: Path,
    session: str,
) -> Path:
    """Per model a summary, the arrays and the figure; ``exp6_overall_summary.json`` for all."""
    folder, targets = reports / FOLDER / file_name(run.encoder), result.targets["softmax"]
    write_npz(
        folder / "exp6_outputs.npz",
        paths=np.array(run.ids),
        margin=-targets.neg_margin,
        entropy=targets.entropy,
        prompt_sensitivity=np.array([]) if targets.prompt_sensitivity is None else targets.prompt_sensitivity,
        pseudo_labels=targets.predicted,
        feature_norm=run.feature_norm,
        mcdo_uncertainty=result.scores[REFERENCE],
        laplace_uncertainty=result.scores["laplace_head"],
        **{f"score_{name}": score for name, score in result.scores.items()},
    )
    summary: dict[str, Any] = {
        "model": run.encoder,
        "accuracy": None if result.accuracy is None else result.accuracy.as_dict(),
        "scores": result.reports,
        "difference_to_mc_dropout": {
            target: {name: d.as_dict() for name, d in family.items()} for target, family in result.differences.items()
        },
        "correction": "Holm over all differences of the model",
        "cross_method": {f"rho_mcdo_vs_{name}": rho.as_dict() for name, rho in result.with_mc.items()},
        "time_in_plain_passes": cost(seconds),
        "passes_per_image": {
            "mc_dropout": config.passes * config.trials,
            "laplace": 1,
            "first_order": f"1 with a graph, and {config.probes} backward",
        },
        "prior_precision": {key: float(laplace[f"prior_{key}"][0]) for key in ("head", "projection")},
        **origin(config, run),
    }
    write_json(folder / "exp6_summary.json", summary)
    save_figure(figure(run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp6_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, summary)
    return overall


FIGURES = {
    "entropy": ("rho_uncertainty_vs_entropy", "ρ with zero-shot entropy", 0.0),
    "neg_margin": ("rho_uncertainty_vs_negative_margin", "ρ with negative margin", 0.0),
    "error": ("auroc_error", "AUROC of errors", 0.5),
}


def figure(model: str, result: Exp6Result) -> Figure:
    """Every score's figure on each target, with intervals; chance and MC dropout as lines."""
    fig = Figure(figsize=(11, 5))
    names = list(result.scores)
    for axes, (key, title, chance) in zip(fig.subplots(1, 3, sharey=True), FIGURES.values(), strict=True):
        found = [result.reports[f"{name}/softmax"] for name in names]
        value = np.array([np.nan if f[key] is None else f[key] for f in found], dtype=float)
        ends = np.array([[np.nan if e is None else e for e in f[f"{key}_ci"]] for f in found], dtype=float)
        reach = np.abs(ends - value[:, None]).T
        axes.errorbar(value, range(len(names)), xerr=reach, fmt="o", capsize=2, label="score, 95 % interval")
        axes.axvline(chance, color="grey", linestyle=":", label="chance")
        axes.axvline(value[names.index(REFERENCE)], color="tab:red", linestyle="--", label="MC dropout")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(f"{title} [1]")
    fig.axes[0].invert_yaxis()
    fig.axes[0].set_ylabel("score")
    fig.axes[1].legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3)
    fig.suptitle(f"{model}: MC dropout beside Laplace, N = {len(result.scores[REFERENCE])}", y=1.02)
    return fig
