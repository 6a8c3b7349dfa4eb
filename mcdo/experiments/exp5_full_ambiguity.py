"""Exp5 (full): does the score follow ambiguity on 10 000 images, and does it beat the feature norm at that?

As the subset of Phase 1, with three things more. Intervals are over *originals*: where the image set repeats variants
of one original (the embedded digits have 600), the variants are no independent draws. The score is compared, in pairs,
with the negative feature norm, which costs nothing. And a file of images with captions (``--retrieval=PATH``) asks the
same of image-to-text retrieval. Images are measured in blocks, so that memory holds pixels and scores, never features
over passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS
from mcdo.images import ImageSet
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    ambiguity_estimates,
    ambiguity_targets,
    bootstrap,
    spearman_differences,
)

FOLDER = "exp5_full_ambiguity"
SCORES = ("trace_pre", "trace_post", "trace_pre_relative")
BASELINE = "negative_norm"
"""Minus the norm of the deterministic feature: a score that needs no passes."""
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Exp5FullConfig(ExperimentConfig):
    """N images, one trial at one T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 800, "passes": 32}

    n: int = 10_000
    passes: int = 64
    trials: int = 1


@dataclass(frozen=True)
class Exp5FullResult:
    """Figures by score and head (``score/head``), each score's difference to the baseline, and what they rest on."""

    targets: dict[str, AmbiguityTargets]
    scores: dict[str, Scores]
    figures: dict[str, dict[str, Estimate]]
    gain: dict[str, Difference]
    originals: int
    accuracy: float | None


def needs(config: Exp5FullConfig, model: str) -> Need:
    """One trial."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed))


def compute(
    config: Exp5FullConfig, run: MonteCarloRun, logits: NDArray[np.float64], labels: NDArray[np.int64] | None
) -> Exp5FullResult:
    """Everything of one model.

    Args:
        config: the protocol.
        run: the measurement.
        logits: ``[templates, N, C]``.
        labels: ``[N]``, or None where unknown.

    """
    origins, norm, seed = run.origins, run.feature_norm, config.seed
    targets = {
        "softmax": ambiguity_targets(logits, labels, head="softmax"),
        "sigmoid": ambiguity_targets(logits, labels, head="sigmoid"),
    }
    scores = {name: run.scores(name, config.passes)[0] for name in SCORES} | {BASELINE: -norm}
    correct = targets["softmax"].correct
    return Exp5FullResult(
        targets=targets,
        scores=scores,
        figures={
            f"{name}/{head}": ambiguity_estimates(
                score, target, None if name == BASELINE else norm, origins=origins, seed=seed
            )
            for name, score in scores.items()
            for head, target in targets.items()
        },
        gain=spearman_differences(scores, BASELINE, targets["softmax"].entropy, origins=origins, seed=seed),
        originals=len(set(origins)),
        accuracy=None if correct is None else float(correct.mean()),
    )


def summary(config: Exp5FullConfig, result: Exp5FullResult) -> dict[str, Any]:
    """What stands in ``exp5_full_summary.json``, apart from the origin: the published keys, with their intervals."""
    tables = {name: _flat(figures) for name, figures in result.figures.items()}
    return {
        **tables["trace_pre/softmax"],
        "accuracy": result.accuracy,
        "scores": tables,
        "rho_entropy_above_negative_norm": {name: d.as_dict() for name, d in result.gain.items()},
        "correction": "Holm over the scores compared with the negative feature norm",
        "originals": result.originals,
        "intervals": "bootstrap over originals; n of an interval counts originals",
        "templates": TEMPLATES,
    }


def _flat(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, estimate in figures.items():
        held = estimate.as_dict()
        flat |= {key: held["value"], f"{key}_ci": [held["low"], held["high"]], "n": held["n"], "level": held["level"]}
    return flat


def write(
    config: Exp5FullConfig, run: MonteCarloRun, images: ImageSet, result: Exp5FullResult, reports: Path, session: str
) -> Path:
    """Per model ``exp5_full_summary.json``, ``exp5_full_outputs.npz`` and the figure; an overall summary."""
    folder, targets = reports / FOLDER / file_name(run.encoder), result.targets["softmax"]
    write_npz(
        folder / "exp5_full_outputs.npz",
        paths=np.array(run.ids),
        uncertainty=result.scores["trace_pre"],
        trace_post=result.scores["trace_post"],
        feature_norm=run.feature_norm,
        margin=-targets.neg_margin,
        entropy=targets.entropy,
        prompt_sensitivity=np.array([]) if targets.prompt_sensitivity is None else targets.prompt_sensitivity,
        gt_labels=np.full(len(run.ids), -1) if images.labels is None else images.labels,
        pred_labels=targets.predicted,
    )
    found = {"model": run.encoder, **summary(config, result), **origin(config, run)}
    write_json(folder / "exp5_full_summary.json", found)
    save_figure(figure(config, run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp5_full_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, found)
    left_out = [{"path": image.path, "reason": image.reason} for image in images.skipped]
    add_to_json(overall, session, "skipped", run.encoder, left_out)
    return overall


def figure(config: Exp5FullConfig, model: str, result: Exp5FullResult) -> Figure:
    """The bars of validity, raw and given the norm; and ambiguity by tenths of each score."""
    drawn = Figure(figsize=(17, 5), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    n = len(result.scores["trace_pre"])
    drawn.suptitle(f"{model}: ambiguity (N={n} images of {result.originals} originals, T={config.passes}, K=1)")
    for axes, (key, bar), label in (
        (left, BARS["rho_entropy"], "ρ with the zero-shot entropy"),
        (middle, BARS["auroc_high_entropy"], "AUROC for the highest tenth of entropy"),
    ):
        by_name = {name: result.figures[f"{name}/softmax"] for name in result.scores}
        series = {
            "score": {name: figures[key] for name, figures in by_name.items()},
            "given the feature norm": {
                name: figures[f"{key}_given_norm"] for name, figures in by_name.items() if name != BASELINE
            },
        }
        interval_panel(axes, series, bar, f"{label} [95 %]")
        axes.set_xlabel("score")
    for name, score in result.scores.items():
        tenths = _by_tenths(score, result.targets["softmax"].entropy)
        right.plot(range(1, len(tenths) + 1), tenths, "o-", label=name)
    right.set_xlabel("tenth of the score, lowest first")
    right.set_ylabel("mean zero-shot entropy (nats)")
    right.legend()
    return drawn


def _by_tenths(score: Scores, target: Scores) -> list[float]:
    order = np.argsort(score, kind="stable")
    return [float(target[part].mean()) for part in np.array_split(order, min(10, len(order)))]


def mean_entropy(result: Exp5FullResult, seed: int) -> Estimate:
    """Mean zero-shot entropy in nats: how ambiguous the images are to this encoder at all."""
    return bootstrap(np.mean, result.targets["softmax"].entropy, seed=seed, resamples=200)
