"""Exp6: is MC dropout worth its T passes beside a Laplace posterior, which takes one?

Same images, same targets. Laplace is fitted on calibration images, none of which shares an origin with one that is
scored: a last-layer posterior on the zero-shot head, and a Kronecker-factored one on the image projection. Beside them
stand first-order dropout, the published leverage in its full form, and what costs nothing: the inverse feature norm and
the zero-shot prediction itself. Differences to MC dropout are paired over originals; Holm runs over all of a model's
comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.estimators import FirstOrderRun, MonteCarloConfig, MonteCarloRun
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS, follows
from mcdo.experiments.phase3.exp6_laplace.runtimes import Runtimes, in_plain_passes
from mcdo.harness import Claim, Experiment, Files, FirstOrder, Images, Inputs, Logits, Passes, Request, View
from mcdo.harness.heads import target_arrays
from mcdo.harness.laplace_requests import LaplaceScores
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    Origins,
    ambiguity_table,
    ambiguity_targets,
    auroc_differences,
    corrected_families,
    report_of,
    share,
    spearman,
    spearman_differences,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
REFERENCE = "mc_dropout"
LAPLACE = ("laplace_head", "laplace_projection")
NORM = "inverse_norm"
CIRCULAR = {"entropy": ("zero_shot_entropy",), "neg_margin": ("zero_shot_margin",)}
"""Scores that *are* a target, and so are not compared on it."""
FIGURES = {
    "rho_uncertainty_vs_entropy": ("ρ with zero-shot entropy", 0.0),
    "rho_uncertainty_vs_negative_margin": ("ρ with negative margin", 0.0),
    "auroc_error": ("AUROC of errors", 0.5),
}
"""What is drawn, and its value at chance."""


@dataclass(frozen=True)
class LaplaceResult:
    """What each score is worth, and how far it is from MC dropout.

    Attributes:
        scores: [N] by name, larger meaning more uncertain; [K, N] where images share the noise of K trials.
        targets: by head.
        figures: by ``score/head``, with intervals over originals.
        differences: a score's figure less MC dropout's, by target and score.
        with_mc: rank correlation of each score with MC dropout.
        accuracy: of the zero-shot head, where labels are known.
        seconds: [4, repetitions], see :class:`~mcdo.experiments.phase3.exp6_laplace.runtimes.Runtimes`.
        prior_precision: of both posteriors, as the evidence chose it.
        products: vector-Jacobian products of first order for each image.

    """

    scores: Mapping[str, Array]
    targets: Mapping[str, AmbiguityTargets]
    figures: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Difference]]
    with_mc: Mapping[str, Estimate]
    accuracy: Estimate | None
    seconds: Array
    prior_precision: Mapping[str, float]
    products: int


@dataclass(frozen=True)
class LaplaceComparison(Experiment[LaplaceResult]):
    """N images, one trial at one T; ``fit`` calibration images, and ``timed`` images for what a score costs.

    First order takes all D + 1 probes where that is affordable, so that it has no noise of its own; else ``probes`` in
    each of ``probe_trials`` trials, whose spread is then part of every interval about it.
    """

    key = "exp6"
    name = "exp6_laplace_comparison"
    phase = "phase3"
    files = Files.of_each("exp6", "exp6_laplace_comparison")
    quick = {"n": 200, "fit": 399, "timed": 16, "resamples": 500}

    n: int = 10_000
    passes: int = 64
    trials: int = 1
    fit: int = 1197
    probes: int = 16
    probe_trials: int = 5
    resamples: int = 1000
    timed: int = 64

    def run(self, model: str) -> Passes:
        return Passes(model, Images(self.n), MonteCarloConfig(self.dropout, (self.passes,), self.trials, self.seed))

    def first_order(self, about: View) -> FirstOrder:
        """Without noise where all probes are affordable, else with trials enough to see it."""
        return FirstOrder.exact_or(self.probes, self.probe_trials, about, Images(self.n), self.dropout, self.seed)

    def laplace(self, model: str) -> LaplaceScores:
        return LaplaceScores(model, Images(self.n), self.fit)

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def runtimes(self, model: str) -> Runtimes:
        return Runtimes(model, Images(self.n), self.fit, self.dropout, self.passes, self.seed, self.timed)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        model = about.model
        return (
            self.run(model), self.first_order(about), self.laplace(model), self.logits(model), self.runtimes(model),
        )  # fmt: skip

    def compute(self, inputs: Inputs) -> LaplaceResult:
        model, images = inputs.model, inputs.images(Images(self.n))
        laplace = inputs[self.laplace(model)]  # before passes are spent: there may be no images to fit it on
        logits, run = inputs[self.logits(model)]["logits"], inputs[self.run(model)]
        targets = {
            "softmax": ambiguity_targets(logits, images.labels, head="softmax"),
            "sigmoid": ambiguity_targets(logits, images.labels, head="sigmoid"),
        }
        softmax, request = targets["softmax"], self.first_order(inputs)
        scores = self._scores(run, inputs[request], laplace, softmax)
        correct = softmax.correct
        how: dict[str, Any] = {"origins": run.origins, "seed": self.seed, "resamples": self.resamples}
        shared = any(score.ndim == 2 for score in scores.values())
        tables = {
            head: ambiguity_table(scores, target, run.feature_norm, norms={NORM}, shared_noise=shared, **how)
            for head, target in targets.items()
        }
        return LaplaceResult(
            scores=scores,
            targets=targets,
            figures={f"{name}/{head}": table[name] for name in scores for head, table in tables.items()},
            differences=_differences(scores, softmax, **how),
            with_mc={
                name: spearman(score, scores[REFERENCE], shared_noise=score.ndim == 2, **how)
                for name, score in scores.items()
                if name != REFERENCE
            },
            accuracy=None if correct is None else share(correct, origins=run.origins),
            seconds=inputs[self.runtimes(model)]["seconds"],
            prior_precision={key: float(laplace[f"prior_{key}"][0]) for key in ("head", "projection")},
            products=1 + request.trials * (request.probes - 1),
        )

    def _scores(
        self, run: MonteCarloRun, first: FirstOrderRun, laplace: Mapping[str, Array], targets: AmbiguityTargets
    ) -> dict[str, Array]:
        def linear(name: str) -> Array:
            trials = first.scores(name)
            return trials[0] if len(trials) == 1 else trials

        return {
            REFERENCE: run.scores("trace_pre").mean(axis=0),
            "mc_dropout_post": run.scores("trace_post").mean(axis=0),
            "mc_dropout_relative": run.scores("trace_pre_relative").mean(axis=0),
            "laplace_head": laplace["head_logit_variance"],
            "laplace_head_margin": laplace["head_margin_variance"],
            "laplace_projection": laplace["projection_logit_variance"],
            "laplace_projection_margin": laplace["projection_margin_variance"],
            "laplace_projection_feature": laplace["projection_feature_variance"],
            "leverage": laplace["leverage"],
            "first_order": linear("trace_pre"),
            "first_order_post": linear("trace_post"),
            NORM: 1 / run.feature_norm,
            "zero_shot_entropy": targets.entropy,
            "zero_shot_margin": targets.neg_margin,
        }

    def claims(self) -> Sequence[Claim[LaplaceResult]]:
        return [
            *(self._follows(bar, score) for bar in BARS for score in LAPLACE),
            *(self._better(other, target) for target in ("entropy", "error") for other in (*LAPLACE, NORM)),
        ]

    def _follows(self, bar: str, score: str) -> Claim[LaplaceResult]:
        return follows(bar, score, lambda r: r.figures[f"{score}/softmax"])

    def _better(self, other: str, target: str) -> Claim[LaplaceResult]:
        """Met where the other score's figure lies below MC dropout's, paired over originals."""
        return Claim(
            f"better_than_{other}/{target}",
            lambda r: r.differences[target][other].estimate if target in r.differences else None,
            below=0.0,
            beside=lambda r: f"{other} - {REFERENCE}" if target in r.differences else "errors are not known: no labels",
            p_holm=lambda r: r.differences[target][other].p_holm,
        )

    def summary(self, result: LaplaceResult) -> Mapping[str, Any]:
        return {
            "accuracy": result.accuracy,
            "scores": {
                name: report_of(figures, result.targets[name.rpartition("/")[2]])
                for name, figures in result.figures.items()
            },
            "difference_to_mc_dropout": result.differences,
            "correction": "Holm over all differences of the model",
            "cross_method": {f"rho_mcdo_vs_{name}": rho for name, rho in result.with_mc.items()},
            "time_in_plain_passes": in_plain_passes(result.seconds),
            "seconds": result.seconds.tolist(),
            "passes_per_image": {
                "mc_dropout": self.passes * self.trials,
                "laplace": 1,
                "first_order": f"1 with a graph, and {result.products} backward",
            },
            "prior_precision": dict(result.prior_precision),
        }

    def arrays(self, inputs: Inputs, result: LaplaceResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run, targets = inputs[self.run(inputs.model)], result.targets["softmax"]
        scores = {name: np.atleast_2d(score).mean(axis=0) for name, score in result.scores.items()}
        return {
            "{}/exp6_outputs.npz": {
                "paths": np.array(run.ids),
                "origins": np.array(run.origins),
                **target_arrays(targets),
                "pseudo_labels": targets.predicted,
                "feature_norm": run.feature_norm,
                "mcdo_uncertainty": scores[REFERENCE],
                "laplace_uncertainty": scores["laplace_head"],
                **{f"score_{name}": score for name, score in scores.items()},
            }
        }

    def title(self) -> str:
        return f"MC dropout beside Laplace (N={self.n}, T={self.passes})"

    def panels(self, inputs: Inputs, result: LaplaceResult) -> Sequence[Panel]:
        def panel(axes: Axes, key: str) -> None:
            label, chance = FIGURES[key]
            by_score = {name: result.figures[f"{name}/softmax"][key] for name in result.scores}
            interval_panel(axes, {"score, 95 % interval": by_score}, None, label)
            axes.axhline(by_score[REFERENCE].value, color="C1", linestyle="--", label="MC dropout")
            axes.axhline(chance, color="grey", linestyle=":", label="chance")
            axes.legend(fontsize=8)

        return [lambda axes, key=key: panel(axes, key) for key in FIGURES]  # type: ignore[misc]


def _differences(
    scores: Mapping[str, Array], targets: AmbiguityTargets, origins: Origins, seed: int, resamples: int
) -> dict[str, dict[str, Difference]]:
    """Every score's figure less MC dropout's, by target; Holm over all of them."""
    shared = any(score.ndim == 2 for score in scores.values())
    families = {
        target: spearman_differences(
            {name: score for name, score in scores.items() if name not in circular},
            REFERENCE,
            getattr(targets, target),
            origins=origins,
            shared_noise=shared,
            seed=seed,
            resamples=resamples,
        )
        for target, circular in CIRCULAR.items()
    }
    if targets.correct is not None:
        families["error"] = auroc_differences(scores, REFERENCE, ~targets.correct, origins=origins, shared_noise=shared)
    return corrected_families(families)
