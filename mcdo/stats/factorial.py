"""Which factor decides? Main effects and shares of the spread in a full grid of cells measured on the same images.

The figure of every cell is recomputed in each resample of the origins, so contrasts between cells are paired.

Some factors are what the units are made with (the loss and the tower of a trained encoder), the others what is done to
each unit (the sites that are perturbed): a split plot (Yates 1935). With one unit for each combination of the former,
nothing says how much another unit of that combination would differ, so a contrast between them describes these units
and has no test. A contrast of the latter is seen in every unit, and its error is its spread over them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, numbers
from mcdo.stats.comparison import Difference, corrected
from mcdo.stats.crossed import crossed_mean
from mcdo.stats.resampling import Estimate, percentile_estimate

Contrast = tuple[str, str, str]


@dataclass(frozen=True)
class FactorialAnalysis:
    """What :func:`factorial_analysis` found.

    Attributes:
        between: by (factor, level, other level) of the factors between units: marginal mean of the other level less
            that of the level. The interval is over images, of these units.
        within: the same for the factors within units, with the units as the error stratum; Holm over them.
        shares: of the sum of squares between cells: by factor, by pair of factors ("a x b": what the two do together
            beyond their main effects), and "rest", which is left.
        share_differences: by (factor, other factor): share of the other less that of the factor.

    """

    between: Mapping[Contrast, Estimate]
    within: Mapping[Contrast, Difference]
    shares: Mapping[str, Estimate]
    share_differences: Mapping[tuple[str, str], Estimate]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: effects of both kinds (those between units without p), shares and their differences."""
        effects: dict[Contrast, Estimate | Difference] = {**self.between, **self.within}
        return {
            "effects": {f"{f}: {b} - {a}": effect.as_dict() for (f, a, b), effect in effects.items()},
            "shares": {factor: e.as_dict() for factor, e in self.shares.items()},
            "share_differences": {f"{b} - {a}": e.as_dict() for (a, b), e in self.share_differences.items()},
        }


def factorial_analysis(
    factors: Mapping[str, Sequence[str]],
    values: ArrayLike,
    draws: ArrayLike,
    n: int,
    *,
    units: Sequence[str],
    level: float = 0.95,
) -> FactorialAnalysis:
    """Balanced analysis of one figure over all combinations of levels.

    Shares are SS(factor)/SS(between cells), sums of squares of marginal means about the grand mean (Fisher 1925);
    without replication they describe these cells, and noise in the cells adds to all of them. It adds once to the
    value and once more to its draws, so the percentile interval is moved by twice what the draws exceed the value by:
    else a share of nothing would never be held. Contrasts within units by :func:`~mcdo.stats.crossed.crossed_mean`,
    those between units with the percentile interval of the draws.

    Args:
        factors: levels by factor, in the order of the axes of ``values``.
        values: the figure of each cell, one axis per factor.
        draws: the same in each resample, [R, ...], as :meth:`~mcdo.stats.sample.Sample.both` gives them.
        n: origins behind each figure.
        units: the factors whose combinations are the units, one unit each.
        level: of the intervals.

    """
    shape = tuple(len(levels) for levels in factors.values())
    cells, resampled = numbers("values", values), numbers("draws", draws)
    if cells.shape != shape or resampled.shape[1:] != shape or min(shape, default=0) < 2:
        raise McdoError(
            f"values {list(cells.shape)} and draws {list(resampled.shape)} for a grid of {list(shape)} cells; "
            "give one value per cell, draws [R, ...], and at least two levels of each factor"
        )
    if not units or not set(units) <= set(factors):
        raise McdoError(f"units {list(units)}: name one or more of the factors {', '.join(factors)}")

    def estimate(value: float, drawn: Array) -> Estimate:
        return percentile_estimate(value, np.full(1, math.nan) if math.isnan(value) else drawn, n, level)

    stacked = np.concatenate([cells[None], resampled])
    axes = {factor: 1 + axis for axis, factor in enumerate(factors)}
    between: dict[Contrast, Estimate] = {}
    within: dict[Contrast, Difference] = {}
    for factor, levels in factors.items():
        stay = [axes[unit] for unit in units if factor not in units]
        for i, j in itertools.combinations(range(len(levels)), 2):
            by_unit = _contrast(stacked, axes[factor], i, j, stay)
            if factor in units:
                between[factor, levels[i], levels[j]] = estimate(float(by_unit[0, 0]), by_unit[1:, 0])
            else:
                within[factor, levels[i], levels[j]] = crossed_mean(by_unit[0], by_unit[1:], n, level=level)
    pairs = [f"{a} x {b}" for a, b in itertools.combinations(factors, 2)] if len(factors) > 2 else []
    names, shares = [*factors, *pairs, "rest"], _shares(stacked)
    return FactorialAnalysis(
        between=between,
        within=corrected(within),
        shares={name: estimate(float(shares[0, i]), _moved(shares[:, i]).clip(0, 1)) for i, name in enumerate(names)},
        share_differences={
            (names[i], names[j]): estimate(float(shares[0, j] - shares[0, i]), _moved(shares[:, j] - shares[:, i]))
            for i, j in itertools.combinations(range(len(factors)), 2)
        },
    )


def _contrast(cells: Array, axis: int, i: int, j: int, stay: Sequence[int]) -> Array:
    """Level ``j`` less level ``i`` of ``axis`` of [R, ...], mean over all axes but ``stay``; [R, cells of stay]."""
    difference = np.take(cells, [j], axis) - np.take(cells, [i], axis)
    gone = tuple(a for a in range(1, cells.ndim) if a not in stay)
    return np.asarray(difference.mean(axis=gone).reshape(len(cells), -1))


def _moved(shares: Array) -> Array:
    """Draws of a share, the rest of [1 + R], without the noise that the value has once and they have twice."""
    draws = shares[1:]
    defined = draws[~np.isnan(draws)]
    return np.asarray(draws - 2 * (defined.mean() - shares[0])) if len(defined) else draws


def _marginal(cells: Array, *axes: int) -> Array:
    """Means over all factors but ``axes``: [R, ...] to [R, ...] with every other factor's axis of length 1."""
    return np.asarray(cells.mean(axis=tuple(a for a in range(1, cells.ndim) if a - 1 not in axes), keepdims=True))


def _shares(cells: Array) -> Array:
    """[R, factors + pairs + 1]: share of each main effect, of each pair's interaction, and of the rest."""
    axes = range(cells.ndim - 1)
    grand = _marginal(cells)
    main = [_marginal(cells, a) - grand for a in axes]
    together = [
        _marginal(cells, a, b) - grand - main[a] - main[b] for a, b in itertools.combinations(axes, 2) if len(axes) > 2
    ]
    within = tuple(range(1, cells.ndim))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.square(cells - grand).mean(axis=within)
        shares = np.stack([np.square(part).mean(axis=within) / total for part in (*main, *together)], axis=1)
    return np.concatenate([shares, 1 - shares.sum(axis=1, keepdims=True)], axis=1)
