"""Does one estimator say what another says, of the same images? Its ranking and its level are two statements.

The ranking decides whether a cheap estimator may take the other's place where images are ranked; the level, whether its
numbers may be read as the other's. Noise of either estimator lowers the raw rank correlation, so that of noise-free
scores decides, by :func:`~mcdo.stats.disattenuated_spearman` or :func:`~mcdo.stats.rank_matrix`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, trial_mean, trials
from mcdo.stats.association import spearman
from mcdo.stats.attenuation import disattenuated_spearman
from mcdo.stats.means import median_ratio
from mcdo.stats.rank_matrix import rank_matrix
from mcdo.stats.resampling import Estimate, IntervalOutcome, Origins
from mcdo.stats.sample import Inferred
from mcdo.stats.trials import widened, without_each

LEVEL_BAND = (0.8, 1.25)
"""Median ratio that counts as the same level."""
RANKING_BAR = 0.9
"""Corrected rank correlation that counts as the same ranking."""


@dataclass(frozen=True)
class Agreement:
    """What :func:`agreement` found.

    Attributes:
        ratio: median over images of one mean score over the other.
        spearman: rank correlation of the means over trials.
        corrected: the same of noise-free scores; it can lie above 1.

    """

    ratio: Estimate
    spearman: Estimate
    corrected: Estimate

    @property
    def ranking(self) -> IntervalOutcome:
        """Whether the corrected correlation reaches :data:`RANKING_BAR`."""
        return self.corrected.outcome(RANKING_BAR, ">=")

    @property
    def level(self) -> IntervalOutcome:
        """Whether the ratio lies in :data:`LEVEL_BAND`."""
        low, high = LEVEL_BAND
        ends = {self.ratio.outcome(low, ">="), self.ratio.outcome(high, "<=")}
        return "not met" if "not met" in ends else "undecided" if "undecided" in ends else "met"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        figures = {"ratio": self.ratio, "spearman": self.spearman, "spearman_corrected": self.corrected}
        return {
            **{name: estimate.as_dict() for name, estimate in figures.items()},
            "ranking": self.ranking,
            "level": self.level,
        }

    def __str__(self) -> str:
        return f"ratio {self.ratio}, Spearman corrected {self.corrected} (raw {self.spearman})"


def agreement(
    scores: ArrayLike,
    others: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Agreement:
    """``scores`` [K, N] beside ``others`` [L, N] of the same images; L = 1 stands for scores without noise.

    Percentile bootstrap over origins. ``shared_noise`` says that images of a trial of ``others`` share its noise, as
    they do the probes of first order; intervals are then widened by its trials, see :mod:`mcdo.stats.trials`. That of
    ``scores`` is each image's own. The correction is undefined (NaN) where a reliability is not positive, and for one
    trial of ``scores``.

    Raises:
        McdoError: for other shapes, other scores of zero, which have no ratio, or shared noise of too few trials.

    """
    a, b = trials("scores", scores), trials("others", others)
    if a.shape[1] != b.shape[1]:
        raise McdoError(f"scores of {a.shape[1]} and of {b.shape[1]} images; give both for the same images")
    if (b.mean(axis=0) == 0).any():
        raise McdoError(f"the other score of image {int((b.mean(axis=0) == 0).argmax())} is zero: there is no ratio")
    how: dict[str, Any] = {"origins": origins, "seed": seed, "resamples": resamples, "level": level}
    mean = trial_mean(a)
    raw = spearman(mean, b, shared_noise=shared_noise, **how)
    corrected = _corrected(a, b, raw, how)
    if shared_noise:
        left = [_corrected(a, one, raw, {**how, "resamples": 1}).value for (one,) in without_each([b])]
        corrected = widened(Inferred(corrected, math.nan), np.array(left), (-math.inf, math.inf)).estimate
    return Agreement(median_ratio(mean, b, shared_noise=shared_noise, **how), raw, corrected)


def _corrected(scores: Array, others: Array, raw: Estimate, how: dict[str, Any]) -> Estimate:
    if len(scores) < 2:
        return replace(raw, value=math.nan, low=math.nan, high=math.nan)
    if len(others) == 1:
        return disattenuated_spearman(scores, others[0], **how)
    return rank_matrix({"scores": scores, "others": others}, **how).pair("disattenuated", "scores", "others")
