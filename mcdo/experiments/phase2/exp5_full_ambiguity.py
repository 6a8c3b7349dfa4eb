"""Exp5 (full): does the score follow ambiguity on 10 000 images, and does it beat the feature norm at that?

As the subset of Phase 1 on more images, and the score is compared, in pairs, with the negative feature norm, which
costs nothing. Images are measured in blocks, so that memory holds pixels and scores, never features over passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.estimators import TRACES
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS, follows
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Logits, Passes, Request, View
from mcdo.harness.heads import ReadHead, read_head, target_arrays
from mcdo.images import Skipped
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    Difference,
    Estimate,
    ambiguity_table,
    mean,
    report_of,
    spearman_differences,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JUDGED = ("trace_pre", "trace_post")
BASELINE = "negative_norm"
"""Minus the norm of the deterministic feature: a score that needs no passes."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FullAmbiguityResult(ReadHead):
    """What the scores follow, and what the head says.

    Attributes:
        figures: by ``score/head``.
        gain: by score, its ρ with the softmax entropy less that of the baseline.
        entropy: mean zero-shot entropy in nats: how ambiguous the images are to this encoder at all.
        originals: behind the images.
        skipped: images that were left out, and why.

    """

    figures: Mapping[str, Mapping[str, Estimate]]
    gain: Mapping[str, Difference]
    entropy: Estimate
    originals: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class FullAmbiguity(Experiment[FullAmbiguityResult]):
    """N images, one trial at one T."""

    key = "exp5_full"
    name = "exp5_full_ambiguity"
    phase = "phase2"
    files = Files.of_each("exp5_full", "exp5_full_ambiguity")
    quick = {"n": 640, "passes": 32}
    published = TRACES
    judges_heads = True
    knows_shared_noise = True

    n: int = 10_000
    passes: int = 64
    trials: int = 1

    def run(self, model: str) -> Passes:
        return Passes(model, Images(self.n), self.protocol((self.passes,), self.trials))

    @property
    def judged(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*JUDGED, *self.further)))

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (self.run(about.model), self.logits(about.model))

    def scores(self, inputs: Inputs) -> dict[str, Array]:
        """[K, N] by name; the baseline [N]."""
        run = inputs[self.run(inputs.model)]
        return {**{name: run.scores(name) for name in self.reported}, BASELINE: -run.feature_norm}

    def compute(self, inputs: Inputs) -> FullAmbiguityResult:
        images, scores = inputs.images(Images(self.n)), self.scores(inputs)
        head = read_head(inputs[self.logits(inputs.model)], images, self.seed)
        sampling: dict[str, Any] = {"origins": images.origins, "seed": self.seed}
        shared = self.dropout.shared_by_images
        norm = -scores[BASELINE]
        tables = {
            kind: ambiguity_table(scores, target, norm, norms={BASELINE}, shared_noise=shared, **sampling)
            for kind, target in head.targets.items()
        }
        entropy = head.targets["softmax"].entropy
        return FullAmbiguityResult(
            **vars(head),
            figures={f"{name}/{kind}": table[name] for name in scores for kind, table in tables.items()},
            gain=spearman_differences(scores, BASELINE, entropy, shared_noise=shared, **sampling),
            entropy=mean(entropy, **sampling),
            originals=len(set(images.origins)),
            skipped=images.skipped,
        )

    def claims(self) -> Sequence[Claim[FullAmbiguityResult]]:
        return [
            *(_follows(bar, score) for bar in BARS for score in self.judged),
            *(_beats_the_norm(score) for score in self.judged),
        ]

    def summary(self, result: FullAmbiguityResult) -> Mapping[str, Any]:
        reports = {name: report_of(figures, result.targets["softmax"]) for name, figures in result.figures.items()}
        return {
            **reports["trace_pre/softmax"],
            "accuracy": result.accuracy,
            "zero_shot_head_unusable": result.head_reason,
            "mean_entropy": result.entropy,
            "scores": reports,
            "rho_entropy_above_negative_norm": result.gain,
            "correction": "Holm over the scores compared with the negative feature norm",
            "originals": result.originals,
            "intervals": "over originals; n of an interval counts originals",
            "templates": TEMPLATES,
        }

    def overall(self, result: FullAmbiguityResult, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"results": summary, "skipped": [asdict(image) for image in result.skipped]}

    def arrays(self, inputs: Inputs, result: FullAmbiguityResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        images, targets, scores = inputs.images(Images(self.n)), result.targets["softmax"], self.scores(inputs)
        return {
            "{}/exp5_full_outputs.npz": {
                "paths": np.array(images.ids),
                "origins": np.array(images.origins),
                "uncertainty": scores["trace_pre"].mean(axis=0),
                "trace_post": scores["trace_post"].mean(axis=0),
                "feature_norm": -scores[BASELINE],
                **target_arrays(targets),
                "gt_labels": np.full(len(images), -1) if images.labels is None else images.labels,
                "pred_labels": targets.predicted,
            }
        }

    def title(self) -> str:
        return f"does the score follow ambiguity? (N={self.n}, T={self.passes})"

    def panels(self, inputs: Inputs, result: FullAmbiguityResult) -> Sequence[Panel]:
        """The bars of validity, plain and given the norm; and ambiguity by tenths of each score."""

        def figures(axes: Axes, bar: str, label: str) -> None:
            key, threshold = BARS[bar]
            softmax = {name: result.figures[f"{name}/softmax"] for name in (*self.reported, BASELINE)}
            series = {
                "score": {name: of[key] for name, of in softmax.items()},
                "given the feature norm": {name: softmax[name][f"{key}_given_norm"] for name in self.reported},
            }
            interval_panel(axes, series, threshold, f"{label} [95 %]")

        def tenths(axes: Axes) -> None:
            for name, score in self.scores(inputs).items():
                means = _by_tenths(np.atleast_2d(score).mean(axis=0), result.targets["softmax"].entropy)
                axes.plot(range(1, len(means) + 1), means, "o-", label=name)
            axes.set_xlabel("tenth of the score, lowest first")
            axes.set_ylabel("mean zero-shot entropy (nats)")
            axes.legend()

        return (
            lambda axes: figures(axes, "rho_entropy", "ρ with the zero-shot entropy"),
            lambda axes: figures(axes, "auroc_high_entropy", "AUROC for the highest tenth of entropy"),
            tenths,
        )


def _by_tenths(score: Array, target: Array) -> list[float]:
    order = np.argsort(score, kind="stable")
    return [float(target[part].mean()) for part in np.array_split(order, min(10, len(order)))]


def _follows(bar: str, score: str) -> Claim[FullAmbiguityResult]:
    return follows(bar, score, lambda r: r.figures[f"{score}/softmax"], lambda r: r.head_reason)


def _beats_the_norm(score: str) -> Claim[FullAmbiguityResult]:
    """T passes must buy something that one deterministic pass does not have."""
    return Claim(
        f"beats_norm/{score}",
        lambda r: None if r.head_reason else r.gain[score].estimate,
        above=0.0,
        beside=lambda r: (
            r.head_reason or f"minus the norm alone {r.figures[f'{BASELINE}/softmax']['rho_uncertainty_vs_entropy']}"
        ),
        p_holm=lambda r: r.gain[score].p_holm,
    )
