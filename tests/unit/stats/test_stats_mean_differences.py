"""Student's means over origins and paired differences of means against SciPy, by hand, and by coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats import mean_differences, t_mean


def test_without_origins_it_is_the_t_interval_and_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 30), rng.normal(0.5, 1, 30)
    theirs = scipy.stats.ttest_1samp(a, 0).confidence_interval()
    found = t_mean(a)
    assert (found.value, found.low, found.high) == pytest.approx((a.mean(), theirs.low, theirs.high))
    assert found.n == 30
    difference = mean_differences({"a": a, "b": b}, "b")["a"]
    paired = scipy.stats.ttest_rel(a, b)
    assert difference.p_value == pytest.approx(paired.pvalue)
    ends = paired.confidence_interval()
    assert (difference.estimate.low, difference.estimate.high) == pytest.approx((ends.low, ends.high))


def test_student_s_mean_over_origins_by_hand() -> None:
    """Means 2.5, 2 without the first origin and 4 without the other: V = ½ (0.25 + 2.25)."""
    found = t_mean([4.0, 1.0, 2.0, 3.0], origins=["a", "b", "b", "b"])
    reach = scipy.stats.t.ppf(0.975, 1) * math.sqrt(1.25)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((2.5, 2.5 - reach, 2.5 + reach, 2))


def test_repeating_every_image_within_its_origin_changes_nothing() -> None:
    x = np.random.default_rng(1).normal(size=20)
    thrice = t_mean(np.repeat(x, 3), origins=np.repeat(np.arange(20), 3))
    once = t_mean(x)
    assert (thrice.value, thrice.low, thrice.high, thrice.n) == pytest.approx((once.value, once.low, once.high, 20))


def test_values_that_do_not_differ() -> None:
    assert (t_mean([0.1] * 5).low, t_mean([0.1] * 5).high) == (0.1, 0.1)
    same = mean_differences({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [2.0, 3.0, 4.0]}, "a")
    assert (same["b"].p_value, same["b"].estimate.value) == (1.0, 0.0)
    assert (same["c"].p_value, same["c"].estimate.low) == (0.0, 1.0)


def test_holm_runs_over_the_call() -> None:
    rng = np.random.default_rng(2)
    values = {name: rng.normal(shift, 1, 25) for name, shift in (("base", 0), ("a", 0.4), ("b", 0.8))}
    found = mean_differences(values, "base")
    ordered = sorted(found.values(), key=lambda d: d.p_value)
    assert ordered[0].p_holm == pytest.approx(min(1, 2 * ordered[0].p_value), rel=1e-9, abs=0)
    assert ordered[1].p_holm == pytest.approx(max(ordered[0].p_holm, ordered[1].p_value))


def test_bad_input_of_differences_is_refused() -> None:
    with pytest.raises(McdoError, match="one origin"):
        t_mean([1.0, 2.0], origins=["a", "a"])
    with pytest.raises(McdoError, match="nan at image 1"):
        t_mean([1.0, math.nan])
    with pytest.raises(McdoError, match="'bse'"):
        mean_differences({"base": [1.0, 2.0], "a": [1.0, 2.0]}, "bse")
    with pytest.raises(McdoError, match="only 'a'"):
        mean_differences({"a": [1.0, 2.0]}, "a")


@pytest.mark.parametrize("n", [6, 12, 50])
def test_coverage_over_origins_of_unequal_sizes(n: int) -> None:
    """Values go with the number of images of an origin, which a mean of origins' means would miss."""
    rng = np.random.default_rng(n)
    sizes = np.arange(1, 10)
    truth = float((sizes * 0.1 * (sizes - 5)).sum() / sizes.sum())
    inside, times = 0, 600
    for _ in range(times):
        m = rng.integers(1, 10, n)
        own = rng.normal(size=n) + 0.1 * (m - 5)
        members = np.repeat(np.arange(n), m)
        found = t_mean(own[members] + 0.3 * rng.normal(size=len(members)), origins=members)
        inside += found.low <= truth <= found.high
    assert 0.91 <= inside / times <= 0.98


def test_an_origin_with_most_images_does_not_answer_for_the_others() -> None:
    """The mean is nearly that origin's own, so the residuals about it are small whatever the other origins say."""
    rng, inside = np.random.default_rng(0), 0
    members = np.repeat(np.arange(20), [60, *[1] * 19])
    for _ in range(200):
        values = rng.normal(size=20)[members] + 0.5 * rng.normal(size=79)
        found = t_mean(values, origins=members)
        p = mean_differences({"a": values, "zero": np.zeros(79)}, "zero", origins=members)["a"].p_value
        assert (p < 0.05) == (not found.low <= 0 <= found.high)
        inside += found.low <= 0 <= found.high
    assert inside / 200 >= 0.9
