"""Which factor decides? Main effects and shares of the spread in a full grid of cells measured on the same images.

The figure of every cell is recomputed in each resample of the origins, so contrasts between cells are paired. An
interval says what other originals would have given; where a cell holds one trained model, what another training would
have given is outside of it.
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
from mcdo.stats.resampling import Estimate, percentile_estimate
from mcdo.stats.sample import normal_p

Contrast = tuple[str, str, str]


@dataclass(frozen=True)
class FactorialAnalysis:
    """What :func:`factorial_analysis` found.

    Attributes:
        effects: by (factor, level, other level): marginal mean of the other level less that of the level.
        shares: of the sum of squares between cells: by factor, by pair of factors ("a x b": what the two do together
            beyond their main effects), and "rest", which is left.
        share_differences: by (factor, other factor): share of the other less that of the factor.

    """

    effects: Mapping[Contrast, Difference]
    shares: Mapping[str, Estimate]
    share_differences: Mapping[tuple[str, str], Estimate]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "effects": {f"{f}: {b} - {a}": d.as_dict() for (f, a, b), d in self.effects.items()},
            "shares": {factor: e.as_dict() for factor, e in self.shares.items()},
            "share_differences": {f"{b} - {a}": e.as_dict() for (a, b), e in self.share_differences.items()},
        }


def factorial_analysis(
    factors: Mapping[str, Sequence[str]], values: ArrayLike, draws: ArrayLike, n: int, *, level: float = 0.95
) -> FactorialAnalysis:
    """Balanced analysis of one figure over all combinations of levels.

    Shares are SS(factor)/SS(between cells), sums of squares of marginal means about the grand mean (Fisher 1925);
    without replication they describe these cells, and noise in the cells adds to all of them. Holm over the contrasts.

    Args:
        factors: levels by factor, in the order of the axes of ``values``.
        values: the figure of each cell, one axis per factor.
        draws: the same in each resample, [R, ...], as :meth:`~mcdo.stats.sample.Sample.both` gives them.
        n: origins behind each figure.
        level: of the intervals.

    """
    shape = tuple(len(levels) for levels in factors.values())
    cells, resampled = numbers("values", values), numbers("draws", draws)
    if cells.shape != shape or resampled.shape[1:] != shape or min(shape, default=0) < 2:
        raise McdoError(
            f"values {list(cells.shape)} and draws {list(resampled.shape)} for a grid of {list(shape)} cells; "
            "give one value per cell, draws [R, ...], and at least two levels of each factor"
        )

    def estimate(value: float, drawn: Array) -> Estimate:
        return percentile_estimate(value, np.full(1, math.nan) if math.isnan(value) else drawn, n, level)

    effects = {}
    for axis, (factor, levels) in enumerate(factors.items()):
        mean, means = _marginal(cells[None], axis).ravel(), _marginal(resampled, axis).reshape(len(resampled), -1)
        for i, j in itertools.combinations(range(len(levels)), 2):
            value, drawn = float(mean[j] - mean[i]), means[:, j] - means[:, i]
            p = normal_p(value, drawn)
            effects[factor, levels[i], levels[j]] = Difference(estimate(value, drawn), p, p)
    pairs = [f"{a} x {b}" for a, b in itertools.combinations(factors, 2)] if len(factors) > 2 else []
    names, share, shares = [*factors, *pairs, "rest"], _shares(cells[None])[0], _shares(resampled)
    return FactorialAnalysis(
        effects=_adjusted(effects),
        shares={name: estimate(float(share[i]), shares[:, i]) for i, name in enumerate(names)},
        share_differences={
            (names[i], names[j]): estimate(float(share[j] - share[i]), shares[:, j] - shares[:, i])
            for i, j in itertools.combinations(range(len(factors)), 2)
        },
    )


def _adjusted(effects: Mapping[Contrast, Difference]) -> dict[Contrast, Difference]:
    joined = corrected({"": {str(key): difference for key, difference in effects.items()}})[""]
    return {key: joined[str(key)] for key in effects}


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
