"""Preliminary investigation, angles 1 to 3: which metric, at which sample size, and what else does the score follow?

Angle 1 sets six metrics of the same passes beside entropy and −margin; angle 2 repeats it with more images; angle 3
asks what the score follows instead: distance from the centroid, feature norm, largest logit, entropy, −margin,
correctness. All three are seen in one run: the images of a smaller angle are among those of a larger one, so angle 2 is
a narrower interval for angle 1 and no independent repetition of it. trace_post and mean_cosine_dev are one quantity up
to a monotone map and stand for one metric. Every relation stands beside itself given the feature norm, which trace_pre
grows with.
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
from mcdo.images import ImageSet
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    Relation,
    advantages,
    ambiguity_estimates,
    ambiguity_targets,
    rank_relations,
)

FOLDER = "prelim_angles"
METRICS = ("trace_pre", "trace_post", "mean_cosine_dev", "top_eigenvalue", "max_dim_var", "norm_var")
CONTROLS = ("trace_pre_relative", "feature_norm")
"""Beside the six: the trace without the norm's share in it, and the norm itself, which costs nothing."""
FOLLOWED = ("trace_pre", "trace_post", "trace_pre_relative")
"""The scores of angle 3."""
CORRELATES = ("centroid_distance", "feature_norm", "max_logit", "entropy", "negative_margin", "correct")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class AnglesConfig(ExperimentConfig):
    """N images of each angle, one trial at one T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"angle1": 150, "angle2": 500, "angle3": 300, "passes": 32}

    angle1: int = 500
    angle2: int = 2000
    angle3: int = 1000
    passes: int = 64
    trials: int = 1

    @property
    def n(self) -> int:
        """Images of the one run that holds all angles."""
        return max(self.angle1, self.angle2, self.angle3)


@dataclass(frozen=True)
class AnglesResult:
    """What the angles found.

    Attributes:
        metrics: by angle (1, 2), the relation of every metric and control with every target.
        strongest: by angle (1, 2), ρ(trace_pre, entropy) − |ρ(other metric, entropy)|.
        ambiguity: by angle (1, 2, 3), the published figures of trace_pre, AUROC of error included.
        correlates: angle 3, by (score, correlate).
        outlier: angle 3, by score: ρ(score, centroid distance) − |ρ(score, entropy)|; positive where the score follows
            how untypical an image is more than how ambiguous.
        ambiguity_first: the other way round: ρ(score, entropy) − |ρ(score, centroid distance)|.
        means: angle 3, by score: its mean over correctly and over wrongly classified images.
        sizes: by angle, (images, originals).

    """

    metrics: dict[int, dict[tuple[str, str], Relation]]
    strongest: dict[int, dict[str, Difference]]
    ambiguity: dict[int, dict[str, Estimate]]
    correlates: dict[tuple[str, str], Relation]
    outlier: dict[str, Difference]
    ambiguity_first: dict[str, Difference]
    means: dict[str, dict[str, float | None]]
    sizes: dict[int, tuple[int, int]]


def needs(config: AnglesConfig, model: str) -> Need:
    """One run of the largest angle."""
    t = (config.passes,)
    return Need(model, config.n, MonteCarloConfig(config.dropout, t, config.trials, config.seed, geometry=t))


def members(images: ImageSet, angles: Mapping[int, ImageSet]) -> dict[int, NDArray[np.intp]]:
    """Where the images of each angle stand among those of the run; those that are not there are left out."""
    place = {image_id: i for i, image_id in enumerate(images.ids)}
    return {
        angle: np.array([place[image_id] for image_id in chosen.ids if image_id in place], dtype=np.intp)
        for angle, chosen in angles.items()
    }


def centroid_distance(features: NDArray[np.floating]) -> Array:
    """1 − cosine of each feature [N, D] to the mean of the unit features: how untypical an image is."""
    unit = features.astype(np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    centre = unit.mean(axis=0)
    return np.asarray(1 - unit @ (centre / np.linalg.norm(centre)))


def compute(
    config: AnglesConfig,
    run: MonteCarloRun,
    logits: Array,
    labels: NDArray[np.int64] | None,
    angles: Mapping[int, NDArray[np.intp]],
) -> AnglesResult:
    """All three angles.

    Args:
        config: the protocol.
        run: the measurement of all images.
        logits: ``[templates, N, C]``.
        labels: ``[N]``, or None where unknown.
        angles: columns of the run that belong to angle 1, 2 and 3.

    """
    scores = _scores(config, run)
    distance = {angle: centroid_distance(run.features[at]) for angle, at in angles.items()}
    seen = {angle: _Seen(scores, run.origins, logits, labels, at, distance[angle]) for angle, at in angles.items()}
    third, seed = seen[3], config.seed
    correct = third.softmax.correct
    return AnglesResult(
        metrics={angle: seen[angle].metrics(seed) for angle in (1, 2)},
        strongest={angle: seen[angle].strongest(seed) for angle in (1, 2)},
        ambiguity={
            angle: ambiguity_estimates(
                view.scores["trace_pre"], view.softmax, view.scores["feature_norm"], origins=view.origins, seed=seed
            )
            for angle, view in seen.items()
        },
        correlates=third.correlates(seed),
        outlier=third.against("centroid_distance", "entropy", seed),
        ambiguity_first=third.against("entropy", "centroid_distance", seed),
        means={name: _means(third.scores[name], correct) for name in FOLLOWED},
        sizes={angle: (len(view.origins), len(set(view.origins))) for angle, view in seen.items()},
    )


def _scores(config: AnglesConfig, run: MonteCarloRun) -> dict[str, Array]:
    names = [*METRICS, "trace_pre_relative"]
    return {name: run.scores(name, config.passes)[0] for name in names} | {"feature_norm": run.feature_norm}


def _means(score: Array, correct: NDArray[np.bool_] | None) -> dict[str, float | None]:
    if correct is None:
        return {"correct": None, "wrong": None}
    groups = {"correct": score[correct], "wrong": score[~correct]}
    return {name: float(held.mean()) if len(held) else None for name, held in groups.items()}


class _Seen:
    """The images of one angle: their scores and what those are set beside."""

    def __init__(
        self,
        scores: Mapping[str, Array],
        origins: tuple[str, ...],
        logits: Array,
        labels: NDArray[np.int64] | None,
        at: NDArray[np.intp],
        distance: Array,
    ) -> None:
        self.scores = {name: values[at] for name, values in scores.items()}
        self.origins = tuple(origins[int(i)] for i in at)
        chosen, known = logits[:, at], None if labels is None else labels[at]
        self.softmax: AmbiguityTargets = ambiguity_targets(chosen, known, head="softmax")
        self.sigmoid: AmbiguityTargets = ambiguity_targets(chosen, known, head="sigmoid")
        self.others = {
            "centroid_distance": distance,
            "feature_norm": self.scores["feature_norm"],
            "max_logit": chosen[0].max(axis=1),
            "entropy": self.softmax.entropy,
            "negative_margin": self.softmax.neg_margin,
        }
        if self.softmax.correct is not None:
            self.others["correct"] = self.softmax.correct.astype(np.float64)

    def metrics(self, seed: int) -> dict[tuple[str, str], Relation]:
        targets = {
            "entropy": self.softmax.entropy,
            "negative_margin": self.softmax.neg_margin,
            "sigmoid_entropy": self.sigmoid.entropy,
            "sigmoid_negative_margin": self.sigmoid.neg_margin,
        }
        return rank_relations(self.scores, targets, given=self.scores["feature_norm"], origins=self.origins, seed=seed)

    def strongest(self, seed: int) -> dict[str, Difference]:
        found = advantages(
            {"trace_pre": self.scores["trace_pre"]},
            {name: self.scores[name] for name in METRICS if name != "trace_pre"},
            follows={"entropy": self.softmax.entropy},
            detects={},
            origins=self.origins,
            seed=seed,
        )
        return {other: difference for (_, other, _), difference in found.items()}

    def correlates(self, seed: int) -> dict[tuple[str, str], Relation]:
        chosen = {name: self.scores[name] for name in FOLLOWED}
        return rank_relations(chosen, self.others, given=self.scores["feature_norm"], origins=self.origins, seed=seed)

    def against(self, one: str, other: str, seed: int) -> dict[str, Difference]:
        """ρ(score, one) − |ρ(score, other)| by score."""
        found = advantages(
            {one: self.others[one]},
            {other: self.others[other]},
            follows={name: self.scores[name] for name in FOLLOWED},
            detects={},
            origins=self.origins,
            seed=seed,
        )
        return {score: difference for (_, _, score), difference in found.items()}


def summary(result: AnglesResult) -> dict[str, Any]:
    """What stands in ``prelim_angles_summary.json``, apart from the origin."""
    return {
        "metrics": {
            f"angle{angle}": {f"{a} ~ {b}": r.as_dict() for (a, b), r in table.items()}
            for angle, table in result.metrics.items()
        },
        "trace_pre_above_other_metrics": {
            f"angle{angle}": {name: d.as_dict() for name, d in table.items()}
            for angle, table in result.strongest.items()
        },
        "trace_pre": {
            f"angle{angle}": {name: e.as_dict() for name, e in table.items()}
            for angle, table in result.ambiguity.items()
        },
        "correlates": {f"{a} ~ {b}": r.as_dict() for (a, b), r in result.correlates.items()},
        "centroid_distance_above_entropy": {name: d.as_dict() for name, d in result.outlier.items()},
        "entropy_above_centroid_distance": {name: d.as_dict() for name, d in result.ambiguity_first.items()},
        "mean_by_correctness": result.means,
        "images": {f"angle{angle}": n for angle, (n, _) in result.sizes.items()},
        "originals": {f"angle{angle}": n for angle, (_, n) in result.sizes.items()},
        "intervals": "bootstrap over originals; n of an interval counts originals",
        "correction": "Holm over all relations of one angle, partial ones included",
    }


def write(
    config: AnglesConfig, run: MonteCarloRun, logits: Array, result: AnglesResult, reports: Path, session: str
) -> Path:
    """Per model ``prelim_angles_summary.json``, ``prelim_angles.npz`` and the figure; ``prelim_investigation.json``."""
    folder = reports / FOLDER / file_name(run.encoder)
    targets = ambiguity_targets(logits)
    write_npz(
        folder / "prelim_angles.npz",
        paths=np.array(run.ids),
        entropy=targets.entropy,
        neg_margin=targets.neg_margin,
        max_logit=logits[0].max(axis=1),
        centroid_distance=centroid_distance(run.features),
        **_scores(config, run),
    )
    found = {"model": run.encoder, **summary(result), **origin(config, run)}
    write_json(folder / "prelim_angles_summary.json", found)
    save_figure(figure(config, run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "prelim_investigation.json"
    add_to_json(overall, session, "results", run.encoder, found)
    return overall


def figure(config: AnglesConfig, model: str, result: AnglesResult) -> Figure:
    """ρ(entropy) of the metrics at both sizes, plain and given the norm, and what the score follows."""
    drawn = Figure(figsize=(16, 5.5), layout="constrained")
    left, right = drawn.subplots(1, 2)
    drawn.suptitle(f"{model}: what does the score follow? (T={config.passes}, p={config.dropout.p:g})")
    names = (*METRICS, *CONTROLS)
    series: dict[str, dict[str, Estimate]] = {}
    for angle, table in result.metrics.items():
        n = result.sizes[angle][0]
        series[f"angle {angle}, N={n}"] = {name: table[name, "entropy"].rho for name in names}
        series[f"angle {angle}, given the norm"] = {name: table[name, "entropy"].given for name in names}
    interval_panel(left, series, 0.0, "ρ with entropy [95 %]")
    left.set_title("angles 1 and 2: metrics")
    held = {name for _, name in result.correlates}
    interval_panel(
        right,
        {
            score: {name: result.correlates[score, name].rho for name in CORRELATES if name in held}
            for score in FOLLOWED
        },
        0.0,
        "ρ with the score [95 %]",
    )
    right.set_title(f"angle 3: correlates, N={result.sizes[3][0]}")
    return drawn
