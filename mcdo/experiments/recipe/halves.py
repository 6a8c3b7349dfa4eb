"""Clean and degraded images, by what each site contributes, in two halves of the origins: one chooses, one reports.

Every candidate is a vector of weights over sites, so its score is a product, and whether it rises from a clean image
to its degraded copy is the sign of a product with the difference of the two: one first-order run of each image set
serves them all. Arrays hold sums over the feature, [trials, images, sites], never the feature's dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import Estimate, Inferred, mean_shares
from mcdo.stats.mean_differences import t_inferred
from mcdo.stats.paired import rise
from mcdo.stats.rank_influence import spearman_influence
from mcdo.stats.resampling import Units
from mcdo.stats.signal_noise import icc_from_snr, signal_noise
from mcdo.stats.status import status_of
from mcdo.stats.trials import widened

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]
_TOGETHER = 64
"""Candidates whose scores are held at once."""


@dataclass(frozen=True, eq=False)
class Half:
    """One score of n images, by site.

    Attributes:
        clean: what each site contributes for the clean images, [K, n, S].
        rise: by degradation, the same of the degraded images less that of the clean ones, [K, n, S].
        origins: of the images.
        shared_noise: whether images of a trial share its noise, as they do first order's probes.
        flips: by degradation, images whose clean and degraded copies are exchanged, [n]; for a null.

    """

    clean: Array
    rise: Mapping[str, Array]
    origins: tuple[str, ...]
    shared_noise: bool = True
    flips: Mapping[str, Rows] = field(default_factory=dict)
    _relative: dict[str, Array] = field(default_factory=dict, repr=False)

    def rows(self, take: Rows) -> Half:
        """Some of the images."""
        return Half(
            self.clean[:, take],
            {spec: of[:, take] for spec, of in self.rise.items()},
            tuple(origin for origin, kept in zip(self.origins, take, strict=True) if kept),
            self.shared_noise,
            {spec: of[take] for spec, of in self.flips.items()},
        )

    def flipped(self, flips: Mapping[str, Rows]) -> Half:
        """With clean and degraded copies exchanged where ``flips`` say so."""
        return replace(self, flips=flips)

    def scores(self, weights: Array) -> Array:
        """Of the clean images, [K, n]."""
        return np.asarray(self.clean @ weights)

    def raised(self, weights: Array, specs: Sequence[str]) -> Array:
        """Share of ``specs`` that raise each image's score, in each trial: [C, K, n] for ``weights`` [C, S]."""
        C, (K, n) = len(weights), self.clean.shape[:2]
        found = np.zeros((C, K, n))
        for start in range(0, C, _TOGETHER):
            part = np.ascontiguousarray(weights[start : start + _TOGETHER].T)
            for spec in specs:
                found[start : start + _TOGETHER] += self._up(spec, self.rise[spec] @ part)
        return found / len(specs)

    def relative_rise(self, spec: str) -> Array:
        """(degraded − clean)/(degraded + clean) of each image, site by site over the sum of all: [n, S].

        Computed once, also where copies are then exchanged.
        """
        if spec not in self._relative:
            clean, rise = self.clean.mean(axis=0), self.rise[spec].mean(axis=0)
            self._relative[spec] = rise / (2 * clean.sum(axis=1) + rise.sum(axis=1))[:, None]
        found = self._relative[spec]
        return np.where(self.flips[spec][:, None], -found, found) if spec in self.flips else found

    def _up(self, spec: str, rise: Array) -> Array:
        """[K, n, C] to 1 where it rises, [C, K, n]; ties are no rise, whichever copy is called degraded."""
        up = rise > 0
        if spec in self.flips:
            flip = self.flips[spec][None, :, None]
            up = np.where(flip, rise < 0, up)
        return np.asarray(np.moveaxis(up, -1, 0), dtype=np.float64)

    def status(self, weights: Array) -> str:
        """Of the clean images' scores over trials, by their point estimates: "usable" and so on."""
        scores = self.scores(weights)
        if len(scores) < 2:
            return "insufficient_trials"
        (signal, noise), K = signal_noise(scores), len(scores)
        snr = signal / noise if noise > 0 else math.inf if signal > 0 else math.nan
        rho = float(np.median(spearman_influence(scores)[0]))
        return status_of(rho, snr, icc_from_snr(snr, K))


def lower_ends(raised: Array, half: Half, level: float = 0.95) -> Array:
    """Lower end of the interval of each candidate's share raised, [C], from ``raised`` [C, K, n].

    That of :func:`share_raised`, for many candidates at once.
    """
    p, low, _, _ = mean_shares(raised.mean(axis=1), origins=half.origins, level=level)
    K = raised.shape[1]
    if not half.shared_noise or K < 2:
        return low
    reach = scipy.special.stdtrit(K - 1, (1 + level) / 2) * raised.mean(axis=2).std(axis=1, ddof=1) / math.sqrt(K)
    return np.asarray(np.maximum(0.0, p - np.hypot(p - low, reach)))


def share_raised(raised: Array, half: Half, level: float = 0.95) -> Estimate:
    """The mean of ``raised`` [K, n], over origins and, where images share noise, over trials."""
    return shares_raised(raised[None], half, level)[0]


def shares_raised(raised: Array, half: Half, level: float = 0.95) -> list[Estimate]:
    """The same of each of ``raised`` [C, K, n]."""
    p, low, high, n = mean_shares(raised.mean(axis=1), origins=half.origins, level=level)
    ends = zip(p.tolist(), low.tolist(), high.tolist(), strict=True)
    found = [Inferred(Estimate(*each, n, level), math.nan) for each in ends]
    return [_over_trials(one, each, half, (0.0, 1.0)).estimate for one, each in zip(found, raised, strict=True)]


def difference(raised: Array, other: Array, half: Half, level: float = 0.95) -> Inferred:
    """The mean of ``raised`` [K, n] less that of ``other`` ([K, n], or [1, n] of a score without trials), paired."""
    paired = raised - other
    found = t_inferred(paired.mean(axis=0), Units.of(half.origins, paired.shape[1]), level)
    return _over_trials(found, paired, half, (-1.0, 1.0))


def _over_trials(found: Inferred, values: Array, half: Half, bounds: tuple[float, float]) -> Inferred:
    if not half.shared_noise or len(values) < 2:
        return found
    of_trials = values.mean(axis=1)
    return widened(found, (of_trials.sum() - of_trials) / (len(of_trials) - 1), bounds)


@dataclass(frozen=True, eq=False)
class Baseline:
    """A score that needs no perturbation: of the clean images [N], and of each degraded set."""

    clean: Array
    degraded: Mapping[str, Array]

    def raised(self, specs: Sequence[str], take: Rows, flips: Mapping[str, Rows], sign: int) -> Array:
        """As :meth:`Half.raised`, [1, n], of the images ``take``, read upwards or downwards."""
        found = np.zeros(int(take.sum()))
        for spec in specs:
            up = sign * rise(self.degraded[spec], self.clean)[take]
            found += np.where(flips[spec], up < 0, up > 0) if spec in flips else up > 0
        return found[None] / len(specs)


def check_apart(choosing: Sequence[str], reporting: Sequence[str]) -> None:
    """Raise McdoError where an origin would be both chosen on and reported on."""
    both = set(choosing) & set(reporting)
    if both:
        raise McdoError(f"{len(both)} origins ({min(both)}, ...) are in both halves: what is chosen on one is reported")
