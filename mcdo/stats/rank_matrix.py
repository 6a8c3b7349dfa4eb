"""Do several scores rank the images alike? Spearman matrices, raw and corrected for the scores' own noise.

A raw correlation between two noisy scores is low even when their noise-free values agree. The correction divides by
the reliabilities (Spearman 1904): both numerator and denominators are mean rank correlations between *single* trials,
r_ab = mean ρ(a_k, b_l) over k ≠ l, r_aa and r_bb over pairs of trials of one score, and ρ = r_ab/√(r_aa r_bb). Trials
with the same number are left out of the numerator, because scores whose masks are keyed alike may share noise there;
the raw correlation is that of the means over trials and may hold such shared noise. The correction is exact for
Pearson's r and an approximation for ranks: in simulation (normal, r = .8, which is .786 for ranks, single-trial
reliability .5, N = 1000, K = 3) the corrected mean was .799, the raw one .58.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, trial_mean, trials
from mcdo.stats.association import as_ranks, nearly_constant
from mcdo.stats.attenuation import no_correction
from mcdo.stats.comparison import Difference, differences
from mcdo.stats.resampling import Estimate, Origins, correlation, rank_covariance
from mcdo.stats.sample import Figures, Inferred, Sample
from mcdo.stats.trials import shared_trials, widened, without_each

Pair = tuple[str, str]


@dataclass(frozen=True)
class RankMatrix:
    """What :func:`rank_matrix` found among the scores ``names``; pairs are in the order of ``names``.

    Attributes:
        names: the scores.
        raw: Spearman of the means over trials.
        disattenuated: the same corrected for noise, not clipped at 1; NaN where K = 1, or a reliability is not
            positive at ``level`` (the correction would divide by noise).
        reliability: mean rank correlation between two trials of a score; NaN for K = 1.
        reliability_difference: of each pair, second less first, on the same images.

    """

    names: tuple[str, ...]
    raw: dict[Pair, Estimate]
    disattenuated: dict[Pair, Estimate]
    reliability: dict[str, Estimate]
    reliability_difference: dict[Pair, Difference]

    def pair(self, kind: str, first: str, second: str) -> Estimate:
        """``raw`` or ``disattenuated`` for two names in either order."""
        table: dict[Pair, Estimate] = getattr(self, kind)
        return table[first, second] if (first, second) in table else table[second, first]

    def values(self, kind: str) -> Array:
        """Values [M, M] of ``raw`` or ``disattenuated``, symmetric, ones on the diagonal."""
        M = len(self.names)
        matrix = np.eye(M)
        for i, j in itertools.combinations(range(M), 2):
            matrix[i, j] = matrix[j, i] = self.pair(kind, self.names[i], self.names[j]).value
        return matrix

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; pairs are written ``first~second``."""
        return {
            "names": list(self.names),
            "spearman": {_joined(pair): e.as_dict() for pair, e in self.raw.items()},
            "spearman_disattenuated": {_joined(pair): e.as_dict() for pair, e in self.disattenuated.items()},
            "trial_spearman_mean": {name: e.as_dict() for name, e in self.reliability.items()},
            "trial_spearman_difference": {
                _joined(pair): d.as_dict() for pair, d in self.reliability_difference.items()
            },
        }


def rank_matrix(
    scores: Mapping[str, ArrayLike],
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> RankMatrix:
    """Rank correlations among ``scores``, each [K, N] on the same N images in the same order; K may differ.

    Intervals are percentile intervals of a bootstrap over origins, which holds the trials' noise as long as that is
    independent from origin to origin; with ``shared_noise`` they are widened by the trials, see
    :mod:`mcdo.stats.trials`. Differences of reliabilities have p as in :class:`~mcdo.stats.Inferred`, with Holm over
    all pairs.

    Raises:
        McdoError: for fewer than two scores, other numbers of images, or shared noise of too few trials.

    """
    held = {name: trials(name, values) for name, values in scores.items()}
    sizes = {name: array.shape[1] for name, array in held.items()}
    if len(held) < 2 or len(set(sizes.values())) > 1:
        raise McdoError(f"a rank matrix needs two or more scores of the same images; got {sizes}")
    names, sample = tuple(held), Sample(next(iter(sizes.values())), origins, seed, resamples, level)
    if shared_noise:
        shared_trials({name: len(array) for name, array in held.items()})
    whole, drawn = (_Figures(r, _spans(held)) for r in sample.both(_correlating(held)))
    left = [dict(zip(names, each, strict=True)) for each in without_each([*held.values()])] if shared_noise else []
    without = [_Figures(sample.whole(_correlating(each)), _spans(each)) for each in left]

    coarse = {name: nearly_constant([trial_mean(array)], sample.units) for name, array in held.items()}

    def inferred(pick: Callable[[_Figures], Array], bounds: tuple[float, float], *names: str) -> Inferred:
        reason = next((coarse[name] for name in names if coarse[name]), "")
        found = as_ranks(sample.inferred(float(pick(whole)), pick(drawn)), sample.units, reason)
        return widened(found, np.array([pick(one) for one in without]), bounds) if without else found

    def raw(a: str, b: str) -> Estimate:
        return inferred(lambda figures: figures.means(a, b), (-1, 1), a, b).estimate

    def corrected(a: str, b: str) -> Estimate:
        if np.isnan(drawn.corrected(a, b)).mean() > (1 - level) / 2:
            weak = [name for name in (a, b) if np.mean(drawn.within(name) > 0) < (1 + level) / 2]
            return sample.undefined(no_correction(weak or [a, b])).estimate
        return inferred(lambda figures: figures.corrected(a, b), (-math.inf, math.inf), a, b).estimate

    def within(name: str) -> Estimate:
        return inferred(lambda figures: figures.within(name), (-1, 1), name).estimate

    def gap(first: str, second: str) -> Inferred:
        return inferred(lambda figures: figures.within(second) - figures.within(first), (-2, 2), first, second)

    pairs = list(itertools.combinations(names, 2))
    return RankMatrix(
        names=names,
        raw={pair: raw(*pair) for pair in pairs},
        disattenuated={pair: corrected(*pair) for pair in pairs},
        reliability={name: within(name) for name in names},
        reliability_difference=differences(pairs, [gap(*pair) for pair in pairs]),
    )


def _correlating(held: Mapping[str, Array]) -> Figures:
    """Correlations [rows, rows] of all trials and of the means over trials."""
    rows = np.concatenate([*held.values(), [trial_mean(array) for array in held.values()]])
    return lambda weights: correlation(rank_covariance(rows, weights))


def _spans(held: Mapping[str, Array]) -> dict[str, tuple[range, int]]:
    """Of each score: the rows of its trials, and the row of its mean."""
    ends = np.cumsum([len(array) for array in held.values()])
    return {
        name: (range(int(end) - len(array), int(end)), int(ends[-1]) + place)
        for place, ((name, array), end) in enumerate(zip(held.items(), ends, strict=True))
    }


class _Figures:
    """Figures from correlation matrices ``r`` [..., rows, rows] of all trials and means; each is [...]."""

    def __init__(self, r: Array, spans: Mapping[str, tuple[range, int]]) -> None:
        self.r, self.spans = r, spans

    def means(self, a: str, b: str) -> Array:
        return np.asarray(self.r[..., self.spans[a][1], self.spans[b][1]])

    def within(self, name: str) -> Array:
        return self._mean(itertools.combinations(self.spans[name][0], 2))

    def corrected(self, a: str, b: str) -> Array:
        first, second = self.spans[a][0], self.spans[b][0]
        across = self._mean((i, j) for k, i in enumerate(first) for m, j in enumerate(second) if k != m)
        shared = self.within(a) * self.within(b)
        positive = (self.within(a) > 0) & (self.within(b) > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(positive, across / np.sqrt(np.abs(shared)), np.nan)

    def _mean(self, cells: Any) -> Array:
        picked = np.array(list(cells), dtype=np.intp).reshape(-1, 2)
        if not len(picked):
            return np.full(self.r.shape[:-2], np.nan)
        return np.asarray(self.r[..., picked[:, 0], picked[:, 1]].mean(axis=-1))


def _joined(pair: Pair) -> str:
    return "~".join(pair)
