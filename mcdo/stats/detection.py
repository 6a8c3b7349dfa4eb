"""Does the score pick out the images that it should? The area under the ROC curve, by the bootstrap over origins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.stats._checks import Array, flags, images
from mcdo.stats.resampling import Estimate, Origins, Ranking
from mcdo.stats.sample import Figures, Sample


def auroc(
    score: ArrayLike,
    positive: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """P(score of a positive > score of a negative) + P(equal)/2, the area under the ROC curve (Hanley & McNeil 1982).

    ``score`` [N], ``positive`` [N] of 0/1 or bool. One class only: NaN. Resamples with one class are left out of
    the interval.
    """
    values, labels = images(1, score=score, positive=positive)
    sample = Sample(len(values), origins, seed, resamples, level)
    whole, draws = sample.both(area_figures(values[None], flags("positive", labels)[None]), len(values))
    return sample.estimate(whole[0], draws[:, 0])


def auroc_high(score: ArrayLike, target: ArrayLike, quantile: float = 0.9, **resampling: Any) -> Estimate:
    """AUROC of ``score`` for ``target`` at or above its own quantile (linear interpolation), as the sample sets it."""
    score, target = images(1, score=score, target=target)
    return auroc(score, target >= np.quantile(target, quantile), **resampling)


def auroc_low(score: ArrayLike, target: ArrayLike, quantile: float = 0.1, **resampling: Any) -> Estimate:
    """AUROC of ``score`` for ``target`` at or below its own quantile (linear interpolation), as the sample sets it."""
    score, target = images(1, score=score, target=target)
    return auroc(score, target <= np.quantile(target, quantile), **resampling)


def area_figures(scores: Array, positive: NDArray[np.bool_]) -> Figures:
    """AUROC of each of ``scores`` [S, N] for each of ``positive`` [P, N] as functions of multiplicities: [R, S P].

    The area is (mean rank of the positives − mean rank of all)/(number of negatives) + 1/2.
    """
    truth, rankings = positive.T.astype(np.float64), [Ranking(row) for row in scores]

    def of(weights: Array) -> Array:
        n = weights @ truth
        cells = n * (weights.sum(axis=1, keepdims=True) - n)
        ranks = [(weights * ranking.centred(weights)) @ truth for ranking in rankings]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.concatenate([rank / cells + 0.5 for rank in ranks], axis=1)

    return of
