"""Preliminary investigation, the validity test: is an image more uncertain once it has been damaged?

Each image is its own control. Clean and degraded versions are seen under the *same* masks (common random numbers),
which takes the noise of the masks out of the difference; the same comparison with independent masks stands beside it,
because the published headline moved by up to 17 points between the two. Families of damage come in graded severities,
stated in native pixels and at the model's input. From them follows a calibration curve, the score as a function of
known severity, and its inverse: "this image is as uncertain as a blur of r". The inverse is judged on originals that
the curve has not seen. None of this needs labels or a text tower; where something reads classes, entropy and accuracy
stand beside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.encoders.zero_shot import unit
from mcdo.estimators import TRACES
from mcdo.experiments.prelim.damage import (
    JUDGED,
    PASS_BAR,
    WEAK_BAR,
    Damage,
    DegradationResult,
    Sampling,
    Size,
    Version,
    accuracy,
    curves,
    damages,
    grade,
    turning,
)
from mcdo.experiments.prelim.degradation_figure import draw_curves, draw_shares
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Logits, Outcome, Passes, Request, View
from mcdo.harness.sheets import Sheet, Tile
from mcdo.images import ImageSet
from mcdo.images.degradations import COUNTERPARTS, FAMILIES, PUBLISHED, Degradation, graded, published
from mcdo.report.figures import Panel
from mcdo.rivals.logits import entropy
from mcdo.stats import ResponseCurve

RISES: Mapping[str, Outcome] = {"rising": "met", "not monotone": "not met", "flat": "undecided"}
"""How the claim that a score rises ends, by the shape of its response."""


@dataclass(frozen=True)
class DegradationTest(Experiment[DegradationResult]):
    """N images, one trial at one T for every degradation; one more of the clean images is the independent control."""

    key = "prelim_degradation"
    name = "prelim_degradation"
    phase = "prelim"
    files = Files(
        summary="{}/prelim_degradation_summary.json",
        overall="prelim_ablation.json",
        figure="{}/prelim_degradation.png",
    )
    quick = {"n": 80, "passes": 12, "resamples": 100}
    published = TRACES
    judges_heads = True

    n: int = 500
    passes: int = 64
    trials: int = 1
    families: tuple[str, ...] = ("blur", "down", "jpeg", "noise", "occlusion")
    resamples: int = 1000

    def degradations(self, size: Size) -> tuple[str, ...]:
        """The published four, then every level of every family; or the counterparts for small pictures."""
        side = min(size)
        every = [*published(side), *(spec for family in self.families for spec in graded(family, side))]
        return tuple(dict.fromkeys(every))

    def run(self, model: str, degradation: str | None = None) -> Passes:
        """The clean images, with one trial more than the degraded ones."""
        trials = self.trials + (degradation is None)
        protocol = self.protocol((self.passes,), trials)
        return Passes(model, Images(self.n, degradation=degradation), protocol)

    def logits(self, model: str, degradation: str | None = None) -> Logits:
        return Logits(model, Images(self.n, degradation=degradation))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        versions = (None, *self.degradations(native_size(about.images(Images(self.n)))))
        kinds = (self.run,) if about.why_no_head(Images(self.n)) else (self.run, self.logits)
        return [kind(about.model, version) for version in versions for kind in kinds]

    def compute(self, inputs: Inputs) -> DegradationResult:
        images, (clean, other_masks, damaged) = inputs.images(Images(self.n)), self._versions(inputs)
        size, sampling = native_size(images), Sampling(images.origins, self.seed, self.resamples)
        levels = {family: graded(family, min(size)) for family in self.families}
        return DegradationResult(
            damage=damages(clean, other_masks, damaged, size, inputs.encoder().resolution, sampling),
            turning={family: turning(clean, damaged, specs, sampling) for family, specs in levels.items()},
            curves=curves(clean, damaged, self.families, size, sampling),
            clean_accuracy=accuracy(clean, sampling),
            size=size,
            unread=inputs.why_unread(self.logits(inputs.model)),
        )

    def _versions(self, inputs: Inputs) -> tuple[Version, Version, dict[str, Version]]:
        """The clean images under the masks of the degraded ones and under others, and the degraded ones by name."""
        specs = self.degradations(native_size(inputs.images(Images(self.n))))
        clean, other_masks = self._version(inputs), self._version(inputs, trial=self.trials)
        return clean, other_masks, {spec: self._version(inputs, spec) for spec in specs}

    def _version(self, inputs: Inputs, degradation: str | None = None, trial: int = 0) -> Version:
        run, labels = inputs[self.run(inputs.model, degradation)], inputs.images(Images(self.n)).labels
        scores, correct = {name: run.scores(name)[trial] for name in self.reported}, None
        if not inputs.why_unread(self.logits(inputs.model)):
            logits = inputs[self.logits(inputs.model, degradation)]["logits"][0]
            scores["entropy"] = entropy(logits)
            correct = None if labels is None else logits.argmax(axis=1) == labels
        scores["feature_norm"] = run.feature_norm.astype(np.float64)
        return Version(scores, unit(run.features), correct)

    def claims(self) -> Sequence[Claim[DegradationResult]]:
        return [
            *(_increases(spec) for spec in (*PUBLISHED, *COUNTERPARTS)),
            *(of(family) for of in (_rises, _is_read, _turns_the_feature) for family in self.families),
        ]

    def summary(self, result: DegradationResult) -> Mapping[str, Any]:
        return {
            "comparisons": {spec: _entry(spec, damage) for spec, damage in result.damage.items()},
            "published_four": result.published,
            "clean_accuracy": result.clean_accuracy,
            "no_classes_read": result.unread,
            "native_size": list(result.size),
            "cosine_strongest_less_mildest": result.turning,
            "curves": {
                f"{family}/{name}": {
                    **curve.response.as_dict(),
                    "unit": FAMILIES[family].unit,
                    "held_out_error_below_constant": curve.reading,
                    "equivalents": _equivalents(curve.response),
                }
                for (family, name), curve in result.curves.items()
            },
            "bars": {"pass": PASS_BAR, "weak": WEAK_BAR},
            "correction": "Holm over all degradations and scores, common random numbers",
            "intervals": "over originals; n of an interval counts originals",
        }

    def arrays(self, inputs: Inputs, result: DegradationResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        clean, other_masks, damaged = self._versions(inputs)
        return {
            "{}/prelim_degradation.npz": {
                "paths": np.array(inputs.images(Images(self.n)).ids),
                "degradations": np.array(list(damaged)),
                **{f"clean_{name}": values for name, values in clean.scores.items()},
                **{f"clean_other_masks_{name}": other_masks.scores[name] for name in clean.names},
                **{name: np.stack([after.scores[name] for after in damaged.values()]) for name in clean.scores},
            }
        }

    def sheets(self, inputs: Inputs, result: DegradationResult) -> Sequence[Sheet]:
        """One image, of the median clean score, clean and after each degradation, with what became of its score."""
        clean, _, damaged = self._versions(inputs)
        judged = clean.scores[JUDGED]
        i = int(np.argsort(judged, kind="stable")[len(judged) // 2])
        before = judged[i]
        tiles = [
            Tile(Images(self.n, degradation=spec), i, f"{spec}: {after.scores[JUDGED][i] / before:.2f} x")
            for spec, after in damaged.items()
        ]
        whole = Tile(Images(self.n), i, f"clean: {JUDGED} {before:.3g}")
        return [Sheet(f"one image, degraded: its {JUDGED} over that of the clean one", (whole, *tiles))]

    def title(self) -> str:
        return f"degradation (N={self.n}, T={self.passes}, p={self.dropout.p:g})"

    def panels(self, inputs: Inputs, result: DegradationResult) -> Sequence[Panel]:
        """By family, the share of images whose score increased over severity; then the calibration curves."""
        return [
            lambda axes, family=family, draw=draw: draw(axes, result, family)  # type: ignore[misc]
            for draw in (draw_shares, draw_curves)
            for family in self.families
        ]


@lru_cache(maxsize=4)
def native_size(images: ImageSet) -> Size:
    """(width, height) of the picture with the median shorter side among the first hundred."""
    sizes = sorted((images.image(i).size for i in range(min(100, len(images)))), key=min)
    return sizes[len(sizes) // 2]


def _increases(spec: str) -> Claim[DegradationResult]:
    def beside(result: DegradationResult) -> str:
        if spec not in result.published:
            return f"pictures of {result.size[0]} x {result.size[1]} get {', '.join(result.published)} for it"
        damage = result.damage[spec]
        others = ", ".join(f"{name} {of.fraction}" for name, of in damage.increase.items() if name != JUDGED)
        judged = damage.increase[JUDGED]
        return (
            f"{grade(judged.fraction)}, Holm p {damage.p_holm[JUDGED]:.2g}, change {judged.relative_change}; "
            f"independent masks {damage.independent[JUDGED].fraction}; {others}; accuracy {damage.accuracy}"
        )

    return Claim(
        f"increases/{spec}/{JUDGED}",
        lambda r: r.damage[spec].increase[JUDGED].fraction if spec in r.published else None,
        at_least=PASS_BAR,
        beside=beside,
    )


def _rises(family: str) -> Claim[DegradationResult]:
    def beside(result: DegradationResult) -> str:
        shapes = {name: result.curves[family, name].response.shape for of, name in result.curves if of == family}
        reason = result.curves[family, JUDGED].response.reason
        return "; ".join([*([reason] if reason else []), *(f"{name} {shape}" for name, shape in shapes.items())])

    return Claim(
        f"rises/{family}/{JUDGED}",
        lambda r: list(r.levels(family).values())[-1].increase[JUDGED].relative_change,
        rule=("a rise to the strongest level, and no fall on the way", lambda r: RISES[_response(r, family).shape]),
        beside=beside,
    )


def _is_read(family: str) -> Claim[DegradationResult]:
    def beside(result: DegradationResult) -> str:
        response = _response(result, family)
        if response.shape == "rising":
            return f"error beyond that of always naming the median severity; {FAMILIES[family].unit}"
        return f"the response is {response.shape}: {response.reason}"

    return Claim(
        f"reads/{family}/{JUDGED}",
        lambda r: r.curves[family, JUDGED].reading if _response(r, family).shape == "rising" else None,
        below=0.0,
        beside=beside,
    )


def _turns_the_feature(family: str) -> Claim[DegradationResult]:
    return Claim(
        f"turns_the_feature/{family}",
        lambda r: r.turning[family],
        below=0.0,
        beside=lambda r: "cosine " + ", ".join(f"{spec} {d.cosine}" for spec, d in r.levels(family).items()),
    )


def _response(result: DegradationResult, family: str) -> ResponseCurve:
    return result.curves[family, JUDGED].response


def _entry(spec: str, damage: Damage) -> dict[str, Any]:
    return {
        "family": Degradation.parse(spec).family,
        "severity_native": damage.native,
        "severity_at_input": damage.at_input,
        "cosine_clean_degraded": damage.cosine,
        "accuracy": damage.accuracy,
        "common_random_numbers": {
            name: {
                **vars(of),
                **({"p_holm": damage.p_holm[name]} if name in damage.p_holm else {}),
                "grade": grade(of.fraction),
            }
            for name, of in damage.increase.items()
        },
        "independent_masks": {
            name: {**vars(of), "grade": grade(of.fraction)} for name, of in damage.independent.items()
        },
    }


def _equivalents(response: ResponseCurve) -> dict[str, Any]:
    """What scores a tenth, a quarter and a half above the clean mean amount to; maybe beyond all that was measured."""
    if response.shape != "rising":
        return {"refused": f"{response.shape}: {response.reason}"}
    clean, strongest = response.measured[0].value, response.severities[-1]
    read = {f"+{more:.0%}": response.equivalent((1 + more) * clean) for more in (0.1, 0.25, 0.5)}
    return {
        name: estimate.as_dict() if math.isfinite(estimate.value) else {"beyond": strongest}
        for name, estimate in read.items()
    }
