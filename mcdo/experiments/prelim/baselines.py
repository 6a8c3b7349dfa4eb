"""Preliminary investigation: does the score beat what costs nothing?

A score of many passes matters only where it tells more than the norm of one feature, the sharpness of the pixels
(variance of their Laplacian), the entropy of their grey values, or the entropy of the zero-shot head itself. Each score
is compared with each baseline on the same resamples of the images. A score points one way, larger being more uncertain;
a baseline may be read either way, since a few labelled images would tell which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.estimators import TRACES
from mcdo.experiments.prelim.pixel_baselines import PIXELS, PixelBaselines
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Logits, Passes, Request, View
from mcdo.report.figures import Panel
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JUDGED = "trace_pre"
NORM = "feature_norm"
CHEAP = (NORM, *PIXELS)
"""Baselines that know nothing of the head."""
ZERO_SHOT = "zero_shot_entropy"
"""The head's own entropy: a baseline for errors only, since the other targets are read from the same logits."""
PAIRS = (*((baseline, target) for baseline in CHEAP for target in ("entropy", "error")), (ZERO_SHOT, "error"))
"""What the score is claimed to beat, and at what."""
Array = NDArray[np.float64]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class BaselinesResult:
    """What beats what.

    Attributes:
        relations: by (score or baseline, target).
        error: by score or baseline, AUROC of error.
        advantages: by (score, baseline, target).
        errors: images classified wrongly; 0 without labels.
        originals: behind the images.

    """

    relations: Mapping[tuple[str, str], Relation]
    error: Mapping[str, Estimate]
    advantages: Mapping[Key, Difference]
    errors: int
    originals: int


@dataclass(frozen=True)
class Baselines(Experiment[BaselinesResult]):
    """N images, one trial at one T."""

    key = "prelim_baselines"
    name = "prelim_baselines"
    phase = "prelim"
    files = Files.of_each("prelim_baselines", "prelim_baselines")
    quick = {"n": 500, "passes": 32}
    published = TRACES

    n: int = 2000
    passes: int = 64
    trials: int = 1

    def run(self, model: str) -> Passes:
        return Passes(model, Images(self.n), self.protocol((self.passes,), self.trials))

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def pixels(self, model: str) -> PixelBaselines:
        return PixelBaselines(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return [of(about.model) for of in (self.run, self.logits, self.pixels)]

    def quantities(self, inputs: Inputs) -> tuple[dict[str, Array], dict[str, Array]]:
        """Scores, and the baselines that know nothing of the head, each [N]."""
        run, pixels = inputs[self.run(inputs.model)], inputs[self.pixels(inputs.model)]
        scores = {name: run.scores(name)[0] for name in self.reported}
        return scores, {NORM: run.feature_norm, **{name: pixels[name] for name in PIXELS}}

    def compute(self, inputs: Inputs) -> BaselinesResult:
        images, (scores, cheap) = inputs.images(Images(self.n)), self.quantities(inputs)
        targets = ambiguity_targets(inputs[self.logits(inputs.model)]["logits"], images.labels)
        sampling: dict[str, Any] = {"origins": images.origins, "seed": self.seed}
        follows = {"entropy": targets.entropy, "negative_margin": targets.neg_margin}
        detects = {} if targets.correct is None else {"error": ~targets.correct}
        head = {ZERO_SHOT: targets.entropy}
        ahead = advantages(scores, cheap, follows=follows, detects=detects, **sampling)
        if detects:
            ahead |= advantages(scores, head, follows={}, detects=detects, **sampling)
        return BaselinesResult(
            relations=rank_relations({**scores, **cheap}, follows, given=cheap[NORM], **sampling),
            error={
                name: ambiguity_estimates(values, targets, **sampling)["auroc_error"]
                for name, values in {**scores, **cheap, **head}.items()
            },
            advantages=corrected(ahead),
            errors=0 if targets.correct is None else int((~targets.correct).sum()),
            originals=len(set(images.origins)),
        )

    def claims(self) -> Sequence[Claim[BaselinesResult]]:
        return [_beats(baseline, target) for baseline, target in PAIRS]

    def summary(self, result: BaselinesResult) -> Mapping[str, Any]:
        return {
            "relations": {f"{a} ~ {b}": r for (a, b), r in result.relations.items()},
            "auroc_error": result.error,
            "advantages": {f"{s} over {b} at {t}": d for (s, b, t), d in result.advantages.items()},
            "advantage": "rho(score) - |rho(baseline)|; AUROC(score) - max(AUROC, 1 - AUROC)(baseline)",
            "correction": "Holm over all advantages of a model",
            "errors": result.errors,
            "originals": result.originals,
            "intervals": "over originals; n of an interval counts originals",
        }

    def arrays(self, inputs: Inputs, result: BaselinesResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        targets = ambiguity_targets(inputs[self.logits(inputs.model)]["logits"])
        scores, cheap = self.quantities(inputs)
        return {
            "{}/prelim_baselines.npz": {
                "paths": np.array(inputs.images(Images(self.n)).ids),
                "entropy": targets.entropy,
                "neg_margin": targets.neg_margin,
                **scores,
                **cheap,
            }
        }

    def title(self) -> str:
        return f"does the score beat what costs nothing? (N={self.n}, T={self.passes})"

    def panels(self, inputs: Inputs, result: BaselinesResult) -> Sequence[Panel]:
        """Advantage of each score over each baseline, one panel a target; what lies above 0 beats the baseline."""

        def draw(axes: Axes, target: str) -> None:
            series = {
                score: {b: d.estimate for (s, b, t), d in result.advantages.items() if (s, t) == (score, target)}
                for score in self.reported
            }
            unit = "AUROC − AUROC of baseline" if target == "error" else "ρ − |ρ of baseline|"
            interval_panel(axes, series, 0.0, f"{unit} [95 %]", "baseline")
            axes.set_title(f"target: {target.replace('_', ' ')}")

        targets = dict.fromkeys(target for _, _, target in result.advantages)
        return [lambda axes, target=target: draw(axes, target) for target in targets]  # type: ignore[misc]


def _beats(baseline: str, target: str) -> Claim[BaselinesResult]:
    def beside(result: BaselinesResult) -> str:
        if (JUDGED, baseline, target) not in result.advantages:
            return "the images have no labels"
        return f"trace_post {result.advantages['trace_post', baseline, target].estimate}"

    def estimate(result: BaselinesResult) -> Estimate | None:
        key = (JUDGED, baseline, target)
        return result.advantages[key].estimate if key in result.advantages else None

    return Claim(
        f"beats/{baseline}/{target}",
        estimate,
        above=0.0,
        p_holm=lambda r: r.advantages[JUDGED, baseline, target].p_holm,
        beside=beside,
    )
