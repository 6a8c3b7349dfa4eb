"""One row of the table: what a score is worth by every measure that its images allow, and over what costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.rivals.seen import Array
from mcdo.stats import Difference, Estimate, advantages, auroc, partial_spearman, reliability, share, spearman
from mcdo.stats.comparison import corrected
from mcdo.stats.paired import rise
from mcdo.stats.selective import augrc, excess_aurc, fpr95

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

    Attributes:
        values: [K, N], K trials.
        cost: forwards of the encoder for one image and trial; NaN where it is not known.
        foreign: [M], of images of another kind; None where it was not taken.
        degraded: [N] of the same images, by degradation, under the noise of the first trial.

    """

    values: Array
    cost: float
    foreign: Array | None = None
    degraded: Mapping[str, Array] = field(default_factory=dict)


MEASURES: Mapping[str, str] = {
    "reliability": "Spearman between two trials; a deterministic score has no noise to measure",
    "rho_entropy": "ρ with the entropy of the prediction",
    "rho_entropy_given_norm": "the same given the feature norm",
    "auroc_error": "AUROC for errors of the prediction",
    "excess_aurc": "area under risk over coverage, less that of the oracle (smaller is better)",
    "augrc": "area under generalised risk over coverage (smaller is better)",
    "auroc_foreign": "AUROC for images of another kind",
    "fpr95_foreign": "share of those let through where 95 % of the known are (smaller is better)",
    "auroc_misplaced": "AUROC for images whose nearest neighbour has another label (Recall@1)",
}
"""Measures by name; one more for each degradation: the share of images whose score rises."""


def rated(scored: Scored, truth: Truth, seed: int = 0, resamples: int = 1000) -> dict[str, Estimate]:
    """What a score is worth, by measure; only the measures that are defined. Validity is that of the first trial."""
    first, origins = scored.values[0], truth.origins
    how: dict[str, Any] = {"origins": origins, "seed": seed, "resamples": resamples}
    found: dict[str, Estimate] = {}
    if len(scored.values) > 1:
        found["reliability"] = reliability(scored.values, origins=origins, seed=seed).estimate("spearman")
    if truth.entropy is not None:
        found["rho_entropy"] = spearman(first, truth.entropy, **how)
        if truth.norm is not None:
            found["rho_entropy_given_norm"] = partial_spearman(first, truth.entropy, truth.norm, **how)
    if truth.error is not None:
        found["auroc_error"] = auroc(first, truth.error, origins=origins)
        found["excess_aurc"] = excess_aurc(first, truth.error, **how)
        found["augrc"] = augrc(first, truth.error, **how)
    if truth.misplaced is not None:
        found["auroc_misplaced"] = auroc(first, truth.misplaced, origins=origins)
    if scored.foreign is not None and truth.foreign_origins is not None:
        both, kinds, units = beside_foreign(first, scored.foreign, truth)
        found["auroc_foreign"] = auroc(both, kinds, origins=units)
        found["fpr95_foreign"] = fpr95(
            first, scored.foreign, known_origins=origins, foreign_origins=truth.foreign_origins, seed=seed,
            resamples=resamples,
        )  # fmt: skip
    for name, values in scored.degraded.items():
        found[f"raised/{name}"] = share(rise(values, first) > 0, origins=origins)
    return found


def beside_foreign(known: Array, foreign: Array, truth: Truth) -> tuple[Array, Flags, NDArray[Any]]:
    """Known and foreign images as one set: scores, whether foreign, and origins that two sets never share."""
    assert truth.foreign_origins is not None
    kinds = np.repeat([False, True], [len(known), len(foreign)])
    units = np.concatenate([np.char.add("known ", truth.origins.astype(str)),
                            np.char.add("foreign ", truth.foreign_origins.astype(str))])  # fmt: skip
    return np.concatenate([known, foreign]), kinds, units


@dataclass(frozen=True)
class Advantage:
    """How far a score is ahead of the best of what costs nothing, at one task."""

    baseline: str
    difference: Difference


def ahead_of_trivial(
    scores: Mapping[str, Scored], trivial: Mapping[str, Scored], truth: Truth, seed: int = 0, resamples: int = 1000
) -> dict[tuple[str, str], Advantage]:
    """By score and task ("error", "foreign"): AUROC less that of the best trivial score, read whichever way is better.

    The best is chosen on the same images, which favours it. Holm runs over the whole table.
    """
    how: dict[str, Any] = {"seed": seed, "resamples": resamples}
    families: dict[str, dict[tuple[str, str, str], Difference]] = {}
    if truth.error is not None:
        firsts = [{name: each.values[0] for name, each in group.items()} for group in (scores, trivial)]
        families["error"] = advantages(
            *firsts, follows={}, detects={"error": truth.error}, origins=truth.origins, **how
        )
    if truth.foreign_origins is not None:
        groups = [
            {
                name: beside_foreign(each.values[0], each.foreign, truth)
                for name, each in group.items()
                if each.foreign is not None
            }
            for group in (scores, trivial)
        ]
        if all(groups):
            _, kinds, units = next(iter(groups[0].values()))
            firsts = [{name: both for name, (both, _, _) in group.items()} for group in groups]
            families["foreign"] = advantages(*firsts, follows={}, detects={"foreign": kinds}, origins=units, **how)
    found: dict[tuple[str, str], Advantage] = {}
    for task, family in families.items():
        for score in dict.fromkeys(score for score, _, _ in family):
            against = {baseline: d for (name, baseline, _), d in family.items() if name == score}
            defined = {name: d for name, d in against.items() if np.isfinite(d.estimate.value)}
            if defined:
                best = min(defined, key=lambda name: defined[name].estimate.value)
                found[score, task] = Advantage(best, defined[best])
    joined = corrected({"": {str(key): each.difference for key, each in found.items()}})[""]
    return {key: Advantage(each.baseline, joined[str(key)]) for key, each in found.items()}
