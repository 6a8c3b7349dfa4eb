from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import (
    Estimate,
    bootstrap,
    expected_calibration_error,
    proportion,
)
from mcdo.studies.subtasks.compare import (
    METRICS,
    Sums,
    differences,
    estimates,
    hit_sums,
    mcnemar,
    mean_among,
    mean_gap,
    one_per_origin,
    seed_differences,
    share_among,
    sums,
    swap_p,
)
from mcdo.studies.subtasks.evaluate import Contrast

law = settings(derandomize=True, deadline=None, max_examples=20)
Floats = NDArray[np.float64]


def arm(seed: int, n: int = 60, seeds: int = 2, sharp: float = 2.0) -> Floats:
    rng = np.random.default_rng(seed)
    p = np.exp(sharp * rng.standard_normal((seeds, n, 4)))
    return np.asarray(p / p.sum(axis=2, keepdims=True))


def labels(n: int = 60) -> NDArray[np.int64]:
    return np.random.default_rng(99).integers(0, 4, n)


def reference(p: Floats, y: NDArray[np.int64], name: str) -> float:
    """Mean over seeds, by definition."""
    rows, one_hot = np.arange(len(y)), np.eye(p.shape[2])[y]
    each: dict[str, list[float]] = {
        "accuracy": [float((q.argmax(1) == y).mean()) for q in p],
        "ece": [expected_calibration_error(q.max(1), q.argmax(1) == y, 15) for q in p],
        "nll": [float(-np.log(q[rows, y]).mean()) for q in p],
        "brier": [float(np.square(q - one_hot).sum(axis=1).mean()) for q in p],
    }
    return float(np.mean(each[name]))


def total(held: Sums) -> dict[str, float]:
    return {name: float(v[0]) for name, v in held.metrics(np.ones((1, len(held.size)))).items()}


@law
@given(st.integers(0, 500), st.integers(1, 60), st.sampled_from([0.0, 0.5, 30.0]))
def test_metrics_made_of_sums_are_the_metrics(seed: int, n: int, sharp: float) -> None:
    p, y = arm(seed, n, sharp=sharp), labels(n)
    groups = np.random.default_rng(seed).integers(0, 5, n)
    groups = np.unique(groups, return_inverse=True)[1]
    for name, found in total(sums(p, y, groups)).items():
        assert found == pytest.approx(reference(p, y, name), abs=1e-9), name


def test_confidence_exactly_zero_and_one_and_on_an_edge() -> None:
    p = np.array([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.4], [0.5, 0.5]]])
    found = total(sums(p, [0, 0, 1, 0], np.arange(4), bins=10))
    assert found["ece"] == pytest.approx((abs(1 - 1 + 0 - 1) + 0.6 + 0.5) / 4)
    assert np.isfinite(found["nll"])


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_are_those_of_resampling_origins_one_by_one(metric: str) -> None:
    y, groups = labels(), np.arange(60) // 3
    p = arm(1)
    fast = estimates(sums(p, y, groups), seed=4, resamples=50)[metric]

    def slow(drawn: Floats) -> float:
        index = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        return reference(p[:, index], y[index], metric)

    expected = bootstrap(slow, np.arange(20), seed=4, resamples=50)
    assert (fast.value, fast.low, fast.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert fast.n == 20


def test_differences_are_paired() -> None:
    y, groups = labels(), np.arange(60)
    a, b = sums(arm(1), y, groups), sums(arm(2), y, groups)
    gap, back = differences(a, b, 0), differences(b, a, 0)
    for name in METRICS:
        assert gap[name].value == pytest.approx(total(a)[name] - total(b)[name])
        assert (back[name].low, back[name].value) == pytest.approx((-gap[name].high, -gap[name].value), abs=0.03)
    same = differences(a, a, 0)
    assert all((e.low, e.value, e.high) == (0, 0, 0) for e in same.values())
    assert set(swap_p(a, a, 0, 200).values()) == {1.0}


def test_with_one_image_per_origin_and_one_seed_swapping_is_mcnemars_test() -> None:
    rng = np.random.default_rng(0)
    hits = np.zeros((2, 1, 200))
    hits[0, 0] = rng.random(200) < 0.9
    hits[1, 0] = np.where(np.arange(200) < 12, 0, hits[0, 0])
    groups = np.arange(200)
    only_a, only_b, p = mcnemar(hits[0, 0], hits[1, 0])
    assert only_b == 0
    assert only_a > 5
    found = swap_p(hit_sums(hits[0], groups), hit_sums(hits[1], groups), 0, 20_000)["accuracy"]
    assert found == pytest.approx(p, abs=4 * np.sqrt(p / 20_000) + 1e-4)


def test_images_of_one_origin_count_as_one() -> None:
    """Ten copies of a difference are no stronger evidence than one."""
    once = np.zeros((2, 1, 30))
    once[0, 0, :4] = 1
    copies = np.repeat(once, 10, axis=2)
    p_once = swap_p(hit_sums(once[0], np.arange(30)), hit_sums(once[1], np.arange(30)), 0, 4000)["accuracy"]
    groups = np.repeat(np.arange(30), 10)
    p_copies = swap_p(hit_sums(copies[0], groups), hit_sums(copies[1], groups), 0, 4000)["accuracy"]
    assert p_once == pytest.approx(2 / 2**4, abs=0.02)
    assert p_copies == p_once


def test_swapping_keeps_its_level_when_the_arms_are_exchangeable() -> None:
    y, groups, rejected = labels(90), np.arange(90) // 3, 0
    for seed in range(200):
        p = arm(seed, 90, seeds=2)
        a, b = sums(p[:1], y, groups), sums(p[1:], y, groups)
        rejected += swap_p(a, b, seed, 200)["ece"] < 0.05
    assert proportion(rejected, 200, method="exact").outcome(0.05) == "undecided"


def test_arms_on_other_images_are_refused() -> None:
    a, b = sums(arm(1), labels(), np.arange(60)), sums(arm(1, 30), labels(30), np.arange(30))
    with pytest.raises(McdoError, match="same images"):
        differences(a, b, 0)
    with pytest.raises(McdoError, match="same images"):
        swap_p(a, sums(arm(1), labels(), np.arange(60) // 2), 0)
    with pytest.raises(McdoError, match=r"same \[N\] images"):
        mcnemar([1, 0], [1])
    with pytest.raises(McdoError, match="seeds, N, C"):
        sums(arm(1), labels(30), np.arange(30))


def test_mcnemar_counts() -> None:
    assert mcnemar([1, 1, 1, 0, 0], [1, 0, 0, 1, 0])[:2] == (2, 1)


def test_one_image_of_each_origin() -> None:
    assert one_per_origin([2, 0, 2, 1, 0]).tolist() == [1, 3, 0]


def test_a_share_inside_a_class() -> None:
    groups = np.repeat(np.arange(10), 2)
    chosen = np.arange(20) < 16
    all_right = share_among(np.ones(20), chosen, groups)
    assert (all_right.value, all_right.n) == (1.0, 8)
    assert all_right.low == pytest.approx(proportion(8, 8).low), "Wilson's with the 8 origins, not 16 images"
    none = share_among(np.zeros(20), chosen, groups)
    assert (none.value, none.high) == pytest.approx((0.0, proportion(0, 8).high))
    half = share_among(np.arange(20) % 2, chosen, np.arange(20))
    assert half.value == 0.5
    assert 0.2 < half.low < 0.5 < half.high < 0.8
    empty = share_among(np.ones(20), np.zeros(20), groups)
    assert np.isnan(empty.value)
    assert empty.n == 0
    single = share_among([1, 0], [1, 1], [0, 0])
    assert (single.value, single.low, single.high, single.n) == (0.5, 0.0, 1.0, 1)


def test_means_and_gaps_are_those_of_resampling_origins_one_by_one() -> None:
    rng = np.random.default_rng(3)
    values, chosen, groups = rng.random(60), rng.random(60) < 0.4, np.arange(60) // 3

    def mean(v: Floats, c: NDArray[np.bool_]) -> float:
        return float(v[c].mean()) if c.any() else float("nan")

    fast = mean_among(values, chosen, groups, seed=2, resamples=80)
    slow = bootstrap(mean, values, chosen, origins=groups, seed=2, resamples=80)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))
    gap = mean_gap(values, chosen, groups, seed=2, resamples=80)
    slow = bootstrap(lambda v, c: mean(v, c) - mean(v, ~c), values, chosen, origins=groups, seed=2, resamples=80)
    assert (gap.value, gap.low, gap.high, gap.n) == pytest.approx((slow.value, slow.low, slow.high, 20))
    assert np.isnan(mean_gap(values, np.ones(60), groups, seed=2, resamples=80).value)


def test_differences_by_seed_average_to_the_difference() -> None:
    y, groups = labels(), np.arange(60) // 2
    a, b = sums(arm(1, seeds=3), y, groups), sums(arm(2, seeds=3), y, groups)
    for name, by_seed in seed_differences(a, b).items():
        assert by_seed.mean() == pytest.approx(differences(a, b, 0, 10)[name].value)


@pytest.mark.parametrize(
    ("images", "seeds", "low", "high"),
    [
        ((0.1, 0.3), (0.05, 0.25), 0.05, 0.3),
        ((0.1, 0.3), (-0.1, 0.5), -0.1, 0.5),
        ((0.1, 0.3), (float("nan"), float("nan")), 0.1, 0.3),
    ],
)
def test_a_claim_is_judged_for_other_images_and_other_seeds(
    images: tuple[float, float], seeds: tuple[float, float], low: float, high: float
) -> None:
    over_images, over_seeds = Estimate(0.2, *images, 300), Estimate(0.2, *seeds, 3)
    judged = Contrast("f", "a", "b", "accuracy", over_images, over_seeds, 0.01, 0.01).judged
    assert (judged.low, judged.high, judged.n) == pytest.approx((low, high, 300))
