"""Arms on the same test images: metrics with intervals, paired differences with intervals and p.

Every metric here is made of sums over images (an ECE of sums within its bins), so a resample of origins is a vector of
weights and a thousand of them are one matrix product. The unit is the origin: all images made from one are drawn, or
swapped, together. Metrics are means over seeds, so an interval is over images *given* these networks; beside it stands
the interval over seeds, Student's t of the paired differences, which says what another training would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError
from mcdo.stats import Estimate, Sample, permutation_p, ratio_of_means, share
from mcdo.stats.resampling import multiplicities, percentile_estimate
from mcdo.studies.subtasks.published import mcnemar_exact

Floats = NDArray[np.float64]
METRICS = ("accuracy", "ece", "nll", "brier")
_FLOOR = 1e-300  # a probability that underflowed to 0 stays a large loss, not an infinite one


@dataclass(frozen=True, eq=False)
class Sums:
    """What an arm's metrics are made of: ``sums`` [seeds, origins, 3 + bins], ``size`` [origins] images each."""

    sums: Floats
    size: Floats

    def metrics(self, weights: Floats) -> dict[str, Floats]:
        """Each metric's mean over seeds, [R], under weights [R, origins] (multiplicities of a resample)."""
        return metrics_of(np.stack([weights @ each for each in self.sums]), weights @ self.size)


def metrics_of(totals: Floats, images: Floats) -> dict[str, Floats]:
    """Metrics [R], means over seeds, from totals [seeds, R, 3 + bins] over ``images`` [R] images."""
    share = totals / images[:, None]
    means = {"accuracy": share[..., 0], "nll": share[..., 1], "brier": share[..., 2]}
    means["ece"] = np.abs(share[..., 3:]).sum(axis=-1)
    return {name: means[name].mean(axis=0) for name in METRICS}


def sums(probabilities: ArrayLike, labels: ArrayLike, groups: ArrayLike, bins: int = 15) -> Sums:
    """From probabilities [seeds, N, C], labels [N] and the origin of each image [N]."""
    p, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    origin = np.asarray(groups, dtype=np.int64)
    if p.ndim != 3 or truth.shape != (p.shape[1],) or origin.shape != truth.shape:
        raise McdoError(f"probabilities {list(p.shape)}, labels {list(truth.shape)}: give [seeds, N, C] and [N]")
    confidence, correct = p.max(axis=2), p.argmax(axis=2) == truth
    of_truth = p[:, np.arange(len(truth)), truth]
    parts = np.zeros((*confidence.shape, 3 + bins))
    parts[..., 0] = correct
    parts[..., 1] = -np.log(np.maximum(of_truth, _FLOOR))
    parts[..., 2] = (p**2).sum(axis=2) - 2 * of_truth + 1
    edges = np.arange(1, bins + 1) / bins  # closed on the right, as in mcdo.stats.calibration
    at = np.minimum(np.searchsorted(edges, confidence, side="left"), bins - 1)
    np.put_along_axis(parts, 3 + at[..., None], (correct - confidence)[..., None], axis=2)
    total = np.zeros((len(p), int(origin.max()) + 1, 3 + bins))
    for seed, rows in enumerate(parts):
        np.add.at(total[seed], origin, rows)
    return Sums(total, np.bincount(origin).astype(np.float64))


def hit_sums(hits: ArrayLike, groups: ArrayLike) -> Sums:
    """For accuracy alone: from whether each image is right, [seeds, N], and the origin of each image [N]."""
    right, origin = np.asarray(hits, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    total = np.zeros((len(right), int(origin.max()) + 1, 4))
    for seed, row in enumerate(right):
        total[seed, :, 0] = np.bincount(origin, row)
    return Sums(total, np.bincount(origin).astype(np.float64))


def estimates(arm: Sums, seed: int, resamples: int = 1000) -> dict[str, Estimate]:
    """Each metric, its percentile bootstrap interval over origins, and their number."""
    return _estimates(arm.metrics, len(arm.size), seed, resamples)


def differences(first: Sums, second: Sums, seed: int, resamples: int = 1000) -> dict[str, Estimate]:
    """``first − second`` of each metric by the paired bootstrap: both arms see the same resampled origins."""
    _check_paired(first, second)

    def difference(weights: Floats) -> dict[str, Floats]:
        one, other = first.metrics(weights), second.metrics(weights)
        return {name: one[name] - other[name] for name in METRICS}

    return _estimates(difference, len(first.size), seed, resamples)


def seed_differences(first: Sums, second: Sums) -> dict[str, Floats]:
    """``first − second`` of each metric at each seed, [seeds]."""
    _check_paired(first, second)
    everything = np.ones((1, len(first.size)))
    each = [
        (Sums(a[None], first.size).metrics(everything), Sums(b[None], second.size).metrics(everything))
        for a, b in zip(first.sums, second.sums, strict=True)
    ]
    return {name: np.array([a[name][0] - b[name][0] for a, b in each]) for name in METRICS}


def swap_p(first: Sums, second: Sums, seed: int, permutations: int = 10_000) -> dict[str, float]:
    """Two-sided p of each difference by swapping the arms' predictions origin by origin (Fisher–Pitman).

    Under the hypothesis that the two arms are exchangeable on every origin. With one image per origin and one seed this
    is, for accuracy, McNemar's test.
    """
    _check_paired(first, second)
    G = len(first.size)
    images = np.array([first.size.sum()])
    total = first.sums.sum(axis=1, keepdims=True) + second.sums.sum(axis=1, keepdims=True)
    rng, null = np.random.default_rng(seed), []

    def gap(weights: Floats) -> dict[str, Floats]:
        mine = np.stack([weights @ a + (1 - weights) @ b for a, b in zip(first.sums, second.sums, strict=True)])
        size = np.repeat(images, len(weights))
        one, other = metrics_of(mine, size), metrics_of(total - mine, size)
        return {name: one[name] - other[name] for name in METRICS}

    for done in range(0, permutations, 1000):
        null.append(gap(rng.integers(0, 2, (min(1000, permutations - done), G)).astype(np.float64)))
    whole = np.ones((1, G))
    observed, (one, other) = gap(whole), (arm.metrics(whole) for arm in (first, second))
    return {
        name: permutation_p(
            float(observed[name][0]),
            np.concatenate([each[name] for each in null]),
            "two-sided",
            size=max(abs(float(one[name][0])), abs(float(other[name][0]))),
        )
        for name in METRICS
    }


def mcnemar(first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Images that only the first, only the second has right, of ``[N]`` independent ones, and the exact p."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise McdoError(f"shapes {list(a.shape)} and {list(b.shape)}: give the same [N] images to both")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, mcnemar_exact(only_a, only_b)


def one_per_origin(groups: ArrayLike) -> NDArray[np.intp]:
    """The first image of each origin: independent ones."""
    return np.unique(np.asarray(groups), return_index=True)[1]


def mean_among(values: ArrayLike, among: ArrayLike, groups: ArrayLike, *, seed: int, resamples: int) -> Estimate:
    """Mean of ``values`` [N] over the images in ``among`` [N]; interval over the origins, and n those that have any."""
    inside = np.asarray(among, dtype=np.float64)
    held = np.asarray(values, dtype=np.float64) * inside
    found = ratio_of_means(held, inside, origins=np.asarray(groups), seed=seed, resamples=resamples)
    return replace(found, n=_origins(among, groups))


def mean_gap(values: ArrayLike, among: ArrayLike, groups: ArrayLike, *, seed: int, resamples: int) -> Estimate:
    """Mean of ``values`` over ``among`` less the mean over all others; NaN where one of the two is empty."""
    held, inside = np.asarray(values, dtype=np.float64), np.asarray(among, dtype=np.float64)
    sample = Sample(len(held), np.asarray(groups), seed, resamples)

    def gap(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            one, other = ((weights @ (held * part)) / (weights @ part) for part in (inside, 1 - inside))
        return np.asarray(one - other)[:, None]

    whole, draws = sample.both(gap)
    return sample.estimate(whole[0], draws[:, 0])


def share_among(hit: ArrayLike, among: ArrayLike, groups: ArrayLike) -> Estimate:
    """Share of ``hit`` within ``among``, both [N], as :func:`mcdo.stats.share` gives it over the origins that have any.

    NaN where ``among`` is empty; of one origin nothing is said about others.
    """
    chosen = np.asarray(among, dtype=bool)
    n, kept = _origins(chosen, groups), np.asarray(hit, dtype=bool)[chosen]
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    if n == 1:
        return Estimate(float(kept.mean()), 0.0, 1.0, 1)
    return share(kept, origins=np.asarray(groups)[chosen])


def _origins(among: ArrayLike, groups: ArrayLike) -> int:
    return len(np.unique(np.asarray(groups)[np.asarray(among, dtype=bool)]))


def stacked(rows: Sequence[ArrayLike]) -> Floats:
    """Arrays of several seeds as one [seeds, …] array."""
    return np.stack([np.asarray(row, dtype=np.float64) for row in rows])


def _estimates(of: Callable[[Floats], dict[str, Floats]], G: int, seed: int, resamples: int) -> dict[str, Estimate]:
    values, draws = of(np.ones((1, G))), of(multiplicities(G, resamples, seed))
    return {name: percentile_estimate(float(values[name][0]), draws[name], G, 0.95) for name in METRICS}


def _check_paired(first: Sums, second: Sums) -> None:
    if first.sums.shape != second.sums.shape or not np.array_equal(first.size, second.size):
        raise McdoError(
            f"arms of {list(first.sums.shape)} and {list(second.sums.shape)} sums: compare the same images and seeds"
        )
