"""One row of the table: what a score is worth by every measure that its images allow, and over what costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.rivals.seen import Array
from mcdo.stats import (
    Difference,
    Estimate,
    advantages,
    auroc,
    auroc_differences,
    partial_spearman,
    reliability,
    share,
    spearman,
)
from mcdo.stats.comparison import corrected
from mcdo.stats.paired import rise
from mcdo.stats.selective import fpr95, risk_areas
from mcdo.stats.trials import LEAST_TRIALS

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Truth:
    """What the images that are scored are known to be; None for what is not known.

    Attributes:
        origins: [N], the units that were sampled.
        error: [N], whether the prediction is wrong.
        entropy: [N], of the prediction.
        norm: [N], of the feature: what a score must say more than.
        misplaced: [N], whether the nearest neighbour has another label.
        foreign_origins: [M], of images of another kind.

    """

    origins: NDArray[Any]
    error: Flags | None = None
    entropy: Array | None = None
    norm: Array | None = None
    misplaced: Flags | None = None
    foreign_origins: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """A score of all the images there are; larger means more uncertain.

    What is judged is one trial, which is what its cost buys; the noise of its images is part of what origins differ by.
    Where all images of a trial share their noise it is no part of that: then the mean over the trials is judged, with
    what they differ by in every interval.

    Attributes:
        values: [K, N], K trials.
        cost: forwards of the encoder for one image and trial; NaN where it is not known.
        foreign: of images of another kind, [M], or [K, M] where noise is shared; None where it was not taken.
        degraded: [N] of the same images, by degradation, under the noise of the first trial.
        shared_noise: all images of a trial share its noise, as they do probes of first order.

    """

    values: Array
    cost: float
    foreign: Array | None = None
    degraded: Mapping[str, Array] = field(default_factory=dict)
    shared_noise: bool = False

    @property
    def judged(self) -> Array:
        """[N] or [K, N]."""
        return self.values if self.shared_noise else self.values[0]

    @property
    def can_be_judged(self) -> bool:
        """Shared noise shows only in the differences between trials."""
        return not self.shared_noise or len(self.values) >= LEAST_TRIALS


MEASURES: Mapping[str, str] = {
    "reliability": "Spearman between two trials; a deterministic score has no noise to measure",
    "rho_entropy": "ρ with the entropy of the prediction (larger is better, chance 0)",
    "rho_entropy_given_norm": "the same given the feature norm (larger is better, chance 0)",
    "auroc_error": "AUROC for errors of the prediction (larger is better, chance 0.5)",
    "excess_aurc": "area under risk over coverage, less that of the oracle (smaller is better)",
    "augrc": "area under generalised risk over coverage (smaller is better)",
    "auroc_foreign": "AUROC for images of another kind (larger is better, chance 0.5)",
    "fpr95_foreign": "share of those let through where 95 % of the known are (smaller is better)",
    "auroc_misplaced": "AUROC for a nearest neighbour of another label, Recall@1 (larger is better, chance 0.5)",
}
"""Measures by name; one more for each degradation: the share of images whose score rises."""


def rated(scored: Scored, truth: Truth, seed: int = 0, resamples: int = 1000) -> dict[str, Estimate]:
    """What a score is worth, by measure; only the measures that are defined.

    Of shared noise there are five trials at least, or nothing but the reliability; and what no interval of ours holds
    it in, FPR95 and the shares that rise, is left out.
    """
    judged, origins, shared = scored.judged, truth.origins, scored.shared_noise
    noise: dict[str, Any] = {"origins": origins, "shared_noise": shared}
    how: dict[str, Any] = {**noise, "seed": seed, "resamples": resamples}
    found: dict[str, Estimate] = {}
    if len(scored.values) > 1:
        repeated = reliability(scored.values, origins=origins, shared_noise=shared or None, seed=seed)
        found["reliability"] = repeated.estimate("spearman")
    if not scored.can_be_judged:
        return found
    if truth.entropy is not None:
        found["rho_entropy"] = spearman(judged, truth.entropy, **how)
        if truth.norm is not None:
            found["rho_entropy_given_norm"] = partial_spearman(judged, truth.entropy, truth.norm, **how)
    if truth.error is not None:
        found["auroc_error"] = auroc(judged, truth.error, **noise)
        areas = risk_areas(judged, truth.error, **how)
        found |= {name: areas[name] for name in ("excess_aurc", "augrc")}
    if truth.misplaced is not None:
        found["auroc_misplaced"] = auroc(judged, truth.misplaced, **noise)
    if scored.foreign is not None and truth.foreign_origins is not None:
        kinds, units = _positive("foreign", truth)
        found["auroc_foreign"] = auroc(_of_task(scored, "foreign"), kinds, origins=units, shared_noise=shared)
        if not shared:
            found["fpr95_foreign"] = fpr95(
                judged, scored.foreign, known_origins=origins, foreign_origins=truth.foreign_origins, seed=seed,
                resamples=resamples,
            )  # fmt: skip
    for name, values in scored.degraded.items():
        if not shared:
            found[f"raised/{name}"] = share(rise(values, judged) > 0, origins=origins)
    return found


@dataclass(frozen=True)
class Advantage:
    """How far a score is ahead of the best of what costs nothing, at one task."""

    baseline: str
    difference: Difference


def ahead_of_trivial(
    scores: Mapping[str, Scored], trivial: Mapping[str, Scored], truth: Truth, seed: int = 0, resamples: int = 1000
) -> dict[tuple[str, str], Advantage]:
    """By score and task ("error", "foreign"): AUROC less that of the best trivial score, read whichever way is better.

    The best is chosen on the same images, which favours it: p of a score that is behind is that of the comparison times
    the number of trivial scores, that of one ahead the largest of them. Holm runs over the whole table.
    """
    how: dict[str, Any] = {"seed": seed, "resamples": resamples}
    families: dict[str, dict[tuple[str, str, str], Difference]] = {}
    for task in _tasks(truth):
        (judged, shared), (cheap, _) = (_judged(group, task) for group in (scores, trivial))
        if judged and cheap:
            positive, units = _positive(task, truth)
            families[task] = advantages(
                judged, cheap, follows={}, detects={task: positive}, origins=units, shared_noise=shared, **how
            )
    found: dict[tuple[str, str], Advantage] = {}
    for task, family in families.items():
        for score in dict.fromkeys(score for score, _, _ in family):
            against = {baseline: d for (name, baseline, _), d in family.items() if name == score}
            defined = {name: d for name, d in against.items() if np.isfinite(d.estimate.value)}
            if defined:
                best = min(defined, key=lambda name: defined[name].estimate.value)
                chosen, ps = defined[best], [d.p_value for d in defined.values()]
                p = np.max(ps) if chosen.estimate.value > 0 else np.minimum(1.0, len(ps) * chosen.p_value)
                found[score, task] = Advantage(best, replace(chosen, p_value=float(p)))
    joined = corrected({key: each.difference for key, each in found.items()})
    return {key: Advantage(each.baseline, joined[key]) for key, each in found.items()}


def beside(reference: str, scores: Mapping[str, Scored], truth: Truth) -> dict[tuple[str, str], Difference]:
    """By score and task, its AUROC less that of the score ``reference``, of the same images. Holm over the table."""
    differences: dict[tuple[str, str], Difference] = {}
    for task in _tasks(truth):
        judged, shared = _judged(scores, task)
        if reference in judged and len(judged) > 1:
            positive, units = _positive(task, truth)
            found = auroc_differences(judged, reference, positive, origins=units, shared_noise=shared)
            differences |= {(name, task): d for name, d in found.items() if np.isfinite(d.estimate.value)}
    return corrected(differences)


def _tasks(truth: Truth) -> list[str]:
    known = {"error": truth.error, "foreign": truth.foreign_origins}
    return [task for task, of in known.items() if of is not None]


def _judged(scores: Mapping[str, Scored], task: str) -> tuple[dict[str, Array], bool]:
    """What is judged of each score that was taken of a task's images, and whether the noise of one is shared."""
    there = {
        name: each
        for name, each in scores.items()
        if each.can_be_judged and (task != "foreign" or each.foreign is not None)
    }
    values = {name: _of_task(each, task) for name, each in there.items()}
    return values, any(each.shared_noise for each in there.values())


def _of_task(scored: Scored, task: str) -> Array:
    """Of the images of a task: those that are known, then for "foreign" those of another kind."""
    if task == "error":
        return scored.judged
    assert scored.foreign is not None
    return np.concatenate([scored.judged, scored.foreign], axis=-1)


def _positive(task: str, truth: Truth) -> tuple[Flags, NDArray[Any]]:
    """What a task's scores are to detect, and the origins, which known and foreign images never share."""
    if task == "error":
        assert truth.error is not None
        return truth.error, truth.origins
    assert truth.foreign_origins is not None
    sets = {"known": truth.origins, "foreign": truth.foreign_origins}
    units = np.concatenate([np.char.add(f"{name} ", of.astype(str)) for name, of in sets.items()])
    return np.repeat([False, True], [len(of) for of in sets.values()]), units
