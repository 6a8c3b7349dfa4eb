from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats import Estimate
from mcdo.stats.independent import difference


@cache
def wilson(successes: int, n: int) -> Estimate:
    interval = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Estimate(successes / n, interval.low, interval.high, n)


def normal(value: float, error: float, n: int = 50) -> Estimate:
    z = scipy.stats.norm.ppf(0.975)
    return Estimate(value, value - z * error, value + z * error, n)


def test_two_proportions_give_newcombes_interval() -> None:
    found = difference(wilson(56, 70), wilson(48, 80)).estimate
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)  # Newcombe 1998, method 10
    assert found.n == 70


def test_two_normal_means_give_the_normal_interval_and_test() -> None:
    found = difference(normal(1.0, 0.3), normal(0.2, 0.4))
    assert (found.estimate.low, found.estimate.high) == pytest.approx((0.8 - 1.959964 * 0.5, 0.8 + 1.959964 * 0.5))
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(0.8 / 0.5))
    other = difference(normal(0.2, 0.4), normal(1.0, 0.3))
    assert other.estimate.value == pytest.approx(-0.8)
    assert other.p_value == pytest.approx(found.p_value)


def test_the_same_exact_figure_does_not_differ_and_another_does() -> None:
    assert difference(Estimate(1, 1, 1, 9), Estimate(1, 1, 1, 9)).p_value == 1
    assert difference(Estimate(1, 1, 1, 9), Estimate(0.5, 0.5, 0.5, 9)).p_value == 0


def test_an_undefined_interval_leaves_the_difference_undefined() -> None:
    found = difference(Estimate(1, math.nan, math.nan, 9), Estimate(0, -1, 1, 9))
    assert math.isnan(found.p_value)
    assert math.isnan(found.estimate.low)


def test_two_levels_are_refused() -> None:
    with pytest.raises(McdoError, match=r"levels 0\.95 and 0\.9"):
        difference(Estimate(1, 0, 2, 9), Estimate(1, 0, 2, 9, level=0.9))


def test_the_test_keeps_its_level_for_skewed_intervals() -> None:
    """Summed over every two counts of 60 and of 90 that have the same chance of .15."""
    a, b = scipy.stats.binom(60, 0.15), scipy.stats.binom(90, 0.15)
    some, others = range(1, 21), range(2, 30)
    assert a.pmf(some).sum() * b.pmf(others).sum() > 0.999
    rejected = 0.0
    for x, y in itertools.product(some, others):
        found = difference(wilson(x, 60), wilson(y, 90))
        assert (found.p_value < 0.05) == (found.estimate.low > 0 or found.estimate.high < 0)
        rejected += a.pmf(x) * b.pmf(y) * (found.p_value < 0.05)
    assert rejected == pytest.approx(0.05, abs=0.015)
