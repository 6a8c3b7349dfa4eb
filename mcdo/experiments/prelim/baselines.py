"""Preliminary investigation: does the score beat what costs nothing?

A score of many passes matters only where it tells more than the norm of one feature, the sharpness of the pixels
(variance of their Laplacian), the entropy of their grey values, or the entropy of the zero-shot head itself. Each score
is compared with each baseline on the same resamples of the images. A score points one way, larger being more uncertain;
a baseline may be read either way, since a few labelled images would tell which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.images import ImageSet
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    Difference,
    Estimate,
    Relation,
    advantages,
    ambiguity_estimates,
    ambiguity_targets,
    corrected,
    rank_relations,
)

FOLDER = "prelim_baselines"
SCORES = ("trace_pre", "trace_post", "trace_pre_relative")
PIXELS = ("laplacian_variance", "grey_entropy")
CHEAP = ("feature_norm", *PIXELS)
"""Baselines that know nothing of the head."""
ZERO_SHOT = "zero_shot_entropy"
"""The head's own entropy: a baseline for errors only, since the other targets are read from the same logits."""
Array = NDArray[np.float64]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class BaselinesConfig(ExperimentConfig):
    """N images, one trial at one T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 500, "passes": 32}

    n: int = 2000
    passes: int = 64
    trials: int = 1


@dataclass(frozen=True)
class BaselinesResult:
    """ρ of everything with the targets, AUROC of error, and the advantages by (score, baseline, target)."""

    relations: dict[tuple[str, str], Relation]
    error: dict[str, Estimate]
    advantages: dict[Key, Difference]
    errors: int
    originals: int


def needs(config: BaselinesConfig, model: str) -> Need:
    """One trial."""
    t = (config.passes,)
    return Need(model, config.n, MonteCarloConfig(config.dropout, t, config.trials, config.seed))


def laplacian_variance(image: Image.Image) -> float:
    """Variance over pixels of the Laplacian (5-point, edges repeated) of the grey picture in [0, 1]: its sharpness."""
    grey = np.asarray(image.convert("L"), dtype=np.float64) / 255
    return float(ndimage.laplace(grey, mode="nearest").var())


def grey_entropy(image: Image.Image) -> float:
    """Entropy in bits of the histogram of the 256 grey values (Shannon 1948)."""
    return float(image.convert("L").entropy())


def pixel_baselines(images: ImageSet) -> dict[str, Array]:
    """The baselines that need the pictures only, each [N], at native resolution."""
    pairs = [(laplacian_variance(image), grey_entropy(image)) for image in images]
    return dict(zip(PIXELS, np.array(pairs).T, strict=True))


def compute(
    config: BaselinesConfig,
    run: MonteCarloRun,
    logits: Array,
    labels: NDArray[np.int64] | None,
    pixels: Mapping[str, Array],
) -> BaselinesResult:
    """Everything of one model.

    Args:
        config: the protocol.
        run: the measurement.
        logits: ``[templates, N, C]``.
        labels: ``[N]``, or None where unknown: then nothing is said of errors.
        pixels: from :func:`pixel_baselines`.

    """
    targets, origins, seed = ambiguity_targets(logits, labels), run.origins, config.seed
    scores = {name: run.scores(name, config.passes)[0] for name in SCORES}
    cheap = {"feature_norm": run.feature_norm, **pixels}
    follows = {"entropy": targets.entropy, "negative_margin": targets.neg_margin}
    detects = {} if targets.correct is None else {"error": ~targets.correct}
    found = advantages(scores, cheap, follows=follows, detects=detects, origins=origins, seed=seed)
    head = {ZERO_SHOT: targets.entropy}
    if detects:
        found |= advantages(scores, head, follows={}, detects=detects, origins=origins, seed=seed)
    return BaselinesResult(
        relations=rank_relations({**scores, **cheap}, follows, given=run.feature_norm, origins=origins, seed=seed),
        error={
            name: ambiguity_estimates(values, targets, origins=origins, seed=seed)["auroc_error"]
            for name, values in {**scores, **cheap, **head}.items()
        },
        advantages=_jointly_corrected(found),
        errors=0 if targets.correct is None else int((~targets.correct).sum()),
        originals=len(set(origins)),
    )


def _jointly_corrected(found: Mapping[Key, Difference]) -> dict[Key, Difference]:
    joined = corrected({"": {str(key): difference for key, difference in found.items()}})[""]
    return {key: joined[str(key)] for key in found}


def summary(result: BaselinesResult) -> dict[str, Any]:
    """What stands in the summary, apart from the origin."""
    return {
        "relations": {f"{a} ~ {b}": r.as_dict() for (a, b), r in result.relations.items()},
        "auroc_error": {name: e.as_dict() for name, e in result.error.items()},
        "advantages": {f"{s} over {b} at {t}": d.as_dict() for (s, b, t), d in result.advantages.items()},
        "advantage": "rho(score) - |rho(baseline)|; AUROC(score) - max(AUROC, 1 - AUROC)(baseline)",
        "correction": "Holm over all advantages of a model",
        "errors": result.errors,
        "originals": result.originals,
        "intervals": "bootstrap over originals; n of an interval counts originals",
    }


def write(
    config: BaselinesConfig,
    run: MonteCarloRun,
    logits: Array,
    pixels: Mapping[str, Array],
    result: BaselinesResult,
    reports: Path,
    session: str,
) -> Path:
    """Per model ``prelim_baselines_summary.json``, ``prelim_baselines.npz`` and the figure; an overall summary."""
    folder, targets = reports / FOLDER / file_name(run.encoder), ambiguity_targets(logits)
    write_npz(
        folder / f"{FOLDER}.npz",
        paths=np.array(run.ids),
        entropy=targets.entropy,
        neg_margin=targets.neg_margin,
        feature_norm=run.feature_norm,
        **{name: run.scores(name, config.passes)[0] for name in SCORES},
        **pixels,
    )
    found = {"model": run.encoder, **summary(result), **origin(config, run)}
    write_json(folder / f"{FOLDER}_summary.json", found)
    save_figure(figure(config, run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / f"{FOLDER}_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, found)
    return overall


def figure(config: BaselinesConfig, model: str, result: BaselinesResult) -> Figure:
    """Advantage of each score over each baseline, by target; what lies above 0 beats the baseline."""
    targets = list(dict.fromkeys(target for _, _, target in result.advantages))
    drawn = Figure(figsize=(6 * len(targets), 5.5), layout="constrained")
    drawn.suptitle(f"{model}: does the score beat what costs nothing? (N={config.n}, T={config.passes})")
    panels = np.atleast_1d(np.asarray(drawn.subplots(1, len(targets))))
    for axes, target in zip(panels, targets, strict=True):
        series = {
            score: {b: d.estimate for (s, b, t), d in result.advantages.items() if (s, t) == (score, target)}
            for score in SCORES
        }
        unit = "AUROC − AUROC of baseline" if target == "error" else "ρ − |ρ of baseline|"
        interval_panel(axes, series, 0.0, f"{unit} [95 %]")
        axes.set_title(f"target: {target.replace('_', ' ')}")
    return drawn
