"""What is a score worth to somebody who answers only where it is low? Risk over coverage, and images of another kind.

Selective risk at coverage k/N is the share of errors among the k images of lowest score. AURC is its mean over k
(Geifman & El-Yaniv 2017), and its excess over the oracle is what a perfect order of the same errors would have saved
(Geifman, Uziel & El-Yaniv 2019). AUGRC is the mean over k of the errors among the k over all N (Traub et al. 2024), so
that an error counts the same wherever it stands. Equal scores are taken in random order: what is given is the
expectation. FPR95 is the share of foreign images that a threshold lets through which lets through 95 % of the known.

Intervals are percentile bootstraps over origins; a resample keeps its own oracle. Fewer than ``LEAST_CLASS`` origins
with errors, or of foreign images, are too few: the interval is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, flags, images
from mcdo.stats.detection import LEAST_CLASS
from mcdo.stats.resampling import Estimate, Origins
from mcdo.stats.sample import Sample
from mcdo.stats.trials import Scores

KEPT = 0.95
"""Share of the known images that FPR95 lets through."""


def aurc(
    score: ArrayLike,
    error: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Area under the risk-coverage curve of ``score`` ([N], or [K, N], then of its mean) for ``error`` [N] of 0/1."""
    return _risk(_mean_risk, score, error, origins, seed, resamples, level)


def excess_aurc(
    score: ArrayLike,
    error: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """AURC less that of the oracle, which puts all errors last: 0 for a perfect order."""
    return _risk(_excess, score, error, origins, seed, resamples, level)


def augrc(
    score: ArrayLike,
    error: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Area under the generalised risk-coverage curve: risk of an undetected error, averaged over coverage."""
    return _risk(_mean_generalised_risk, score, error, origins, seed, resamples, level)


def fpr95(
    known: ArrayLike,
    foreign: ArrayLike,
    *,
    known_origins: Origins | None = None,
    foreign_origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Share of ``foreign`` scores [M] at or below the lowest threshold that holds 95 % of the ``known`` [N].

    Smaller is better; scores are [N] or [K, N], then of their means. Both sets are resampled by their origins.
    """
    (a,), (b,) = (Scores.of({"scores": each}, shared_noise=False, least=1).means for each in (known, foreign))
    samples = (
        Sample(len(a), known_origins, seed, resamples, level),
        Sample(len(b), foreign_origins, seed + 1, resamples),
    )
    n = min(sample.n for sample in samples)
    value = float(_passed(a, b, *(np.ones((1, len(each))) for each in (a, b)))[0])
    if n < LEAST_CLASS:
        return Estimate(value, math.nan, math.nan, n, level)
    weights = [
        sample.units.multiplicities(resamples, seed + place).astype(np.float64) for place, sample in enumerate(samples)
    ]
    found = samples[0].estimate(value, _passed(a, b, *weights))
    return Estimate(found.value, found.low, found.high, n, level)


def _passed(known: Array, foreign: Array, known_weights: Array, foreign_weights: Array) -> Array:
    """FPR95 in each of R resamples, from the multiplicities [R, N] and [R, M]."""
    order = np.argsort(known, kind="stable")
    held = np.cumsum(known_weights[:, order], axis=1)
    place = (held >= KEPT * held[:, -1:] - 1e-9).argmax(axis=1)
    thresholds = known[order][place]
    through = foreign[None, :] <= thresholds[:, None]
    return np.asarray((through * foreign_weights).sum(axis=1) / foreign_weights.sum(axis=1))


def _risk(
    figure: Callable[[NDArray[np.float64]], float],
    score: ArrayLike,
    error: ArrayLike,
    origins: Origins | None,
    seed: int,
    resamples: int,
    level: float,
) -> Estimate:
    (mean,) = Scores.of({"score": score}, shared_noise=False, least=1).means
    wrong = flags("error", images(1, score=mean, error=error)[1])
    sample = Sample(len(mean), origins, seed, resamples, level)
    order = np.argsort(mean, kind="stable")
    ties = np.unique(mean[order], return_inverse=True)[1]
    held = wrong[order].astype(np.float64)

    def of(multiplicities: Array) -> float:
        times = multiplicities[order].astype(np.intp)
        groups, errors = np.repeat(ties, times), np.repeat(held, times)
        counts = np.bincount(groups)
        expected = np.divide(np.bincount(groups, errors), counts, where=counts > 0, out=np.zeros(len(counts)))
        return figure(expected[groups])

    value = of(np.ones(len(mean)))
    with_errors = len(np.unique(sample.units.members[wrong]))
    if with_errors < LEAST_CLASS:
        return Estimate(value, math.nan, math.nan, sample.n, level)
    return sample.estimate(value, np.array([of(one) for one in sample.units.multiplicities(resamples, seed)]))


def _mean_risk(errors: Array) -> float:
    return float((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())


def _mean_generalised_risk(errors: Array) -> float:
    return float(np.cumsum(errors).mean() / len(errors))


def _excess(errors: Array) -> float:
    """Errors may be expectations over equal scores; the oracle has their sum, whole errors last."""
    total = round(float(errors.sum()))
    oracle = np.concatenate([np.zeros(len(errors) - total), np.ones(total)])
    return _mean_risk(errors) - _mean_risk(oracle)


def retrieval_correct(features: ArrayLike, labels: ArrayLike, origins: Origins | None = None) -> NDArray[np.bool_]:
    """Whether the nearest neighbour of each image, by cosine among images of other origins, has its label, [N].

    URL's Recall@1 (Kirchhof et al. 2023), without the neighbours that are the same original.

    Args:
        features: [N, D].
        labels: [N].
        origins: [N]; each image its own by default.

    Raises:
        McdoError: for fewer than two origins.

    """
    x = np.asarray(features, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    named = np.arange(len(x)) if origins is None else np.unique(np.asarray(origins), return_inverse=True)[1]
    if len(np.unique(named)) < 2:
        raise McdoError("a nearest neighbour needs images of at least two origins")
    truth = np.asarray(labels)
    nearest = np.empty(len(x), dtype=np.intp)
    for start in range(0, len(x), 1024):
        part = slice(start, start + 1024)
        likeness = x[part] @ x.T
        likeness[named[part, None] == named[None, :]] = -np.inf
        nearest[part] = likeness.argmax(axis=1)
    return np.asarray(truth[nearest] == truth)
