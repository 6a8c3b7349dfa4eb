from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy

from mcdo.stats import reliability
from mcdo.stats.growth import (
    GrowthPoint,
    along,
    carriers,
    exponent,
    log_odds,
    measured_point,
    pooled_points,
    share_of,
)
from mcdo.stats.resampling import Units


def normal_scores(trials: int, images: int = 300, seed: int = 0, noise: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=images) + noise * rng.normal(size=(trials, images))


@pytest.mark.parametrize("trials", [4, 6])
def test_blocks_are_the_median_of_all_splits_against_scipy(trials: int) -> None:
    """Four trials have three splits into pairs, six have ten into threes: exhaustive, so equal to the plain median."""
    scores, half = normal_scores(trials), trials // 2
    found = pooled_points(scores, reliability(scores, resamples=50), 16, Units.of(None, 300), seed=0)[-1]
    splits = [
        (list(a), list(b))
        for a, b in itertools.combinations(itertools.combinations(range(trials), half), 2)
        if not set(a) & set(b)
    ]
    expected = np.median(
        [scipy.stats.spearmanr(scores[a].mean(axis=0), scores[b].mean(axis=0)).statistic for a, b in splits]
    )
    assert (found.passes, found.blocks) == (16, half)
    assert share_of(found.value) == pytest.approx(expected, abs=1e-9)
    assert found.low < found.value < found.high


def test_blocks_grow_by_the_law_that_normal_scores_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = normal_scores(10, images=1500, noise=2.0)
    monkeypatch.setattr("mcdo.stats.growth._RESAMPLES", 20)  # values, not intervals
    run = reliability(scores, resamples=20)
    points = pooled_points(scores, run, 16, Units.of(None, 1500), seed=0)
    assert [point.blocks for point in points] == [2, 4, 5]
    for point in points:
        latent = 1 / (1 + 4 / point.blocks)
        assert share_of(point.value) == pytest.approx(6 / math.pi * math.asin(latent / 2), abs=0.03)


@pytest.mark.parametrize("trials", [2, 3])
def test_too_few_trials_have_no_blocks(trials: int) -> None:
    scores = normal_scores(trials)
    assert pooled_points(scores, reliability(scores), 16, Units.of(None, 300), seed=0) == []


def test_a_run_with_a_wider_interval_lengthens_the_arms() -> None:
    """What only the interval of the run holds, noise that images of one trial share, is carried to the blocks."""
    scores, units = normal_scores(6), Units.of(None, 300)
    run = reliability(scores)
    known = run.spearman_confidence
    wide = replace(run, spearman_confidence=replace(known, below=3 * known.below, above=3 * known.above))
    plain, lengthened = (pooled_points(scores, each, 16, units, seed=0)[-1] for each in (run, wide))
    assert lengthened.value == plain.value
    assert lengthened.high - lengthened.low > 2 * (plain.high - plain.low)
    none = replace(run, spearman_confidence=replace(known, centre=math.nan))
    assert math.isnan(pooled_points(scores, none, 16, units, seed=0)[-1].low)


def test_carriers_by_hand() -> None:
    images = np.array([1.0, -1, 1, -1])
    even = np.stack([images + 0.1, images - 0.1])
    assert carriers(even, Units.of(None, 4)).units == pytest.approx(4), "all squares equal"
    one = np.array([[0.0, 0, 0, 8], [0, 0, 0, 8]])
    # deviations −2, −2, −2, 6: squares 4, 4, 4, 36, so 48²/(3·16 + 1296); no noise at all
    found = carriers(one, Units.of(None, 4))
    assert (found.units, found.share) == pytest.approx((48**2 / 1344, 48**2 / 1344 / (4 / 3)))
    noisy = even + np.array([[0, 0, 0, 5.0], [0, 0, 0, -5]])
    assert carriers(noisy, Units.of(None, 4)).units == pytest.approx(1, abs=0.01), "one image has all the noise"
    assert carriers(one, Units.of(np.array([0, 0, 1, 1]), 4)).units == pytest.approx(48**2 / (8**2 + 40**2))
    assert math.isnan(carriers(np.ones((2, 4)), Units.of(None, 4)).units)


def test_carriers_of_normal_scores_are_the_reference() -> None:
    for trials in (3, 10):
        assert carriers(normal_scores(trials, 20_000), Units.of(None, 20_000)).share == pytest.approx(1, abs=0.05)


def test_noise_of_single_trials_by_hand() -> None:
    units = Units.of(None, 2)
    one = np.array([[1.0, 9], [1, 5], [1, 5], [1, 5]])  # deviations 3, −1, −1, −1: A = 84/144, all there can be
    assert carriers(one, units).single == pytest.approx(1)
    halves = np.array([[1.0, 4], [1, 4], [1, 6], [1, 6]])  # A = 4/16, where normal noise has 9/20
    assert carriers(halves, units).single == pytest.approx((4 / 16 - 9 / 20) / (84 / 144 - 9 / 20))
    assert math.isnan(carriers(one[:3], units).single), "the deviations of three trials have one A, whatever they are"


@pytest.mark.parametrize("trials", [4, 10])
def test_normal_noise_is_of_no_single_trial(trials: int) -> None:
    assert carriers(normal_scores(trials, 20_000), Units.of(None, 20_000)).single == pytest.approx(0, abs=0.02)


def test_points_lie_on_a_line_in_log_odds() -> None:
    first, last = GrowthPoint(16, 1, 0.0, -1.0, 1.0), GrowthPoint(16, 4, 1.0, 0.5, 2.0)
    assert first.clock(0) == pytest.approx(math.log(16))
    assert last.clock(1) == pytest.approx(math.log(60))
    assert along((first, last), math.log(32), "value", 0) == pytest.approx(0.5)
    assert along((first, last), math.log(32), "low", 0) == pytest.approx(-0.25)
    assert exponent(first, last, 0) == pytest.approx(1 / math.log(4))
    assert exponent(first, GrowthPoint(16, 4, 9.0, 9.0, 9.0), 0) == 2
    assert exponent(last, GrowthPoint(16, 5, -9.0, 9.0, 9.0), 0) == -1


@pytest.mark.parametrize("share", [1e-9, 0.2, 0.5, 0.999])
def test_log_odds_and_back(share: float) -> None:
    assert share_of(log_odds(share)) == pytest.approx(share)


def test_log_odds_are_bounded() -> None:
    assert [share_of(log_odds(share)) for share in (-0.3, 0.0, 1.0)] == [0.0, 0.0, 1.0]
    assert math.isnan(log_odds(math.nan))


def test_a_measured_point_carries_its_interval() -> None:
    run = reliability(normal_scores(5))
    point = measured_point(run, 8)
    assert (share_of(point.value), share_of(point.low), share_of(point.high)) == pytest.approx(
        (run.spearman, *run.spearman_ci)
    )
