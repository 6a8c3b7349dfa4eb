"""Do groups of different images differ in their mean score? Unpaired comparisons, every pair, corrected by Holm."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, images
from mcdo.stats.resampling import Estimate, check_resampling, holm, percentile_estimate


@dataclass(frozen=True)
class GroupDifference:
    """Two groups compared.

    Attributes:
        difference: mean of the second less mean of the first.
        exceedance: P(second > first) + P(equal)/2, the same as an AUROC: an effect size without a scale.
        p_value: two-sided studentised permutation test of equal means.
        p_holm: adjusted over all pairs of the family.

    """

    difference: Estimate
    exceedance: Estimate
    p_value: float
    p_holm: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "difference": self.difference.as_dict(),
            "exceedance": self.exceedance.as_dict(),
            "p_value": self.p_value,
            "p_holm": self.p_holm,
        }


def group_differences(
    groups: Mapping[str, ArrayLike],
    *,
    seed: int = 0,
    permutations: int = 1999,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str], GroupDifference]:
    """Every pair of ``groups`` (each [n], n >= 2, of different images), in their order.

    The permutation test uses Welch's t as its statistic, so that it stays valid for the means when the spreads differ
    (Janssen 1997); a plain permutation of the difference of means would not. Intervals: percentile bootstrap, each
    group resampled by itself. Two groups without any spread: p = 1 where they are equal, else the least possible.

    Raises:
        McdoError: for fewer than two groups or values, or values that are not finite.

    """
    check_resampling(resamples, level)
    held = {name: images(2, **{name: values})[0] for name, values in groups.items()}
    if len(held) < 2:
        raise McdoError(f"groups {list(held)}: a comparison needs at least two")
    pairs = list(itertools.combinations(held, 2))
    rngs = np.random.default_rng(seed).spawn(2 * len(pairs))
    p_values = [
        _permutation_p(held[a], held[b], rng, permutations) for (a, b), rng in zip(pairs, rngs[::2], strict=True)
    ]
    found = {}
    for (a, b), rng, p, adjusted in zip(pairs, rngs[1::2], p_values, holm(p_values), strict=True):
        difference, exceedance = _intervals(held[a], held[b], rng, resamples, level)
        found[a, b] = GroupDifference(difference, exceedance, p, float(adjusted))
    return found


def _welch(x: Array, y: Array, axis: int = -1) -> Array:
    """Welch's t (1947) of y less x; 0 where the means agree, and finite where nothing spreads."""
    gap = y.mean(axis=axis) - x.mean(axis=axis)
    error = np.sqrt(x.var(axis=axis, ddof=1) / x.shape[axis] + y.var(axis=axis, ddof=1) / y.shape[axis])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.where(gap == 0, 0.0, gap / error), -1e300, 1e300))


def _permutation_p(x: Array, y: Array, rng: np.random.Generator, permutations: int) -> float:
    found = stats.permutation_test(
        (x, y), _welch, permutation_type="independent", vectorized=True, alternative="two-sided",
        n_resamples=permutations, random_state=rng,
    )  # fmt: skip
    return float(found.pvalue)


def _intervals(x: Array, y: Array, rng: np.random.Generator, resamples: int, level: float) -> tuple[Estimate, Estimate]:
    n = len(x) + len(y)
    first = rng.integers(0, len(x), (resamples, len(x)))
    second = rng.integers(0, len(y), (resamples, len(y)))
    gaps = y[second].mean(axis=1) - x[first].mean(axis=1)
    above = (y[:, None] > x) + (y[:, None] == x) / 2
    # rows and columns of one table of comparisons, drawn as often as their images are
    weights = _counts(second, len(y)) @ above
    shares = (weights * _counts(first, len(x))).sum(axis=1) / above.size
    return (
        percentile_estimate(float(y.mean() - x.mean()), gaps, n, level),
        percentile_estimate(float(above.mean()), shares, n, level),
    )


def _counts(drawn: Any, n: int) -> Array:
    return np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
