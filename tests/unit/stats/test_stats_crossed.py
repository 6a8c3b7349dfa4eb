from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats.crossed import crossed_contrast, crossed_mean

Array = NDArray[np.float64]


def about(values: Array, covariance: Array, draws: int = 20_000, seed: int = 0) -> Array:
    return np.random.default_rng(seed).multivariate_normal(values, covariance, size=draws)


def test_without_image_noise_it_is_student_s_test() -> None:
    values = np.array([0.08, 0.01, 0.04, 0.01])
    found = crossed_mean(values, np.tile(values, (5, 1)), 500)
    known = scipy.stats.ttest_1samp(values, 0)
    assert found.p_value == pytest.approx(known.pvalue)
    interval = known.confidence_interval(0.95)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high))
    assert found.estimate.n == 500


def test_by_hand() -> None:
    """Four units −3, −1, 1, 7: mean 1, variance 56/3, so the mean's is 14/3; t(3) = 3.1824 at 97.5 %."""
    values = np.array([-3.0, -1.0, 1.0, 7.0])
    found = crossed_mean(values, np.tile(values, (5, 1)), 10).estimate
    assert found.value == 1
    assert found.high - 1 == pytest.approx(3.1824 * math.sqrt(14 / 3), rel=1e-4)


def test_units_that_agree_leave_the_noise_of_the_images_that_they_share() -> None:
    values = np.full(4, 0.3)
    shared = about(values, np.full((4, 4), 0.01))
    found = crossed_mean(values, shared, 500)
    sd = shared[:, 0].std(ddof=1)
    assert found.estimate.high - 0.3 == pytest.approx(scipy.stats.norm.isf(0.025) * sd)
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(0.3 / sd), rel=1e-6)


def test_the_arms_of_units_and_images_add_in_quadrature() -> None:
    values = np.array([-3.0, -1.0, 1.0, 7.0])
    shared = np.random.default_rng(1).normal(size=(4000, 1)) + values
    found = crossed_mean(values, shared, 10).estimate
    units, images = 3.1824 * math.sqrt(14 / 3), 1.95996 * shared[:, 0].std(ddof=1)
    assert found.high - found.value == pytest.approx(math.hypot(units, images), rel=1e-4)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_image_noise_of_single_units_is_counted_once() -> None:
    """It is part of the spread over units already."""
    values = np.array([-3.0, -1.0, 1.0, 7.0])
    own = about(values, np.eye(4))
    with_noise, without = (crossed_mean(values, draws, 10).estimate for draws in (own, values + np.zeros((5, 4))))
    assert with_noise.high == pytest.approx(without.high, rel=1e-3)


def test_p_is_the_level_at_which_the_interval_touches_zero() -> None:
    values = np.array([0.2, 0.5, 0.9, 0.3])
    draws = about(values, 0.01 + 0.02 * np.eye(4))
    p = crossed_mean(values, draws, 100).p_value
    assert 0.001 < p < 0.2
    assert crossed_mean(values, draws, 100, level=1 - p).estimate.low == pytest.approx(0, abs=1e-9)


def test_edges() -> None:
    same = np.full((5, 3), 2.0)
    certain = crossed_mean(same[0], same, 10)
    assert (certain.estimate.low, certain.estimate.high, certain.p_value) == (2, 2, 0)
    assert crossed_mean(np.zeros(3), same, 10).p_value == 1
    undefined = crossed_mean([1.0, math.nan], np.ones((5, 2)), 10)
    assert math.isnan(undefined.p_value)
    assert undefined.estimate.outcome(0, ">") == "undecided"
    holes = np.array([[1.0, 2.0], [math.nan, 1.0], [3.0, 4.0]])
    assert crossed_mean([1.0, 2.0], holes, 10).estimate.value == 1.5
    with pytest.raises(McdoError, match="one unit says nothing"):
        crossed_mean([1.0], np.ones((5, 1)), 10)


RUNS = 800
NEAR = pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / RUNS))


@cache
def resamples() -> Array:
    """Shares of 100 images in each of 1000 resamples, the same for every data set."""
    return np.random.default_rng(8).multinomial(100, np.full(100, 0.01), size=1000) / 100


@pytest.mark.parametrize(("spread", "common", "own"), [(0, 1, 0), (0, 0, 1), (0.2, 1, 0), (0.2, 0.7, 0.7)])
def test_coverage_over_units_and_images(spread: float, common: float, own: float) -> None:
    """Four units and 100 images."""
    rng = np.random.default_rng(7)
    inside, over_images = 0, 0
    for _ in range(RUNS):
        x = spread * rng.normal(size=(4, 1)) + common * rng.normal(size=(1, 100)) + own * rng.normal(size=(4, 100))
        draws = resamples() @ x.T
        found = crossed_mean(x.mean(axis=1), draws, 100).estimate
        inside += found.low <= 0 <= found.high
        over_images += abs(found.value) <= 1.96 * draws.mean(axis=1).std(ddof=1)
    assert inside / RUNS == NEAR
    if spread:
        assert over_images / RUNS < 0.85, "an interval over images alone is no interval over units"


def test_two_kinds_without_image_noise_are_the_t_test_of_two_samples() -> None:
    a, b = np.array([0.1, 0.4, 0.3]), np.array([0.9, 0.5, 0.6])
    values, weights = np.concatenate([a, b]), np.repeat([-1 / 3, 1 / 3], 3)
    found = crossed_contrast(values, np.tile(values, (5, 1)), weights, "aaabbb", 100)
    known = scipy.stats.ttest_ind(b, a)
    assert found.p_value == pytest.approx(known.pvalue)
    interval = known.confidence_interval(0.95)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high))


def test_what_all_kinds_share_of_the_images_cancels_between_them() -> None:
    values, weights = np.array([1.0, 2.0, 4.0, 5.0]), np.array([-0.5, -0.5, 0.5, 0.5])
    shared = np.random.default_rng(1).normal(size=(400, 1)) + values
    with_noise, without = (
        crossed_contrast(values, draws, weights, "aabb", 10).estimate for draws in (shared, values + np.zeros((5, 4)))
    )
    assert with_noise.high == pytest.approx(without.high)


@pytest.mark.parametrize("spread", [0.0, 0.2])
@pytest.mark.parametrize(("common", "of_kind", "own"), [(1.0, 0.0, 0.3), (0.5, 0.7, 0.5)])
def test_coverage_of_a_contrast_between_kinds(spread: float, common: float, of_kind: float, own: float) -> None:
    """Two kinds of five units each and 100 images."""
    rng, weights = np.random.default_rng(3), np.repeat([-0.2, 0.2], 5)
    inside = 0
    for _ in range(RUNS):
        kinds = of_kind * np.repeat(rng.normal(size=(2, 100)), 5, axis=0)
        x = spread * rng.normal(size=(10, 1)) + common * rng.normal(size=(1, 100)) + kinds
        x += own * rng.normal(size=(10, 100))
        draws = resamples() @ x.T
        found = crossed_contrast(x.mean(axis=1), draws, weights, "aaaaabbbbb", 100).estimate
        inside += found.low <= 0 <= found.high
    assert inside / RUNS == NEAR
