"""Does the score rise from a clean image to its degraded copy? Pairs of one origin are one draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo.stats._checks import Array, images
from mcdo.stats.resampling import Estimate, Origins, Units, generator, quotients
from mcdo.stats.sample import Sample
from mcdo.stats.shares import share

ROUNDING = 1e-9
"""Of a score: what two runs of the same passes may differ by, since sums over passes are cut at other T."""
FLIPS_UP_TO = 50
"""Origins up to which the null distribution of the signed ranks is that of sign flips, not the normal one."""


@dataclass(frozen=True)
class PairedIncrease:
    """What :func:`wilcoxon_increase` found over ``n`` pairs, ``ties`` of them equal."""

    p_value: float
    fraction: Estimate
    relative_change: Estimate
    n: int
    ties: int


def rise(degraded: ArrayLike, clean: ArrayLike) -> Array:
    """``degraded`` less ``clean``, of any shape; 0 where the two differ by no more than rounding.

    A degradation can leave an image as it is. Its score is then the same, and which of the two is larger in the last
    bit says nothing.
    """
    after, before = np.asarray(degraded, dtype=np.float64), np.asarray(clean, dtype=np.float64)
    return np.where(np.isclose(after, before, rtol=ROUNDING, atol=0.0), 0.0, after - before)


def wilcoxon_increase(
    degraded: ArrayLike,
    clean: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> PairedIncrease:
    """Paired test that the score of ``degraded`` [N] exceeds that of ``clean`` [N], image by image.

    p: one-sided signed-rank test, equal pairs dropped (Wilcoxon 1945), 1 when all are equal; where several pairs share
    an origin the signed-rank test for clusters of Datta & Satten (2008), see :func:`signed_rank_terms`. fraction:
    strictly greater pairs over all N, equal ones (up to rounding) not counted as increased, by
    :func:`~mcdo.stats.share`. relative_change: mean(degraded)/mean(clean) − 1, bootstrap interval; NaN when the clean
    mean is zero.
    """
    after, before = images(2, degraded=degraded, clean=clean)
    N, difference = len(after), rise(after, before)
    sample, members = Sample(N, origins, seed, resamples, level), Units.of(origins, N).members
    moved = difference != 0

    def change(weights: Array) -> Array:
        return quotients(weights @ after, weights @ before, float(before.sum()), level)[:, None] - 1

    whole, draws = sample.both(change)
    return PairedIncrease(
        _signed_rank_p(difference[moved], members[moved], seed),
        share(difference > 0, origins=origins, level=level),
        sample.estimate(whole[0], draws[:, 0]),
        N,
        int(N - moved.sum()),
    )


def signed_rank_terms(difference: Array, members: NDArray[np.intp]) -> Array:
    """Each origin's term of Datta & Satten's signed-rank statistic (JASA 2008), in the order of ``np.unique``.

    The statistic is the expected signed-rank sum over samples that take one pair of each origin: with m_u pairs in
    origin u and F_v(x) = [P(|d_v| <= x) + P(|d_v| < x)]/2 over the pairs of origin v, the term of u is the mean over
    its pairs d of sign(d)(1 + Σ_{v≠u} F_v(|d|)). Origins count alike, however many pairs they have, and may
    have sizes that go with the differences. Under the hypothesis that every origin's differences are symmetric about
    zero a term is as likely to have the other sign. With one pair per origin the terms are the signed mid-ranks.
    """
    _, unit = np.unique(members, return_inverse=True)
    counts = np.bincount(unit)
    weight = 1 / counts[unit]
    size = np.abs(difference)
    everywhere = _mid_distribution(size, np.zeros_like(unit), weight)
    inside = _mid_distribution(size, unit, weight)
    terms = np.sign(difference) * (1 + everywhere - inside) * weight
    return np.asarray(np.bincount(unit, terms), dtype=np.float64)


def _mid_distribution(values: Array, group: NDArray[np.intp], weight: Array) -> Array:
    """Weight of the smaller values of one's own group plus half that of the equal ones, oneself included."""
    order = np.lexsort((values, group))
    ordered, own = values[order], group[order]
    new_group = np.r_[True, own[1:] != own[:-1]]
    run = np.cumsum(new_group | np.r_[True, ordered[1:] != ordered[:-1]]) - 1  # runs of equal values in a group
    mass = np.bincount(run, weight[order])
    below = np.cumsum(mass) - mass
    start = below[run[np.flatnonzero(new_group)]][np.cumsum(new_group) - 1]
    found = np.empty(len(values))
    found[order] = below[run] - start + mass[run] / 2
    return found


def _signed_rank_p(difference: Array, members: NDArray[np.intp], seed: int) -> float:
    if not len(difference):
        return 1.0
    if len(np.unique(members)) == len(members):
        return float(scipy.stats.wilcoxon(difference, alternative="greater").pvalue)
    terms = signed_rank_terms(difference, members)
    if len(terms) > FLIPS_UP_TO:
        return float(scipy.stats.norm.sf(terms.sum() / math.sqrt((terms**2).sum())))
    found = scipy.stats.permutation_test(
        (terms,), np.sum, permutation_type="samples", vectorized=True, alternative="greater",
        n_resamples=9999, random_state=generator(seed),
    )  # fmt: skip
    return float(found.pvalue)
