"""Exp5 (subset): does the score follow ambiguity, or only the norm of the feature?

The targets come from a deterministic pass and zero-shot prompts made of class *names*. Every score stands beside its
correlation given the feature norm, and beside the norm itself as a score that costs nothing. First order, where it is
asked for, is taken with all probes where that is affordable, so that it has no noise of its own; elsewhere it is the
mean over trials, and its interval holds the probes as well as the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.harness import (
    Claim,
    Experiment,
    Files,
    FirstOrder,
    Images,
    Inputs,
    Logits,
    Outcome,
    Passes,
    Request,
    Settings,
    View,
)
from mcdo.harness.heads import ReadHead, read_head, target_arrays
from mcdo.harness.sheets import Sheet, disagreement, extremes
from mcdo.images import Skipped
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import Estimate, ambiguity_table, report_of
from mcdo.stats.trials import LEAST_TRIALS

RHO_ENTROPY_BAR = 0.3
AUROC_ENTROPY_BAR = 0.6
"""Sanity bars of S0 §6."""
BEYOND_NORM_BAR = 0.1
"""Partial rank correlation that says more than the feature norm does: Cohen's small effect (1988).

Zero will not do as the bar: a noisy function of the norm keeps a partial rank correlation of a few hundredths, because
only the linear part of the norm's ranks is held fixed.
"""
BARS = {
    "rho_entropy": ("rho_uncertainty_vs_entropy", RHO_ENTROPY_BAR),
    "auroc_high_entropy": ("auroc_high_entropy", AUROC_ENTROPY_BAR),
}
"""By claim: the figure, and what it must lie above."""
BEYOND_NORM = "rho_uncertainty_vs_entropy_given_norm"
JUDGED = ("trace_pre", "trace_post")
NORM = "feature_norm"
SUFFIX = {"mc": "", "first_order": "/first_order"}
Figures = Mapping[str, Estimate]


Result = TypeVar("Result")


def follows(
    bar: str,
    name: str,
    figures: Callable[[Result], Figures | None],
    reason: Callable[[Result], str] = lambda result: "",
) -> Claim[Result]:
    """That a score follows ambiguity by the figure of ``bar``, one of :data:`BARS`.

    ``figures`` gives those of the score, None where there are none; where ``reason`` says why the head's targets mean
    nothing, nothing is claimed.
    """
    key, threshold = BARS[bar]

    def figure(result: Result, key: str) -> Estimate | None:
        found = figures(result)
        return None if found is None or reason(result) else found[key]

    return Claim(
        f"{bar}/{name}",
        lambda result: figure(result, key),
        above=threshold,
        beside=lambda result: reason(result) or f"given the feature norm {figure(result, f'{key}_given_norm')}",
    )


@dataclass(frozen=True)
class AmbiguityResult(ReadHead):
    """What the scores follow, and what the head says.

    Attributes:
        figures: by ``score/head``, those of first order by ``score/head/first_order``.
        largest_class: share of images of the most frequent class; 0 without labels.
        skipped: images that were left out, and why.

    """

    figures: Mapping[str, Figures]
    largest_class: float
    skipped: tuple[Skipped, ...]

    def of(self, score: str, estimator: str = "mc") -> Figures | None:
        """Figures of a score against the softmax targets; None where the estimator was not asked for."""
        return self.figures.get(f"{score}/softmax{SUFFIX[estimator]}")

    def follows(self, score: str, estimator: str = "mc") -> Outcome:
        """Whether a score follows ambiguity: its ρ(entropy) lies above the bar."""
        figures = self.of(score, estimator)
        if figures is None or self.head_reason:
            return "not applicable"
        return figures[BARS["rho_entropy"][0]].outcome(RHO_ENTROPY_BAR, ">")

    def beyond_norm(self, score: str, estimator: str = "mc") -> Outcome:
        """Whether a score follows ambiguity, and more than the feature norm does."""
        figures = self.of(score, estimator)
        if figures is None or self.head_reason:
            return "not applicable"
        ends = {self.follows(score, estimator), figures[BEYOND_NORM].outcome(BEYOND_NORM_BAR, ">")}
        return "not met" if "not met" in ends else "undecided" if "undecided" in ends else "met"


@dataclass(frozen=True)
class SubsetAmbiguity(Experiment[AmbiguityResult]):
    """N images; one trial of T passes, or first order with ``probes`` in each of ``probe_trials`` trials."""

    key = "exp5"
    name = "exp5_subset_ambiguity"
    phase = "phase1"
    is_gate = True
    judges_heads = True
    files = Files(
        summary="exp5_subset_{}_summary.json",
        overall="exp5_subset_overall_summary.json",
        figure="exp5_subset_{}.png",
    )
    quick = {"n": 500}
    knows_shared_noise = True

    n: int = 5000
    passes: int = 64
    trials: int = 1
    probes: int = 8
    probe_trials: int = 5
    estimator: str = "mc"

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        return {"estimator": settings.estimator}

    @property
    def estimators(self) -> tuple[str, ...]:
        return tuple(SUFFIX) if self.estimator == "both" else (self.estimator,)

    def run(self, model: str) -> Passes:
        """One trial, or as many as show what noise the images share."""
        trials = max(self.trials, LEAST_TRIALS if self.dropout.shared_by_images else 1)
        return Passes(model, Images(self.n), self.protocol((self.passes,), trials))

    def judged(self, estimator: str) -> tuple[str, ...]:
        """Scores about which there are claims; further ones are of passes alone."""
        return tuple(dict.fromkeys((*JUDGED, *(self.further if estimator == "mc" else ()))))

    def first_order(self, about: View) -> FirstOrder:
        """All probes in one trial where that is affordable, else enough trials for the spread between them."""
        return FirstOrder.exact_or(self.probes, self.probe_trials, about, Images(self.n), self.dropout, self.seed)

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        for name in self.estimators:
            yield self.run(about.model) if name == "mc" else self.first_order(about)
        yield self.logits(about.model)

    def compute(self, inputs: Inputs) -> AmbiguityResult:
        images = inputs.images(Images(self.n))
        head = read_head(inputs[self.logits(inputs.model)], images, self.seed)
        figures: dict[str, Figures] = {}
        for estimator in self.estimators:
            scores, norm = self._scores(inputs, estimator)
            how: dict[str, Any] = {
                "origins": images.origins,
                "shared_noise": max(map(len, scores.values())) > 1,
                "seed": self.seed,
            }
            tables = {
                kind: ambiguity_table({**scores, NORM: norm}, target, norm, norms={NORM}, **how)
                for kind, target in head.targets.items()
            }
            figures |= {
                f"{name}/{kind}{SUFFIX[estimator]}": table[name] for name in scores for kind, table in tables.items()
            }
        largest = 0.0 if images.labels is None else float(np.bincount(images.labels).max() / len(images))
        return AmbiguityResult(**vars(head), figures=figures, largest_class=largest, skipped=images.skipped)

    def _scores(self, inputs: Inputs, estimator: str) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
        """Scores [K, N] by name, and the feature norm [N]; K is 1 unless trials share their probes."""
        run = inputs[self.run(inputs.model)] if estimator == "mc" else inputs[self.first_order(inputs)]
        scores = {name: run.scores(name) for name in (*self.judged(estimator), "trace_pre_relative")}
        return {**scores, NORM: run.feature_norm[None]}, run.feature_norm

    def claims(self) -> Sequence[Claim[AmbiguityResult]]:
        judged = [(score, name) for name in self.estimators for score in self.judged(name)]
        return [
            *(self._follows(bar, score, name) for bar in BARS for score, name in judged),
            *(self._beyond_norm(score, name) for score, name in judged),
        ]

    def _follows(self, bar: str, score: str, estimator: str) -> Claim[AmbiguityResult]:
        return follows(bar, f"{score}{SUFFIX[estimator]}", lambda r: r.of(score, estimator), lambda r: r.head_reason)

    def _beyond_norm(self, score: str, estimator: str) -> Claim[AmbiguityResult]:
        return Claim(
            f"beyond_norm/{score}{SUFFIX[estimator]}",
            lambda r: _figure(r, score, estimator, BEYOND_NORM),
            above=BEYOND_NORM_BAR,
            beside=lambda r: r.head_reason or f"plain {_figure(r, score, estimator, BARS['rho_entropy'][0])}",
        )

    def summary(self, result: AmbiguityResult) -> Mapping[str, Any]:
        reports = {name: report_of(figures, result.targets["softmax"]) for name, figures in result.figures.items()}
        return {
            **next(iter(reports.values())),
            "accuracy": result.accuracy,
            "share_of_the_largest_class": result.largest_class,
            "above_the_largest_class": result.advantage,
            "head": "class prototypes of the other half" if result.by_prototypes else "zero-shot prompts",
            "zero_shot_head_unusable": result.head_reason,
            "scores": reports,
            "templates": TEMPLATES,
        }

    def overall(self, result: AmbiguityResult, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"results": summary, "skipped": [asdict(image) for image in result.skipped]}

    def arrays(self, inputs: Inputs, result: AmbiguityResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        images, targets = inputs.images(Images(self.n)), result.targets["softmax"]
        scores, norm = self._scores(inputs, self.estimators[0])
        return {
            "exp5_subset_{}.npz": {
                "paths": np.array(images.ids),
                "origins": np.array(images.origins),
                "uncertainty": scores["trace_pre"].mean(axis=0),
                **target_arrays(targets),
                "logits": inputs[self.logits(inputs.model)]["logits"][0].astype(np.float32),
                "gt_labels": np.full(len(images), -1) if images.labels is None else images.labels,
                "pred_labels": targets.predicted,
                "feature_norm": norm,
            }
        }

    def sheets(self, inputs: Inputs, result: AmbiguityResult) -> Sequence[Sheet]:
        """The ends of each judged score, and where it disagrees with another score and with what it should follow."""
        images, targets = inputs.images(Images(self.n)), result.targets["softmax"]
        scores = {name: score.mean(axis=0) for name, score in self._scores(inputs, self.estimators[0])[0].items()}
        said = [images.class_names[c] if c < len(images.class_names) else str(c) for c in targets.predicted]
        found = []
        for name in JUDGED:
            beneath = [
                f"{name} {value:.3g}, entropy {ambiguity:.2f}, said {word}"
                for value, ambiguity, word in zip(scores[name], targets.entropy, said, strict=True)
            ]
            found += extremes(Images(self.n), name, scores[name], beneath)
        first, second = JUDGED
        return [
            *found,
            disagreement(Images(self.n), (first, second), (scores[first], scores[second])),
            disagreement(Images(self.n), (second, "entropy"), (scores[second], targets.entropy)),
        ]

    def title(self) -> str:
        return f"does the score follow ambiguity? (N={self.n}, T={self.passes})"

    def panels(self, inputs: Inputs, result: AmbiguityResult) -> Sequence[Panel]:
        def series(key: str) -> dict[str, dict[str, Estimate]]:
            softmax = {n.replace("/softmax", ""): f for n, f in result.figures.items() if "/softmax" in n}
            plain = {name: figures[key] for name, figures in softmax.items()}
            given = {n: f[f"{key}_given_norm"] for n, f in softmax.items() if f"{key}_given_norm" in f}
            return {"plain": plain, "given the feature norm": given}

        return [
            lambda axes, key=key, bar=bar, label=label: interval_panel(axes, series(key), bar, f"{label} [95 %]")  # type: ignore[misc]
            for label, (key, bar) in zip(("ρ(score, entropy)", "AUROC(high entropy)"), BARS.values(), strict=True)
        ]


def _figure(result: AmbiguityResult, score: str, estimator: str, key: str) -> Estimate | None:
    figures = result.of(score, estimator)
    return None if figures is None or result.head_reason else figures[key]
