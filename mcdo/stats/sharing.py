"""Do images of one trial share a part of their noise? Common masks, common probes and drifting trials make them.

A bootstrap over images cannot see such noise, for every resample holds the same trials. The trials can: with d_i [K]
the deviations of image i from its own mean over trials, independent noise makes G = Σ_i d_i d_i' a multiple of
P = I − 11'/K up to chance, while noise z_k v_i adds Σ v_i² · zz', a direction. T = G − tr(G) P/(K − 1) is what departs
from sphericity (Mauchly 1940 asks the same of repeated measures). T is a sum over sampled units of terms that have mean
zero where a unit's trials are exchangeable, whatever the noise's distribution and however it varies with the image, so
‖T‖² has expectation Σ_u ‖T_u‖² exactly, and their ratio is compared with χ²/df at the dimension of T,
df = K(K − 1)/2 − 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from mcdo.stats._checks import Array, places_of_pairs
from mcdo.stats.resampling import Units


@dataclass(frozen=True)
class Sharing:
    """``p`` of "noise is independent between units", and the ``share`` of the noise that is common to a trial.

    Two trials show nothing, for their T is zero: both are NaN.
    """

    p: float
    share: float


def noise_sharing(values: Array, units: Units) -> Sharing:
    """How much of the noise of ``values`` [K, N] is shared by the images of a trial.

    The share is that of a single direction that would make a T of the observed norm; several directions make a
    smaller T for the same variance, and are a smaller uncertainty too. Chance is not taken off: under independent noise
    it is about √((K + 1)/((K − 1) N)) rather than zero.
    """
    K = len(values)
    if K < 3:
        return Sharing(math.nan, math.nan)
    d = values - values.mean(axis=0)
    first, second = places_of_pairs(K, 0)
    twice = np.where(first == second, 1, 2)  # each pair stands for two cells of G
    cells = units.sum(d[first] * d[second])
    own = (twice @ cells**2 - cells[first == second].sum(axis=0) ** 2 / (K - 1)).sum()
    summed = cells.sum(axis=1)
    trace = summed[first == second].sum()
    if not trace > 0:
        return Sharing(1.0, 0.0)
    whole = max(0.0, twice @ summed**2 - trace**2 / (K - 1))
    freedom = K * (K - 1) / 2 - 1
    p = float(scipy.special.chdtrc(freedom, freedom * whole / own)) if own > 0 else 1.0
    direction = math.sqrt(whole / (1 - 1 / (K - 1)))
    return Sharing(p, min(1.0, direction / trace))
