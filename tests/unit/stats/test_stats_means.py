from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import bootstrap, mean, median, ratio_of_means, trial_drift, wilcoxon_increase

X, Y = np.exp(np.random.default_rng(0).normal(size=(2, 80)))


def test_it_is_about_as_long_as_student_s_interval() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = mean(values, resamples=4000)
    low, high = scipy.stats.t.interval(0.95, 399, values.mean(), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_by_hand() -> None:
    constant = mean([2.0] * 5)
    assert (constant.value, constant.low, constant.high, constant.n) == (2, 2, 2, 5)
    uneven = mean([1.0, 1.0, 4.0], origins=["a", "a", "b"])
    assert (uneven.value, uneven.has_interval, uneven.n) == (2, False, 2)


@pytest.mark.parametrize("values", [np.float64(1), np.ones(1), np.ones((2, 2, 2))])
def test_other_shapes_are_refused(values: NDArray[np.float64]) -> None:
    with pytest.raises(McdoError, match=r"give \[N\], or \[K, N\]|1 images; at least 2"):
        mean(values)


def test_a_number_that_is_none_is_named() -> None:
    with pytest.raises(McdoError, match="trial 1, image 0"):
        mean([[1.0, 2.0], [np.nan, 1.0]])


@pytest.mark.parametrize("origins", [None, np.arange(80) // 3], ids=["images", "origins"])
def test_each_is_the_bootstrap_of_numpy_s(origins: NDArray[np.intp] | None) -> None:
    options: dict[str, Any] = {"origins": origins, "seed": 2, "resamples": 100}
    pairs = [
        (mean(X, **options), bootstrap(np.mean, X, **options)),
        (median(X, **options), bootstrap(np.median, X, **options)),
        (ratio_of_means(X, Y, **options), bootstrap(lambda a, b: a.mean() / b.mean(), X, Y, **options)),
    ]
    for found, expected in pairs:
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert found.n == expected.n


@settings(derandomize=True, deadline=None, max_examples=30)
@given(hnp.arrays(np.float64, st.integers(2, 9), elements=st.integers(0, 4).map(float)))
def test_the_median_of_ties_and_of_even_numbers_is_numpy_s(values: NDArray[np.float64]) -> None:
    found = median(values, seed=1, resamples=20)
    slow = bootstrap(np.median, values, seed=1, resamples=20)
    assert (found.value, found.low, found.high) == (slow.value, slow.low, slow.high)


def test_trials_are_averaged() -> None:
    both = np.stack([X, Y])
    assert mean(both) == mean(both.mean(axis=0))
    assert ratio_of_means(both, Y) == ratio_of_means(both.mean(axis=0), Y)


def test_a_denominator_of_zero_is_undefined() -> None:
    assert math.isnan(ratio_of_means([1.0, 2.0], [1.0, -1.0]).value)
    with pytest.raises(McdoError, match="denominator holds nan"):
        ratio_of_means([1.0, 2.0], [1.0, math.nan])
    with pytest.raises(McdoError, match="1 images; at least 2"):
        mean([1.0])


def test_many_images_take_little_memory() -> None:
    found = median(np.arange(20_000.0), resamples=100)
    assert found.value == 9999.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * 10_000 / math.sqrt(20_000), rel=0.3)


def test_a_quotient_whose_denominator_may_be_zero_has_an_interval_without_ends() -> None:
    """Its resamples come back from infinity with the other sign, and percentiles of them may lie beside the value."""
    rng = np.random.default_rng(0)
    scores = np.vstack([np.ones((1, 40)), rng.normal(size=(5, 40)) + rng.normal(size=40)])
    above, below = rng.normal(1, 1, 40), rng.normal(0.1, 1, 40)
    for found in (
        trial_drift(scores),
        ratio_of_means(above, below),
        wilcoxon_increase(above, below - below.mean() + 0.05).relative_change,
    ):
        assert math.isfinite(found.value)
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_a_quotient_over_a_mean_that_may_hardly_be_zero_is_covered_and_lies_in_its_interval() -> None:
    rng, covered, runs = np.random.default_rng(1), 0, 150
    for seed in range(runs):
        found = ratio_of_means(rng.normal(1, 1, 100), rng.normal(0.3, 1, 100), seed=seed, resamples=400)
        assert found.low <= found.value <= found.high
        covered += found.low <= 1 / 0.3 <= found.high
    assert covered / runs > 0.95 - 3.5 * math.sqrt(0.05 * 0.95 / runs)
