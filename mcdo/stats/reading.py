"""Can the severity of one image be read off its score? The response curve, inverted on images it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.stats.means import mean
from mcdo.stats.resampling import LEAST_UNITS, Estimate, Origins, Units
from mcdo.stats.response import checked, response_curve


def reading_error(
    severities: Sequence[float],
    scores: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """How much further from the truth a severity read off a score is than the median severity; below 0 it helps.

    ``scores`` [S, N] as for :func:`~mcdo.stats.response_curve`. The curve of every second origin is read backwards at
    the scores of all others, whose severity is known; a score beyond the curve reads as the strongest severity. The
    error is |read − true|, mean over the S severities, less the same of always naming the median of the severities.
    Mean over held-out images, in units of severity; the interval is a bootstrap over their origins, given the curve.
    NaN where the curve does not rise, or either side has fewer than five origins.
    """
    x, y = checked(severities, scores)
    truth = np.array(x)
    units = Units.of(origins, y.shape[-1])
    learnt = every_second(units)
    unseen, unseen_origins = y[:, ~learnt], units.members[~learnt]
    curve_origins = units.members[learnt]
    undefined = Estimate(math.nan, math.nan, math.nan, len(np.unique(unseen_origins)), level)
    if units.n < 2 * LEAST_UNITS:
        return undefined
    curve = response_curve(
        severities, y[:, learnt], origins=curve_origins, seed=seed, resamples=resamples, level=level
    )  # fmt: skip
    if curve.shape != "rising":
        return undefined
    error = np.abs(curve.inverse(unseen).clip(max=truth[-1]) - truth[:, None]).mean(axis=0)
    constant = np.abs(np.median(truth) - truth).mean()
    return mean(error - constant, origins=unseen_origins, seed=seed, resamples=resamples, level=level)


def every_second(units: Units) -> NDArray[np.bool_]:
    """Whether each image belongs to every second unit, counted in the order in which they first occur; [N]."""
    _, first = np.unique(units.members, return_index=True)
    place = np.empty(units.n, dtype=np.intp)
    place[np.argsort(first)] = np.arange(units.n)
    return np.asarray(place[units.members] % 2 == 0)
