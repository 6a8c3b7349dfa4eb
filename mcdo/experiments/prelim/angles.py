"""Preliminary investigation, angles 1 to 3: which metric, at which sample size, and what else does the score follow?

Angle 1 sets six metrics of the same passes beside entropy and −margin; angle 2 repeats it with more images; angle 3
asks what the score follows instead: distance from the centroid, feature norm, largest logit, entropy, −margin,
correctness. All three are seen in one run: the images of a smaller angle are among those of a larger one, so angle 2 is
a narrower interval for angle 1 and no independent repetition of it. trace_post and mean_cosine_dev are one quantity up
to a monotone map and stand for one metric. Every relation stands beside itself given the feature norm, which trace_pre
grows with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders import find_spec
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.prelim.angle_view import (
    CONTROLS,
    CORRELATES,
    FOLLOWED,
    METRICS,
    NORM,
    AngleView,
    centroid_distance,
)
from mcdo.harness import ALPHA, Claim, Experiment, Files, Images, Inputs, Logits, Outcome, Passes, Request, View
from mcdo.images import ImageSet
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import Difference, Estimate, Relation, ambiguity_targets

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTLIERS, AMBIGUITY = "outlier_detector", "ambiguity_detector"
DETECTS = {"clip": AMBIGUITY, "siglip": OUTLIERS}
"""What S1 says a score detects, by the family of its encoder."""


@dataclass(frozen=True)
class AnglesResult:
    """What the score follows.

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
        family: of the encoder.

    """

    metrics: Mapping[int, Mapping[tuple[str, str], Relation]]
    strongest: Mapping[int, Mapping[str, Difference]]
    ambiguity: Mapping[int, Mapping[str, Estimate]]
    correlates: Mapping[tuple[str, str], Relation]
    outlier: Mapping[str, Difference]
    ambiguity_first: Mapping[str, Difference]
    means: Mapping[str, Mapping[str, float | None]]
    sizes: Mapping[int, tuple[int, int]]
    family: str


@dataclass(frozen=True)
class Angles(Experiment[AnglesResult]):
    """N images of each angle, one trial at one T, all in one run."""

    key = "prelim_angles"
    name = "prelim_angles"
    phase = "prelim"
    files = Files(
        summary="{}/prelim_angles_summary.json",
        overall="prelim_investigation.json",
        figure="{}/prelim_angles.png",
    )
    quick = {"angle1": 150, "angle2": 500, "angle3": 300, "passes": 32}
    sized = {"angle1": "images_at_most", "angle2": "num_images", "angle3": "images_at_most", "passes": "passes"}

    angle1: int = 500
    angle2: int = 2000
    angle3: int = 1000
    passes: int = 64
    trials: int = 1

    @property
    def angles(self) -> dict[int, Images]:
        return {1: Images(self.angle1), 2: Images(self.angle2), 3: Images(self.angle3)}

    @property
    def shown(self) -> Images:
        return Images(max(self.angle1, self.angle2, self.angle3))

    def run(self, model: str) -> Passes:
        t = (self.passes,)
        return Passes(model, self.shown, MonteCarloConfig(self.dropout, t, self.trials, self.seed, geometry=t))

    def logits(self, model: str) -> Logits:
        return Logits(model, self.shown)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return self.run(about.model), self.logits(about.model)

    def scores(self, inputs: Inputs) -> dict[str, NDArray[np.float64]]:
        """Metrics and controls of all images, each [N]."""
        run = inputs[self.run(inputs.model)]
        return {name: run.scores(name)[0] for name in (*METRICS, "trace_pre_relative")} | {NORM: run.feature_norm}

    def compute(self, inputs: Inputs) -> AnglesResult:
        images, scores = inputs.images(self.shown), self.scores(inputs)
        logits, features = inputs[self.logits(inputs.model)]["logits"], inputs[self.run(inputs.model)].features
        places = {angle: members(images, inputs.images(chosen)) for angle, chosen in self.angles.items()}
        views = {
            angle: AngleView(
                {name: values[at] for name, values in scores.items()},
                logits[:, at],
                None if images.labels is None else images.labels[at],
                centroid_distance(features[at]),
                [images.origins[int(i)] for i in at],
                self.seed,
            )
            for angle, at in places.items()
        }
        third = views[3]
        return AnglesResult(
            metrics={angle: views[angle].metrics() for angle in (1, 2)},
            strongest={angle: views[angle].strongest() for angle in (1, 2)},
            ambiguity={angle: view.ambiguity() for angle, view in views.items()},
            correlates=third.correlates(),
            outlier=third.against("centroid_distance", "entropy"),
            ambiguity_first=third.against("entropy", "centroid_distance"),
            means=third.means(),
            sizes={angle: (len(at), len(set(views[angle].origins))) for angle, at in places.items()},
            family=find_spec(inputs.model).family,
        )

    def claims(self) -> Sequence[Claim[AnglesResult]]:
        return [
            *(_follows_entropy(angle) for angle in (1, 2)),
            *(_follows_entropy_given_norm(angle) for angle in (1, 2)),
            _strongest(),
            *(_detects(claim) for claim in (OUTLIERS, AMBIGUITY)),
        ]

    def summary(self, result: AnglesResult) -> Mapping[str, Any]:
        return {
            "metrics": {
                f"angle{angle}": {f"{a} ~ {b}": r for (a, b), r in table.items()}
                for angle, table in result.metrics.items()
            },
            "trace_pre_above_other_metrics": {f"angle{angle}": table for angle, table in result.strongest.items()},
            "trace_pre": {f"angle{angle}": table for angle, table in result.ambiguity.items()},
            "correlates": {f"{a} ~ {b}": r for (a, b), r in result.correlates.items()},
            "centroid_distance_above_entropy": result.outlier,
            "entropy_above_centroid_distance": result.ambiguity_first,
            "mean_by_correctness": result.means,
            "images": {f"angle{angle}": n for angle, (n, _) in result.sizes.items()},
            "originals": {f"angle{angle}": n for angle, (_, n) in result.sizes.items()},
            "intervals": "bootstrap over originals; n of an interval counts originals",
            "correction": "Holm over all relations of one angle, partial ones included",
        }

    def arrays(self, inputs: Inputs, result: AnglesResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        logits = inputs[self.logits(inputs.model)]["logits"]
        targets = ambiguity_targets(logits)
        return {
            "{}/prelim_angles.npz": {
                "paths": np.array(inputs.images(self.shown).ids),
                "entropy": targets.entropy,
                "neg_margin": targets.neg_margin,
                "max_logit": logits[0].max(axis=1),
                "centroid_distance": centroid_distance(inputs[self.run(inputs.model)].features),
                **self.scores(inputs),
            }
        }

    def title(self) -> str:
        return f"what does the score follow? (T={self.passes}, p={self.dropout.p:g})"

    def panels(self, inputs: Inputs, result: AnglesResult) -> Sequence[Panel]:
        """ρ(entropy) of the metrics at both sizes, plain and given the norm, and what the score follows."""
        known = {name for _, name in result.correlates}
        metrics: dict[str, dict[str, Estimate]] = {}
        for angle, table in result.metrics.items():
            named = {name: table[name, "entropy"] for name in (*METRICS, *CONTROLS)}
            metrics[f"angle {angle}, N={result.sizes[angle][0]}"] = {name: of.rho for name, of in named.items()}
            metrics[f"angle {angle}, given the norm"] = {name: of.given for name, of in named.items()}
        followed = {
            score: {name: result.correlates[score, name].rho for name in CORRELATES if name in known}
            for score in FOLLOWED
        }

        def first_two(axes: Axes) -> None:
            interval_panel(axes, metrics, 0.0, "ρ with entropy [95 %]")
            axes.set_title("angles 1 and 2: metrics")

        def third(axes: Axes) -> None:
            interval_panel(axes, followed, 0.0, "ρ with the score [95 %]", "property of the image")
            axes.set_title(f"angle 3: correlates, N={result.sizes[3][0]}")

        return first_two, third


def members(images: ImageSet, chosen: ImageSet) -> NDArray[np.intp]:
    """Where the images ``chosen`` stand among ``images``; those that are not there are left out."""
    place = {image_id: i for i, image_id in enumerate(images.ids)}
    return np.array([place[image_id] for image_id in chosen.ids if image_id in place], dtype=np.intp)


def _at_entropy(result: AnglesResult, angle: int) -> Relation:
    return result.metrics[angle]["trace_pre", "entropy"]


def _follows_entropy(angle: int) -> Claim[AnglesResult]:
    def beside(result: AnglesResult) -> str:
        relation = _at_entropy(result, angle)
        return f"given the norm {relation.given}; Holm p {relation.p_holm:.2g}"

    return Claim(f"follows_entropy/angle{angle}", lambda r: _at_entropy(r, angle).rho, above=0.0, beside=beside)


def _follows_entropy_given_norm(angle: int) -> Claim[AnglesResult]:
    return Claim(
        f"follows_entropy_given_norm/angle{angle}",
        lambda r: _at_entropy(r, angle).given,
        above=0.0,
        beside=lambda r: f"not held fixed {_at_entropy(r, angle).rho}",
    )


def _strongest() -> Claim[AnglesResult]:
    """S1 on CLIP. Not met where any other metric follows entropy reliably more closely (Holm over the five)."""

    def rule(result: AnglesResult) -> Outcome:
        ahead = result.strongest[2].values()
        if any(d.estimate.value < 0 and d.p_holm < ALPHA for d in ahead):
            return "not met"
        return "met" if all(d.estimate.value > 0 and d.p_holm < ALPHA for d in ahead) else "undecided"

    return Claim(
        "trace_pre_strongest",
        lambda r: min((d.estimate for d in r.strongest[2].values()), key=lambda e: e.value),
        rule=("> 0 against every other metric, after Holm", rule),
        beside=lambda r: "rho of trace_pre less |rho| of " + ", ".join(f"{n} {d}" for n, d in r.strongest[2].items()),
    )


def _detects(claim: str) -> Claim[AnglesResult]:
    """S1: a CLIP's score follows ambiguity, a SigLIP's the distance from the centroid."""

    def beside(result: AnglesResult) -> str:
        if DETECTS[result.family] != claim:
            return f"not what S1 says of an encoder of the family {result.family}"
        rho = {name: result.correlates["trace_pre", name].rho for name in ("entropy", "centroid_distance")}
        return f"entropy {rho['entropy']}, centroid {rho['centroid_distance']}"

    def estimate(result: AnglesResult) -> Estimate | None:
        if DETECTS[result.family] != claim:
            return None
        return (result.outlier if claim == OUTLIERS else result.ambiguity_first)["trace_pre"].estimate

    return Claim(claim, estimate, above=0.0, beside=beside)
