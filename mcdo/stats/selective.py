"""What is a score worth to somebody who answers only where it is low? Risk over coverage, and images of another kind.

Selective risk at coverage k/N is the share of errors among the k images of lowest score. AURC is its mean over k
(Geifman & El-Yaniv 2017), and its excess over the oracle is what a perfect order of the same errors would have saved
(Geifman, Uziel & El-Yaniv 2019). AUGRC is the mean over k of the errors among the k over all N (Traub et al. 2024), so
that an error counts the same wherever it stands. Equal scores are taken in random order: what is given is the
expectation. FPR95 is the share of foreign images that a threshold lets through which lets through 95 % of the known.

Intervals are on the logit scale, Student's t with the spread of bootstraps over origins; a resample keeps its own
oracle. Percentiles of the same bootstraps are too low: with 20 errors among 100 images they cover .88 to .91 for AURC
and its excess where these cover .94 to .95, and with 10 origins of foreign images .85 to .91 for FPR95 where these
cover .92 to .96 (docs/coverage.md has all). Origins count as Kish's number of them (1965): one of 300 with half of the
images leaves four, and with 300 the intervals covered .80 to .85 where they cover .99. A perfect order is one in all
its resamples, so its excess has no interval; an FPR95 of 0 or 1 has Wilson's at the number of origins of foreign
images, where its resamples do not reach further. Fewer than ``LEAST_CLASS`` origins with errors, without any, or of
foreign images, are too few: the interval is NaN.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo import arguments
from mcdo.compiled import compiled, in_parts
from mcdo.errors import McdoError
from mcdo.stats._checks import Array, finite, flags, images, numbers
from mcdo.stats.detection import LEAST_CLASS, too_few_of_a_class
from mcdo.stats.resampling import Estimate, Origins, percentile_estimate, proportion
from mcdo.stats.sample import Figures, Inferred, Sample, spread
from mcdo.stats.trials import Resampled, Scores, infer

AREAS = ("aurc", "excess_aurc", "augrc")
_ROUNDING = 1e-12
KEPT = 0.95
"""Share of the known images that FPR95 lets through."""


def risk_areas(
    score: ArrayLike,
    error: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Areas of ``score`` ([N], or [K, N], then of its mean) for ``error`` [N] of 0/1, by the names of :data:`AREAS`.

    aurc: under the risk-coverage curve. excess_aurc: that less the oracle's, which puts all errors last; 0 for a
    perfect order. augrc: under the generalised curve, the risk of an undetected error averaged over coverage.
    """
    scores = Scores.of({"score": score}, shared_noise=shared_noise, least=1)
    N = scores.means.shape[1]
    wrong = flags("error", images(1, score=scores.means[0], error=error)[1])
    sample = Sample(N, origins, seed, resamples, level)
    areas = _Areas(sample, lambda held: _areas(held[0], wrong), (0.0, 1.0))
    if reason := too_few_of_a_class(wrong, sample.units, "errors", "right ones"):
        values = areas.values(scores.means).tolist()
        found = [Estimate(value, math.nan, math.nan, sample.n, level, reason) for value in values]
    else:
        found = [each.estimate for each in infer(areas, scores)]
    return dict(zip(AREAS, found, strict=True))


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
    seed = arguments.seed(seed)
    (a,), (b,) = (Scores.of({"scores": each}, shared_noise=False, least=1).means for each in (known, foreign))
    samples = (
        Sample(len(a), known_origins, seed, resamples, level),
        Sample(len(b), foreign_origins, seed + 1, resamples),
    )
    n = min(sample.n for sample in samples)
    value = float(_passed(a, b, *(np.ones((1, len(each))) for each in (a, b)))[0])
    if n < LEAST_CLASS:
        return Estimate(value, math.nan, math.nan, n, level, f"{n} origins of a kind; {LEAST_CLASS} are needed")
    most = 32 * max(len(a), len(b))  # what is made of the weights is several times as large
    weights = (sample.units.in_blocks(resamples, seed + place, most) for place, sample in enumerate(samples))
    draws = np.concatenate([_passed(a, b, *each) for each in zip(*weights, strict=True)])
    if 0 < value < 1:
        worth = min(sample.units.effective for sample in samples)
        return _on_logits(value, draws, n, worth, level, least=1 / (2 * len(b))).estimate
    drawn, M = percentile_estimate(value, draws, n, level), int(samples[1].units.effective)
    seen = proportion(round(value) * M, M, level=level)
    return replace(drawn, low=min(drawn.low, seen.low), high=max(drawn.high, seen.high))


def _passed(known: Array, foreign: Array, known_weights: Array, foreign_weights: Array) -> Array:
    """FPR95 in each of R resamples, from the multiplicities [R, N] and [R, M]."""
    order = np.argsort(known, kind="stable")
    held = np.cumsum(known_weights[:, order], axis=1)
    place = (held >= KEPT * held[:, -1:] - 1e-9).argmax(axis=1)
    thresholds = known[order][place]
    through = foreign[None, :] <= thresholds[:, None]
    return np.asarray((through * foreign_weights).sum(axis=1) / foreign_weights.sum(axis=1))


class _Areas(Resampled):
    def inferred(self, scores: Array) -> list[Inferred]:
        whole, draws = self.sample.both(self.of(scores), self.size)
        least = 1 / (2 * self.sample.images**2)  # of an error among the images of all coverages
        return [
            _on_logits(float(value), draws[:, i], self.sample.n, self.sample.units.effective, self.sample.level, least)
            for i, value in enumerate(whole)
        ]


def _on_logits(value: float, draws: Array, n: int, worth: float, level: float, least: float) -> Inferred:
    """A figure within [0, 1] with its interval from the spread of ``draws``, which are kept ``least`` from the edges.

    The n origins are ``worth`` fewer where few of them have most of the images (Kish). A value at an edge has no logit,
    and no interval.
    """
    if not 0 < value < 1:
        return Inferred(Estimate(value, math.nan, math.nan, n, level, "a perfect order, as in all resamples"), math.nan)
    freedom = max(1.0, worth - 1)
    inflated = math.sqrt(1 + 1 / freedom) * spread(scipy.special.logit(np.clip(draws, least, 1 - least)))
    reach = float(scipy.special.stdtrit(freedom, (1 + level) / 2)) * inflated
    low, high = scipy.special.expit(scipy.special.logit(value) + np.array([-reach, reach]))
    return Inferred(Estimate(value, float(low), float(high), n, level), inflated * value * (1 - value), freedom)


def _areas(score: Array, wrong: NDArray[np.bool_]) -> Figures:
    """:data:`AREAS` in resamples, from one order of the images.

    m images of equal score, of which e are wrong, follow on n images with s errors. In random order the k-th of them
    brings the expected errors to s + k e/m, so their risks add up to e + (s − n e/m)(H(n + m) − H(n)), with H the
    harmonic numbers; the oracle's N − E right and E wrong ones add up to E − (N − E)(H(N) − H(N − E)).
    """
    order = np.argsort(score, kind="stable")
    last = np.append(score[order[1:]] != score[order[:-1]], True)  # of its group
    short, errors = order.astype(np.int32), wrong[order]

    def of(weights: Array) -> Array:
        held = np.ascontiguousarray(weights, dtype=np.float64)
        N, E = held.sum(axis=1), held @ wrong
        H = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, N.max() + 1))])
        found = np.zeros((2, len(held)))

        def add(part: slice) -> None:
            _add_areas(short, last, errors, held[part], H, found[:, part])

        add(slice(0))  # compiles it, once for all threads
        in_parts(add, len(held))
        risk, generalised = (E + found[0]) / N, found[1] / N**2
        oracle = (E - (N - E) * (H[N.astype(np.intp)] - H[(N - E).astype(np.intp)])) / N
        excess = np.where(risk - oracle < _ROUNDING, 0.0, risk - oracle)  # a perfect order is the oracle's
        return np.stack([risk, excess, generalised], axis=1)

    return of


@compiled()
def _add_areas(
    order: NDArray[np.int32], last: NDArray[np.bool_], wrong: NDArray[np.bool_], weights: Array, H: Array, found: Array
) -> None:
    """The two sums over groups of equal score, a resample at a time."""
    for draw in range(len(weights)):
        weight = weights[draw]
        n, s, m, e = 0, 0.0, 0.0, 0.0
        risk, generalised = 0.0, 0.0
        for place in range(len(order)):
            mass = weight[order[place]]
            m += mass
            if wrong[place]:
                e += mass
            if last[place] and m > 0:
                upto = n + int(m)
                risk += (s - n * e / m) * (H[upto] - H[n])
                generalised += m * s + e * (m + 1) / 2
                n, s, m, e = upto, s + e, 0.0, 0.0
        found[0, draw], found[1, draw] = risk, generalised


def retrieval_correct(features: ArrayLike, labels: ArrayLike, origins: Origins | None = None) -> NDArray[np.bool_]:
    """Whether the nearest neighbour of each image, by cosine among images of other origins, has its label, [N].

    URL's Recall@1 (Kirchhof et al. 2023), without the neighbours that are the same original.

    Args:
        features: [N, D].
        labels: [N].
        origins: [N]; each image its own by default.

    Raises:
        McdoError: for fewer than two origins, other numbers of labels or origins than features, and features that are
            not finite or zero, which have no direction.

    """
    x = numbers("features", features)
    if x.ndim != 2:
        raise McdoError(f"features have shape {list(x.shape)}; give [N, D]")
    finite("features", x, ("image", "dimension"))
    for name, given in (("labels", labels), ("origins", origins)):
        if given is not None and np.shape(given) != (len(x),):
            raise McdoError(f"{name} have shape {list(np.shape(given))} for {len(x)} images; give one per image")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise McdoError(f"the feature of image {int(length.argmin())} is zero: it has no direction, and no neighbour")
    x = x / length
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
