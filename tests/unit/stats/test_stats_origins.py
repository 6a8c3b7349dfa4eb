"""What every statistic of associations owes to ``origins=``: one origin is one draw, however many images it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import (
    AmbiguityTargets,
    Estimate,
    advantages,
    ambiguity_estimates,
    ambiguity_targets,
    auroc,
    auroc_differences,
    auroc_high,
    auroc_low,
    bootstrap,
    disattenuated_spearman,
    group_differences,
    mean,
    mean_bias,
    median,
    partial_spearman,
    rank_matrix,
    rank_relations,
    ratio_of_means,
    response_curve,
    share,
    spearman,
    spearman_differences,
    trial_drift,
    trial_spearman,
    wilcoxon_increase,
)
from mcdo.stats.resampling import Units, correlation, rank_covariance
from mcdo.stats.sample import Sample, spread

Array = NDArray[Any]
Statistic = Callable[..., Any]


class Data:
    """Everything a statistic may ask for, N images; ``of(index)`` are the images of the index, in its order."""

    def __init__(self, **columns: Array) -> None:
        self.columns = columns

    @classmethod
    def drawn(cls, seed: int, N: int) -> Data:
        rng = np.random.default_rng(seed)
        hidden, logits = rng.normal(size=N), rng.normal(size=(3, N, 4))
        targets = ambiguity_targets(logits, rng.integers(0, 4, N))
        return cls(
            score=targets.entropy + rng.normal(size=N),
            other=hidden + rng.normal(size=N),
            target=hidden + rng.normal(size=N),
            norm=rng.uniform(1, 2, N) + hidden / 9,
            wrong=(hidden + rng.normal(size=N) > 0.2),
            trials=np.exp(hidden) * rng.uniform(1, 2, (3, N)),
            again=np.exp(hidden) + rng.uniform(1, 2, (2, N)),
            shift=rng.uniform(0.1, 1, (3, 2, N)) / np.sqrt([4, 16, 64])[:, None, None],
            neg_margin=targets.neg_margin,
            entropy=targets.entropy,
            correct=np.asarray(targets.correct),
            predicted=targets.predicted,
        )

    def of(self, index: Array) -> Data:
        return Data(**{name: column[..., index] for name, column in self.columns.items()})

    def __getattr__(self, name: str) -> Array:
        return self.columns[name]

    @property
    def targets(self) -> AmbiguityTargets:
        return AmbiguityTargets(self.neg_margin, self.entropy, None, self.correct, self.predicted)


def scores(d: Data) -> Mapping[str, Array]:
    return {"norm": d.norm, "score": d.score, "other": d.other}


STATISTICS: dict[str, Statistic] = {
    "spearman": lambda d, **o: spearman(d.score, d.target, **o),
    "partial_spearman": lambda d, **o: partial_spearman(d.other, d.target, d.norm, **o),
    "auroc": lambda d, *, resamples=0, **o: auroc(d.other, d.wrong, **o),
    "auroc_high": lambda d, *, resamples=0, **o: auroc_high(d.other, d.target, 0.7, **o),
    "auroc_low": lambda d, *, resamples=0, **o: auroc_low(d.other, d.target, 0.3, **o),
    "share": lambda d, *, resamples=0, **o: share(d.wrong, **o),
    "mean": lambda d, **o: mean(d.trials, **o),
    "median": lambda d, **o: median(d.score, **o),
    "ratio_of_means": lambda d, **o: ratio_of_means(d.trials, d.norm, **o),
    "trial_spearman": lambda d, **o: trial_spearman(d.trials, d.trials[::-1], **o),
    "disattenuated_spearman": lambda d, **o: disattenuated_spearman(d.trials, d.target, **o),
    "wilcoxon_increase": lambda d, **o: wilcoxon_increase(d.trials[1] + 0.1, d.trials[0], **o),
    "ambiguity_estimates": lambda d, **o: ambiguity_estimates(d.score, d.targets, d.norm, **o),
    "spearman_differences": lambda d, **o: spearman_differences(scores(d), "norm", d.target, **o),
    "auroc_differences": lambda d, *, resamples=0, **o: auroc_differences(scores(d), "norm", d.wrong, **o),
    "rank_relations": lambda d, **o: rank_relations(scores(d), {"t": d.target}, given=d.entropy, **o),
    "advantages": lambda d, **o: advantages(
        {"s": d.other}, {"n": d.norm}, follows={"t": d.target}, detects={"w": d.wrong}, **o
    ),
    "rank_matrix": lambda d, **o: rank_matrix({"a": d.trials, "b": d.again}, **o),
    "trial_drift": lambda d, **o: trial_drift(d.trials, **o),
    "mean_bias": lambda d, **o: mean_bias(d.shift, [4, 16, 64], **o),
    "response_curve": lambda d, **o: response_curve([0, 1, 2], d.trials, **o),
    "bootstrap": lambda d, **o: bootstrap(np.mean, d.score, **{"seed": 0, **o}),
}
CUTS = ("auroc_high", "auroc_low", "ambiguity_estimates")
"""Whose positives are set by a quantile of the images, which copies of images move a little."""


SHARES = ("share", "wilcoxon_increase")
"""Whose effective size is that of the origins with Student's t in place of the normal."""


def numbers(found: Any) -> list[float]:
    """Every number of a result, counts of images apart."""
    if isinstance(found, Estimate):
        return [found.value, found.low, found.high, found.n]
    if is_dataclass(found):
        return [
            x for f in fields(found) if not f.name.startswith("_") and f.name not in ("n", "ties")
            for x in numbers(getattr(found, f.name))
        ]  # fmt: skip
    if isinstance(found, Mapping):
        return [x for key, value in found.items() if key != "n_errors" for x in numbers(value)]
    if isinstance(found, (list, tuple)):
        return [x for value in found for x in numbers(value)]
    return [np.nan if found is None else float(found)] if not isinstance(found, str) else []


@pytest.mark.parametrize("name", STATISTICS)
def test_images_of_their_own_origins_are_the_plain_call(name: str) -> None:
    data, of = Data.drawn(0, 60), STATISTICS[name]
    assert numbers(of(data, resamples=50, origins=np.arange(60))) == pytest.approx(
        numbers(of(data, resamples=50)), nan_ok=True, abs=0
    )


@pytest.mark.parametrize("name", STATISTICS)
def test_the_order_of_images_does_not_matter(name: str) -> None:
    data, of = Data.drawn(1, 60), STATISTICS[name]
    origins, order = np.array([f"digit {i // 3}" for i in range(60)]), np.random.default_rng(2).permutation(60)
    moved = of(data.of(order), resamples=50, origins=origins[order])
    assert numbers(moved) == pytest.approx(numbers(of(data, resamples=50, origins=origins)), nan_ok=True)


@pytest.mark.parametrize("name", [name for name in STATISTICS if name not in CUTS])
def test_a_second_copy_of_every_image_says_nothing_new(name: str) -> None:
    data, of = Data.drawn(3, 60), STATISTICS[name]
    twice = np.arange(120) % 60
    doubled = numbers(of(data.of(twice), resamples=50, origins=twice))
    rel = 0.01 if name in SHARES else None
    assert doubled == pytest.approx(numbers(of(data, resamples=50)), rel=rel, nan_ok=True)


@pytest.mark.parametrize("name", STATISTICS)
def test_origins_are_counted_and_must_fit_the_images(name: str) -> None:
    data, of = Data.drawn(4, 60), STATISTICS[name]
    assert 15 in numbers(of(data, resamples=20, origins=np.arange(60) // 4))
    with pytest.raises(McdoError, match=r"59.* for 60 images"):
        of(data, resamples=20, origins=np.arange(59))
    with pytest.raises(McdoError, match="all images are of one origin"):
        of(data, resamples=20, origins=["a"] * 60)


@pytest.mark.parametrize(
    "origins",
    [
        np.array([0.0, math.nan, math.nan, 1]),
        ["a", math.nan, math.nan, "b"],
        ["a", None, None, "b"],
        np.array(["a", None, None, "b"], dtype=object),
        np.array(["2026-01-01", "NaT", "NaT", "2026-01-02"], dtype="datetime64[D]"),
        "masked",
        [("a",), ("a", "b"), ("a",), ("b",)],
    ],
    ids=["nan", "nan-among-words", "none", "none-in-objects", "no-time", "masked", "ragged"],
)
def test_images_without_an_origin_are_no_images_of_one_origin(origins: Any) -> None:
    given = np.ma.masked_equal([0, 7, 7, 1], 7) if isinstance(origins, str) else origins
    with pytest.raises(McdoError, match=r"image 1 has no origin \(2 of 4|origins cannot be told apart"):
        Units.of(given, 4)


def test_resampled_figures_are_those_of_repeated_origins() -> None:
    """Two origins: a resample holds both, the first twice or the second twice, so every draw can be listed."""
    data, a, b = Data.drawn(5, 30), np.arange(12), np.arange(12, 30)
    listed = [
        scipy.stats.spearmanr(data.score[index], data.entropy[index]).statistic
        for index in (np.concatenate(parts) for parts in ((a, a), (a, b), (b, b)))
    ]
    weights = Units.of(["a"] * 12 + ["b"] * 18, 30).multiplicities(200, seed=0)
    draws = correlation(rank_covariance(np.stack([data.score, data.entropy]), weights))[:, 0, 1]
    assert sorted(set(draws.round(9))) == pytest.approx(sorted(listed))


def test_groups_are_compared_by_origins() -> None:
    rng = np.random.default_rng(7)
    groups = {"a": rng.normal(size=12), "b": rng.normal(0.4, 2, size=20), "c": rng.normal(size=9)}
    twice = {name: np.repeat(values, 2) for name, values in groups.items()}
    origins = {name: [f"{name}{i // 2:02d}" for i in range(2 * len(values))] for name, values in groups.items()}
    once = group_differences(groups, resamples=200, permutations=199)
    again = group_differences(twice, origins=origins, resamples=200, permutations=199)
    assert numbers(again) == pytest.approx(numbers(once))
    with pytest.raises(McdoError, match="'a' and 'c' share 1 origins"):
        group_differences(groups, origins={"a": [*"abcdefghijkl"], "b": [*range(20)], "c": [*"amnopqrst"]})


@pytest.mark.parametrize("largest", [2, 20, 58])
def test_origins_of_unequal_sizes_lengthen_an_interval_as_the_jackknife_does(largest: int) -> None:
    """A resample's figure lies near a large origin, as the sample's does; without it ρ covered .89 to .92."""
    members = np.repeat(np.arange(30), [largest] + [2] * 29)
    values = np.random.default_rng(0).normal(size=30)[members] + np.arange(len(members)) / 100
    sample = Sample(len(members), members, seed=1, resamples=4000)
    (whole,), draws = sample.both(lambda weights: (weights @ values / weights.sum(axis=1))[:, None])
    found = sample.inferred(whole, draws[:, 0])
    left = np.array([values[members != unit].mean() for unit in range(30)])
    jackknife = math.sqrt(29 / 30 * np.square(left - whole).sum())
    assert 0.95 < found.error / jackknife < 1.2  # .81 without it where one has half of the images
    width = found.estimate.high - found.estimate.low
    assert width == pytest.approx(2 * 1.96 * found.error, rel=0.08)
    if largest == 2:
        assert found.error == pytest.approx(spread(draws[:, 0]) * math.sqrt(30 / 29)), "as they are"
