"""Do groups of different images differ in their mean score? Unpaired comparisons, every pair, corrected by Holm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, of_order_one
from mcdo.stats.comparison import holm_of_defined
from mcdo.stats.detection import wholly_apart
from mcdo.stats.resampling import (
    Estimate,
    Origins,
    Units,
    blockwise,
    check_resampling,
    generator,
)
from mcdo.stats.sample import Drawn, Inferred, lengthened, resampled, uneven
from mcdo.stats.trials import Scores, shared_trials, widened


@dataclass(frozen=True)
class GroupDifference:
    """Two groups compared.

    Attributes:
        difference: mean of the second less mean of the first.
        exceedance: P(second > first) + P(equal)/2, the same as an AUROC: an effect size without a scale.
        p_value: two-sided studentised permutation test of equal means; Student's t where trials share noise.
        p_holm: adjusted over all pairs of the family.

    """

    difference: Estimate
    exceedance: Estimate
    p_value: float
    p_holm: float


def group_differences(
    groups: Mapping[str, ArrayLike],
    *,
    origins: Mapping[str, Origins] | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    permutations: int = 1999,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[tuple[str, str], GroupDifference]:
    """Every pair of ``groups`` (each [n] or [K, n], n >= 2, of different images), in their order.

    The permutation test exchanges origins between the groups and uses Welch's t as its statistic, so that it stays
    valid for the means when the spreads differ (Janssen 1997); a plain permutation of the difference of means would
    not. With several images per origin the error in t is that of a ratio of sums over origins. Intervals:
    percentile bootstrap over origins, each group resampled by itself. Two groups without any spread: p = 1 where they
    are equal, else the least possible.

    With ``shared_noise`` trial k is one draw for all groups. Intervals are then widened by the trials, see
    :mod:`mcdo.stats.trials`, and p is that of :class:`~mcdo.stats.Inferred`: no exchange of images shows what other
    trials would have given.

    Args:
        groups: values by name; [K, n] is averaged over trials.
        origins: of the images of each group, by the same names.
        shared_noise: whether the images of a trial share its noise.
        seed: of permutations and resamples.
        permutations: of origins between two groups; all, where there are no more.
        resamples: of origins within a group.
        level: of the intervals.

    Raises:
        McdoError: for fewer than two groups, values or origins in one, values that are not finite, an origin that two
            groups share (their images are then not independent), or shared noise of too few trials.

    """
    check_resampling(resamples, level)
    permutations = arguments.whole("permutations", permutations, least=1)
    if len(groups) < 2:
        raise McdoError(f"groups {list(groups)}: a comparison needs at least two")
    scores = {name: Scores.of({name: x}, shared_noise=shared_noise, least=2) for name, x in groups.items()}
    if shared_noise:
        shared_trials({name: len(np.asarray(values)) for name, values in groups.items()})
    held = {name: score.means[0] for name, score in scores.items()}
    units = {name: Units.of(None if origins is None else origins[name], len(x)) for name, x in held.items()}
    _check_apart(origins or {})
    pairs = list(itertools.combinations(held, 2))
    rngs = generator(seed).spawn(2 * len(pairs))
    sums = {name: _sums(x, units[name]) for name, x in held.items()}
    found = [
        _inferred((scores[a], units[a]), (scores[b], units[b]), rng, resamples, level)
        for (a, b), rng in zip(pairs, rngs[1::2], strict=True)
    ]
    p_values = [
        difference.p_value if shared_noise else _permutation_p(sums[a], sums[b], rng, permutations)
        for (a, b), rng, (difference, _) in zip(pairs, rngs[::2], found, strict=True)
    ]
    return {
        pair: GroupDifference(difference.estimate, exceedance.estimate, p, float(adjusted))
        for pair, (difference, exceedance), p, adjusted in zip(
            pairs, found, p_values, holm_of_defined(p_values), strict=True
        )
    }


def _check_apart(origins: Mapping[str, Origins]) -> None:
    for (a, first), (b, second) in itertools.combinations(origins.items(), 2):
        shared = sorted(set(np.asarray(first).tolist()) & set(np.asarray(second).tolist()))
        if shared:
            raise McdoError(
                f"groups {a!r} and {b!r} share {len(shared)} origins ({shared[0]!r}): their images are not "
                "independent; compare them image by image, as pairs"
            )


def _sums(values: Array, units: Units) -> Array:
    """Number of images and sum of values of each origin, [2, n]."""
    members = units.members
    return np.stack([np.bincount(members, minlength=units.n), np.bincount(members, values, units.n)])


def _welch(x: Array, y: Array) -> Array:
    """Welch's t (1947) of y less x, each [..., 2, n] as of :func:`_sums`; 0 where the means agree, always finite."""
    (first, spread), (second, other) = _mean_and_error(x), _mean_and_error(y)
    gap = second - first
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.where(gap == 0, 0.0, gap / np.sqrt(spread + other)), -1e300, 1e300))


def _mean_and_error(sums: Array) -> tuple[Array, Array]:
    """Mean over images, and its squared error as a ratio of sums over n origins; var/n with one image in each."""
    sizes, totals = sums[..., 0, :], sums[..., 1, :]
    n, images_ = sizes.shape[-1], sizes.sum(axis=-1)
    mean = totals.sum(axis=-1) / images_
    left = totals - sizes * mean[..., None]
    return mean, np.square(left).sum(axis=-1) * n / (n - 1) / images_**2


def _permutation_p(x: Array, y: Array, rng: np.random.Generator, permutations: int) -> float:
    both, split = np.concatenate([x, y], axis=1), x.shape[1]
    both[1] = of_order_one(both[1])[0]  # t has no unit

    def statistic(first: Any, second: Any, axis: int = -1) -> Array:
        x, y = (np.moveaxis(both[:, places.astype(int)], 0, -2) for places in (first, second))
        return _welch(x, y)

    found = scipy.stats.permutation_test(
        (np.arange(split), np.arange(split, both.shape[1])), statistic, permutation_type="independent",
        vectorized=True, alternative="two-sided", n_resamples=permutations, random_state=rng,
    )  # fmt: skip
    return float(found.pvalue)


def _inferred(
    first: tuple[Scores, Units], second: tuple[Scores, Units], rng: np.random.Generator, resamples: int, level: float
) -> tuple[Inferred, Inferred]:
    """Difference of means, and exceedance, each group resampled by itself."""
    (one, x_units), (other, y_units) = first, second
    x, y = one.means[0], other.means[0]
    a, b = (units.multiplicities(resamples, int(rng.integers(2**63))) for units in (x_units, y_units))
    ones = np.ones((1, len(x))), np.ones((1, len(y)))
    n, fewest = x_units.n + y_units.n, min(x_units.n, y_units.n)
    apart = [Drawn.of(units, [drawn]) for units, drawn in ((x_units, a), (y_units, b)) if uneven(units)]

    def inferred(figure: Callable[..., Array], bounds: tuple[float, float]) -> Inferred:
        draws = figure(x, y, a, b)
        found = resampled(float(figure(x, y, *ones)[0]), draws, fewest, level, lengthened(draws, apart))
        found = replace(found, estimate=replace(found.estimate, n=n))
        if one.without is None or other.without is None:
            return found
        left = [figure(*rows, *ones)[0] for rows in zip(one.without[:, 0], other.without[:, 0], strict=True)]
        return widened(found, np.array(left), bounds)

    exceedance = inferred(_exceedance, (0.0, 1.0))
    e = exceedance.estimate
    if e.low == e.high and e.value in (0, 1):  # wholly apart, and so in all resamples
        low, high = wholly_apart(e.value, x_units.n, y_units.n, level)
        exceedance = replace(exceedance, estimate=replace(e, low=low, high=high))
    return inferred(_difference, (-math.inf, math.inf)), exceedance


def _difference(x: Array, y: Array, a: Array, b: Array) -> Array:
    """Mean of ``y`` less that of ``x`` with multiplicities ``b`` and ``a`` [R, .]: [R]."""
    return np.asarray(b @ y / b.sum(axis=1) - a @ x / a.sum(axis=1))


def _exceedance(x: Array, y: Array, a: Array, b: Array) -> Array:
    """P(y > x) + P(y = x)/2 with multiplicities ``b`` and ``a`` [R, .]: [R]."""
    order = np.argsort(x, kind="stable")
    low, high = (np.searchsorted(x[order], y, side) for side in ("left", "right"))

    def shares(weights: Array) -> Array:
        of_x, of_y = weights[:, : len(x)], weights[:, len(x) :]
        below = np.cumsum(np.pad(of_x[:, order], ((0, 0), (1, 0))), axis=1)
        return np.asarray(((below[:, low] + below[:, high]) / 2 * of_y).sum(axis=1))

    pairs = blockwise(shares, np.concatenate([a, b], axis=1), len(x) + len(y))
    return np.asarray(pairs / (a.sum(axis=1) * b.sum(axis=1)))
