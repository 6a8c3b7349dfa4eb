"""What damage of known severity does to images: which scores rise, how far, and whether a severity can be read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mcdo.images.degradations import Degradation, graded, published
from mcdo.stats import (
    Estimate,
    Origins,
    PairedIncrease,
    ResponseCurve,
    holm,
    mean,
    reading_error,
    response_curve,
    share,
    wilcoxon_increase,
)

FREE = ("entropy", "feature_norm")
"""Deterministic, and free: what the score has to be better than. Entropy is there where something reads classes."""
JUDGED = "trace_pre"
PASS_BAR = 0.75
WEAK_BAR = 0.60
Array = NDArray[np.float64]
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Version:
    """The images, clean or degraded: ``scores`` by name, each [N], ``unit`` features [N, D], and ``correct`` [N]."""

    scores: Mapping[str, Array]
    unit: Array
    correct: NDArray[np.bool_] | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scores that are not free."""
        return tuple(name for name in self.scores if name not in FREE)

    @property
    def read(self) -> tuple[str, ...]:
        """What a severity may be read from."""
        return tuple(name for name in self.scores if name != "feature_norm")


@dataclass(frozen=True)
class Sampling:
    """Of the originals, for every interval alike; arguments as for :mod:`mcdo.stats`."""

    origins: Origins
    seed: int
    resamples: int

    @property
    def arguments(self) -> dict[str, Any]:
        """For a statistic."""
        return {"origins": self.origins, "seed": self.seed, "resamples": self.resamples}


@dataclass(frozen=True)
class Damage:
    """One degradation.

    Attributes:
        native: severity in native units.
        at_input: the same at the model's input resolution.
        increase: by score, clean and degraded under common random numbers.
        independent: by score, the clean images under other masks.
        p_holm: by score, one-sided Wilcoxon p of ``increase`` after Holm over all degradations and scores.
        cosine: mean cosine between clean and degraded features.
        accuracy: share of degraded images classified correctly; None without labels, or a head that reads them.

    """

    native: float
    at_input: float
    increase: Mapping[str, PairedIncrease]
    independent: Mapping[str, PairedIncrease]
    p_holm: Mapping[str, float]
    cosine: Estimate
    accuracy: Estimate | None


@dataclass(frozen=True)
class Curve:
    """Response of one score to one family, and by how much a reading of it errs more than a constant; NaN: refused."""

    response: ResponseCurve
    reading: Estimate


@dataclass(frozen=True)
class DegradationResult:
    """What the damage did.

    Attributes:
        damage: by degradation.
        turning: by family, mean cosine of clean and degraded features at the strongest level less at the mildest.
        curves: by (family, score).
        clean_accuracy: share of clean images classified correctly; None as in :class:`Damage`.
        size: of the pictures, (width, height).
        unread: why there is no entropy and no accuracy, or "".

    """

    damage: Mapping[str, Damage]
    turning: Mapping[str, Estimate]
    curves: Mapping[tuple[str, str], Curve]
    clean_accuracy: Estimate | None
    size: Size
    unread: str

    @property
    def published(self) -> tuple[str, ...]:
        """The published four, or their counterparts for pictures of this size."""
        return published(min(self.size))

    def levels(self, family: str) -> dict[str, Damage]:
        """The graded levels of a family, by increasing damage."""
        return {spec: self.damage[spec] for spec in graded(family, min(self.size))}


def damages(
    clean: Version,
    other_masks: Version,
    damaged: Mapping[str, Version],
    size: Size,
    resolution: int,
    sampling: Sampling,
) -> dict[str, Damage]:
    """Every degradation beside the clean images, under the same masks and under others."""
    increase = {spec: _increases(after, clean, tuple(clean.scores), sampling) for spec, after in damaged.items()}
    p_holm = _corrected(increase, clean.names)
    return {
        spec: Damage(
            native=Degradation.parse(spec).severity(size),
            at_input=Degradation.parse(spec).severity_at_input(size, resolution),
            increase=increase[spec],
            independent=_increases(after, other_masks, clean.names, sampling),
            p_holm=p_holm[spec],
            cosine=mean(_cosine(clean, after), **sampling.arguments),
            accuracy=accuracy(after, sampling),
        )
        for spec, after in damaged.items()
    }


def _increases(after: Version, before: Version, names: Sequence[str], sampling: Sampling) -> dict[str, PairedIncrease]:
    return {name: wilcoxon_increase(after.scores[name], before.scores[name], **sampling.arguments) for name in names}


def _corrected(
    increase: Mapping[str, Mapping[str, PairedIncrease]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    adjusted = iter(holm([found[name].p_value for found in increase.values() for name in names]).tolist())
    return {spec: {name: next(adjusted) for name in names} for spec in increase}


def _cosine(clean: Version, after: Version) -> Array:
    return np.asarray((clean.unit * after.unit).sum(axis=1))


def accuracy(version: Version, sampling: Sampling) -> Estimate | None:
    """Share of images classified correctly; None without labels."""
    return None if version.correct is None else share(version.correct, origins=sampling.origins)


def turning(clean: Version, damaged: Mapping[str, Version], specs: Sequence[str], sampling: Sampling) -> Estimate:
    """Mean cosine between clean and degraded features at the last of ``specs``, less that at the first."""
    mildest, strongest = (_cosine(clean, damaged[spec]) for spec in (specs[0], specs[-1]))
    return mean(strongest - mildest, **sampling.arguments)


def curves(
    clean: Version, damaged: Mapping[str, Version], families: Sequence[str], size: Size, sampling: Sampling
) -> dict[tuple[str, str], Curve]:
    """The response of each score to each family."""
    return {
        (family, name): _curve(clean, damaged, graded(family, min(size)), name, size, sampling)
        for family in families
        for name in clean.read
    }


def _curve(
    clean: Version,
    damaged: Mapping[str, Version],
    specs: Sequence[str],
    name: str,
    size: Size,
    sampling: Sampling,
) -> Curve:
    severities = [0.0, *(Degradation.parse(spec).severity(size) for spec in specs)]
    scores = np.stack([clean.scores[name], *(damaged[spec].scores[name] for spec in specs)])
    response = response_curve(severities, scores, **sampling.arguments)
    refused = Estimate(math.nan, math.nan, math.nan, response.rise.n)
    rising = response.shape == "rising"
    return Curve(response, reading_error(severities, scores, **sampling.arguments) if rising else refused)


def grade(fraction: Estimate) -> Literal["pass", "weak", "fail", "undecided"]:
    """The published words: pass from 75 %, weak from 60 %, by the whole interval; otherwise fail or undecided."""
    if fraction.outcome(PASS_BAR) == "met":
        return "pass"
    if fraction.outcome(WEAK_BAR) == "not met":
        return "fail"
    return "weak" if fraction.outcome(WEAK_BAR) == "met" and fraction.outcome(PASS_BAR) == "not met" else "undecided"
