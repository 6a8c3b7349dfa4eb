"""Is one score better than another on the same images? Paired bootstrap of the difference of two rank figures.

Both scores are ranked in the same resamples of the origins, so what the images share cancels; the interval is of the
difference, not of two separate figures. p-values of a family are corrected by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError, nearest
from mcdo.stats._checks import Array, flags, images, jsonable
from mcdo.stats.association import among, rank_figures
from mcdo.stats.detection import area_figures
from mcdo.stats.resampling import Estimate, Origins, holm
from mcdo.stats.sample import Sample

LEAST_CLASS = 20
"""Images of the rarer class that an AUROC needs before its differences are tested."""


@dataclass(frozen=True)
class Difference:
    """A score's figure minus the reference's: the estimate, its two-sided bootstrap p, and p after Holm."""

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
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Difference]:
    """ρ(score, target) − ρ(reference, target) for every other score; ``scores`` and ``target`` are [N], N >= 3.

    Percentile interval, and p by :func:`~mcdo.stats.normal_p`. Holm runs over the scores of this call; more families
    are joined with :func:`corrected`. A score or target that is constant gives NaN.
    """
    names, rows = _rows(scores, reference, 3, target=target)
    sample = Sample(rows.shape[1], origins, seed, resamples, level)
    figures = rank_figures(rows, [among(i, -1) for i in range(len(names))])
    return _differences(names, reference, sample, sample.both(figures))


def auroc_differences(
    scores: Mapping[str, ArrayLike],
    reference: str,
    positive: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Difference]:
    """AUROC(score) − AUROC(reference) for ``positive`` [N] of 0/1 or bool; otherwise as :func:`spearman_differences`.

    Resamples with one class only are left out; one class in the data gives NaN. With fewer than ``LEAST_CLASS`` images
    in either class there is no p (NaN): their bootstrap spread says too little to test by.
    """
    names, rows = _rows(scores, reference, 2, positive=positive)
    truth = flags("positive", rows[-1])
    sample = Sample(rows.shape[1], origins, seed, resamples, level)
    figures = sample.both(area_figures(rows[:-1], truth[None]), rows[:-1].size)
    found = _differences(names, reference, sample, figures)
    if min(truth.sum(), (~truth).sum()) < LEAST_CLASS:
        return {name: Difference(d.estimate, math.nan, math.nan) for name, d in found.items()}
    return found


def corrected(families: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """The same differences with Holm over all families together; undefined ones (NaN) are not tests and stay so."""
    flat = [(f, name, d) for f, family in families.items() for name, d in family.items()]
    tests = [i for i, (_, _, d) in enumerate(flat) if not math.isnan(d.p_value)]
    adjusted = np.full(len(flat), math.nan)
    adjusted[tests] = holm([flat[i][2].p_value for i in tests]) if tests else []
    joined: dict[str, dict[str, Difference]] = {f: {} for f in families}
    for (f, name, d), p in zip(flat, adjusted, strict=True):
        joined[f][name] = Difference(d.estimate, d.p_value, float(p))
    return joined


def _rows(scores: Mapping[str, ArrayLike], reference: str, least: int, **last: ArrayLike) -> tuple[list[str], Array]:
    if reference not in scores:
        raise McdoError(f"no score {reference!r} to compare with; nearest: {nearest(reference, scores)}")
    if len(scores) < 2:
        raise McdoError(f"only {reference!r} was given; name a score to compare it with")
    return list(scores), np.stack(images(least, **{**scores, **last}))


def _differences(
    names: list[str], reference: str, sample: Sample, figures: tuple[Array, Array]
) -> dict[str, Difference]:
    (whole, draws), at, found = figures, names.index(reference), {}
    for i, name in enumerate(names):
        if i != at:
            estimate, p = sample.tested(whole[i] - whole[at], draws[:, i] - draws[:, at])
            found[name] = Difference(estimate, p, p)
    return corrected({"": found})[""]
