"""Is one score better than another on the same images? The difference of two rank figures, paired by image.

What the images share cancels: both scores are ranked in the same resamples of the origins, or, for areas, the
difference of their structural components is taken origin by origin (DeLong 1988). The interval is of the difference,
not of two separate figures. p-values of a family are corrected by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError, nearest
from mcdo.stats._checks import Array, flags, images, jsonable
from mcdo.stats.association import RankFigures, contrast
from mcdo.stats.detection import Components, components, inferred_area
from mcdo.stats.independent import difference
from mcdo.stats.ranks import mid_ranks
from mcdo.stats.resampling import Estimate, Origins, holm
from mcdo.stats.sample import Inferred, Sample
from mcdo.stats.trials import Scores, infer

Key = TypeVar("Key")
Test = TypeVar("Test", bound=Any)
"""A dataclass with ``p_value`` and ``p_holm``."""


@dataclass(frozen=True)
class Difference:
    """A score's figure minus the reference's: the estimate, its two-sided p, and p after Holm."""

    estimate: Estimate
    p_value: float
    p_holm: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; undefined numbers become None."""
        p = {"p_value": jsonable(self.p_value), "p_holm": jsonable(self.p_holm)}
        return {**self.estimate.as_dict(), **p}

    def __str__(self) -> str:
        return f"{self.estimate} p_holm={self.p_holm:.3g}"


def spearman_differences(
    scores: Mapping[str, ArrayLike],
    reference: str,
    target: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Difference]:
    """ρ(score, target) − ρ(reference, target) for every other score, [N] or [K, N]; ``target`` is [N], N >= 3.

    Percentile interval of the bootstrap over origins, and p from its spread (:class:`~mcdo.stats.Inferred`). Holm runs
    over the scores of this call; more families are joined with :func:`corrected_families`. A score or target that is
    constant gives NaN.
    """
    others = others_than(scores, reference)
    held, goal = _scores(scores, 3, shared_noise, target=target)
    sample = Sample(len(goal), origins, seed, resamples, level)
    names = list(scores)
    figures = [contrast(names.index(name), names.index(reference), -1) for name in others]
    return differences(others, infer(RankFigures(sample, figures, goal[None]), held))


def auroc_differences(
    scores: Mapping[str, ArrayLike],
    reference: str,
    positive: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    level: float = 0.95,
) -> dict[str, Difference]:
    """AUROC(score) − AUROC(reference) for every other score, [N] or [K, N], and ``positive`` [N] of 0/1 or bool.

    Interval and p by Student's t with the error of the paired difference (DeLong 1988, for origins Obuchowski 1997), or
    from the intervals of the two areas where that is nil and they do not order the images alike; both NaN where a class
    has fewer origins than :data:`~mcdo.stats.detection.LEAST_CLASS`. Holm as in :func:`spearman_differences`.
    """
    others = others_than(scores, reference)
    held, labels = _scores(scores, 2, shared_noise, positive=positive)
    truth, names = flags("positive", labels), list(scores)
    pairs = [(names.index(name), names.index(reference), truth) for name in others]
    return differences(others, infer(AreaDifferences(Sample(len(truth), origins, level=level), pairs), held))


class AreaDifferences:
    """For each (score, reference, positive [N]) of ``pairs`` the area of one score less that of the other.

    ``directed``: the reference may be read either way, so the larger of its area and one minus it is subtracted.
    """

    bounds = (-1.0, 1.0)

    def __init__(
        self, sample: Sample, pairs: Sequence[tuple[int, int, NDArray[np.bool_]]], *, directed: bool = False
    ) -> None:
        self.sample, self.pairs, self.directed = sample, pairs, directed

    def values(self, scores: Array) -> Array:
        """The differences [F] of ``scores`` [S, N]."""
        return np.array([self._difference(scores, *pair).area for pair in self.pairs])

    def inferred(self, scores: Array) -> list[Inferred]:
        """The same with intervals."""
        return [self._inferred(scores, *pair) for pair in self.pairs]

    def _inferred(self, scores: Array, score: int, reference: int, positive: NDArray[np.bool_]) -> Inferred:
        own, its = self._both(scores, score, reference, positive)
        found = inferred_area(own.less(its), positive, self.sample, logit=False)
        alike = found.estimate.value == 0 and np.array_equal(*mid_ranks(scores[[score, reference]]))
        if found.error != 0 or alike:
            return found
        # classes wholly apart leave no variance, which is not to say that they are so in another sample
        areas = (inferred_area(each, positive, self.sample, logit=True).estimate for each in (own, its))
        apart = difference(*areas)
        return replace(apart, estimate=replace(apart.estimate, n=self.sample.n))

    def _difference(self, scores: Array, score: int, reference: int, positive: NDArray[np.bool_]) -> Components:
        own, its = self._both(scores, score, reference, positive)
        return own.less(its)

    def _both(
        self, scores: Array, score: int, reference: int, positive: NDArray[np.bool_]
    ) -> tuple[Components, Components]:
        own, its = (
            components(scores[i], positive, self.sample.units.members, self.sample.n) for i in (score, reference)
        )
        return own, its.reversed() if self.directed and its.area < 0.5 else its


def differences(names: Sequence[Any], figures: Sequence[Inferred]) -> dict[Any, Difference]:
    """Inferred figures by name, with Holm over them."""
    p_values = [one.p_value for one in figures]
    return {
        name: Difference(one.estimate, p, adjusted)
        for name, one, p, adjusted in zip(names, figures, p_values, holm_of_defined(p_values), strict=True)
    }


def corrected(tests: Mapping[Key, Test]) -> dict[Key, Test]:
    """The same differences with ``p_holm`` over all of them; undefined ones (NaN) are not tests and stay so."""
    adjusted = holm_of_defined([each.p_value for each in tests.values()])
    return {key: replace(each, p_holm=p) for (key, each), p in zip(tests.items(), adjusted, strict=True)}


def corrected_families(families: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """:func:`corrected` over all families together."""
    joined = corrected({(f, name): d for f, family in families.items() for name, d in family.items()})
    return {f: {name: joined[f, name] for name in family} for f, family in families.items()}


def holm_of_defined(p_values: Sequence[float]) -> list[float]:
    """Holm over the defined ones; NaN stays NaN and is no test."""
    tests = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    for i, p in zip(tests, holm([p_values[i] for i in tests]) if tests else [], strict=True):
        adjusted[i] = float(p)
    return adjusted


def others_than(scores: Mapping[str, ArrayLike], reference: str) -> list[str]:
    """Names of the other scores. Raises McdoError for an unknown reference, or nothing to compare with it."""
    if reference not in scores:
        raise McdoError(f"no score {reference!r} to compare with; nearest: {nearest(reference, scores)}")
    if len(scores) < 2:
        raise McdoError(f"only {reference!r} was given; name a score to compare it with")
    return [name for name in scores if name != reference]


def _scores(
    scores: Mapping[str, ArrayLike], least: int, shared_noise: bool, **target: ArrayLike
) -> tuple[Scores, Array]:
    held = Scores.of(scores, shared_noise=shared_noise, least=least)
    return held, images(least, **{next(iter(scores)): held.means[0]}, **target)[1]
