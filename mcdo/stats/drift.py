"""Do scores drift from trial to trial? Trials are exchangeable, so their mean must not depend on their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, trials
from mcdo.stats.resampling import Estimate, Origins
from mcdo.stats.sample import Sample


def trial_drift(
    scores: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Slope of the mean score over the trial number, divided by the mean score: relative growth per trial.

    ``scores`` is [K, N], K >= 2. Least squares per image, averaged over images; the interval is a bootstrap over
    origins, whose noise must be independent of one another's (masks keyed by image are; masks tied over images are
    not). Dropouts stacked call after call give trial k a score k + 1 times as large: :func:`stacked_drift`.

    Raises:
        McdoError: for one trial, or scores whose mean is zero.

    """
    array = trials("scores", scores, least_images=2)
    if len(array) < 2:
        raise McdoError("a drift needs at least two trials; got one")
    if array.mean() == 0:
        raise McdoError("scores have mean zero, so there is no relative drift; are all sites dead?")
    sample = Sample(array.shape[1], origins, seed, resamples, level)
    number = np.arange(len(array)) - (len(array) - 1) / 2
    slope, mean = number @ array / (number**2).sum(), array.mean(axis=0)

    def drift(weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ slope) / (weights @ mean))[:, None]

    whole, draws = sample.both(drift)
    return sample.estimate(whole[0], draws[:, 0])


def stacked_drift(trials: int) -> float:
    """The :func:`trial_drift` of scores that grow as 1, 2, …, K: a slope of 1 over a mean of (K + 1)/2."""
    return 2 / (trials + 1)
