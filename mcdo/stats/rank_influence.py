"""How much each image moves Spearman's ρ: influence values, in place of ranking every resample anew.

ρ is a smooth function of three averages over images, so a resample moves it by the mean of its images' influence
values up to O(1/N) (Hampel 1974; the infinitesimal jackknife, Efron 1982). One sort per trial then serves all pairs
and all resamples.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mcdo.stats._checks import Array, places_of_pairs
from mcdo.stats.confidence import Confidence
from mcdo.stats.ranks import ordered, ranked
from mcdo.stats.resampling import multiplicities


def spearman_influence(scores: Array) -> tuple[Array, Array]:
    """ρ of all K(K − 1)/2 pairs of rows of ``scores`` [K, N], [P], and the influence of each image on it, [P, N].

    With F_k the mid-distribution of row k less ½ and C_kl = mean(F_k F_l), the influence on C_kl of image i is
    F_k F_l + mean_j(1{x_kj > x_ki} F_lj) + mean_j(1{x_lj > x_li} F_kj), ties counting half, less its mean. Influences
    have mean zero. Pairs with a constant row are NaN.
    """
    K, N = scores.shape
    orders = [ordered(row) for row in scores]
    F = (np.stack([ranked(*each) for each in orders]) - (N + 1) / 2) / N
    moved = np.stack([_moved(*each, F) for each in orders])
    first, second = places_of_pairs(K)
    both = F[first] * F[second] + moved[first, second] + moved[second, first]
    own = F**2 + 2 * moved[np.arange(K), np.arange(K)]
    both -= both.mean(axis=1, keepdims=True)
    own -= own.mean(axis=1, keepdims=True)
    variance = (F**2).mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(variance[first] * variance[second])
        rho = (F[first] * F[second]).mean(axis=1) / scale
        relative = own / variance[:, None]
        influence = both / scale[:, None] - rho[:, None] / 2 * (relative[first] + relative[second])
    return np.clip(rho, -1, 1), influence


def spearman_confidence(
    pairs: Array, moves: Array, effective: float, trials: int, shared: float, resamples: int, seed: int
) -> Confidence:
    """Confidence in the median of ``pairs`` [P], which sampled unit u moves by ``moves`` [P, n].

    ``effective`` is the number of units that counts, n where they are as large; of it are the degrees of freedom.

    ``shared`` is the share of the noise that images of one trial have in common. A ranking that repeats exactly has no
    spread to resample: it is taken one exchange of two neighbours short of that, with the standard error of normal
    scores (Bonett & Wright 2000), which three units do not have.
    """
    n, rho, freedom = moves.shape[1], float(np.median(pairs)), max(1.0, effective - 1)
    draws = np.median(pairs + multiplicities(n, resamples, seed) @ moves.T, axis=1)
    error = float(draws.std()) * math.sqrt((freedom + 1) / freedom)
    if error > 0 and abs(rho) < 1:
        error /= 1 - rho**2
        return Confidence(math.atanh(rho), error, error, freedom, "z", trials, shared)
    near = math.copysign(max(0.0, 1 - 12 / (n * (n**2 - 1))), rho)
    error = math.sqrt((1 + near**2 / 2) / (n - 3)) if n > 3 else math.inf
    below, above = (math.inf if rho == side else error for side in (-1, 1))
    return Confidence(math.atanh(near), below, above, freedom, "z", trials, shared)


def _moved(order: NDArray[np.intp], edges: NDArray[np.intp], F: Array) -> Array:
    """mean_j(1{x_j > x_i} F_lj) for values x [N] in this order and every row l of ``F`` [K, N], ties half; [K, N]."""
    upto = below = np.cumsum(F[:, order], axis=1)
    if tied := len(edges) <= len(order):
        upto = below[:, edges[1:] - 1]  # sum over all values <= that of the group
    inside = np.diff(upto, axis=1, prepend=0.0)
    groups = (below[:, -1:] - upto + inside / 2) / F.shape[1]
    found = np.empty_like(F)
    found[:, order] = groups.repeat(np.diff(edges), axis=1) if tied else groups
    return found
