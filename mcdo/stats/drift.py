"""Do scores drift from trial to trial? Trials are exchangeable, so their mean must not depend on their number."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy
from numpy.typing import ArrayLike

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, trials
from mcdo.stats.resampling import Estimate, Origins, quotients
from mcdo.stats.sample import Sample
from mcdo.stats.trials import shared_trials


def trial_drift(
    scores: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Slope of the mean score over the trial number, divided by the mean score: relative growth per trial.

    ``scores`` is [K, N], K >= 2. Least squares per image, averaged over images; the interval is a bootstrap over
    origins. With ``shared_noise`` (masks tied over images, probes) it reaches at least as far as that of a straight
    line through the trials' means, Student's t(K − 2) times its residual error, which holds all noise. Dropouts stacked
    call after call give trial k a score k + 1 times as large: :func:`stacked_drift`.

    Raises:
        McdoError: for one trial, scores whose mean is zero, or shared noise of too few trials.

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
        return quotients(weights @ slope, weights @ mean, float(mean.sum()), level)[:, None]

    whole, draws = sample.both(drift)
    found = sample.estimate(whole[0], draws[:, 0])
    if not shared_noise:
        return found
    K = shared_trials({"scores": len(array)})
    residual = array.mean(axis=1) / array.mean() - 1 - found.value * number
    error = math.sqrt(float((residual**2).sum() / (K - 2) / (number**2).sum()))
    reach = float(scipy.special.stdtrit(K - 2, (1 + level) / 2)) * error
    return replace(found, low=min(found.low, found.value - reach), high=max(found.high, found.value + reach))


def stacked_drift(trials: int) -> float:
    """The :func:`trial_drift` of scores that grow as 1, 2, …, K >= 2: a slope of 1 over a mean of (K + 1)/2."""
    return 2 / (arguments.whole("trials", trials, least=2) + 1)
