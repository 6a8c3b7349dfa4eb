from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mcdo.errors import McdoError
from mcdo.stats.means import mean
from mcdo.stats.resampling import bootstrap


def test_the_interval_is_that_of_the_bootstrap_of_any_statistic() -> None:
    rng = np.random.default_rng(0)
    values, origins = rng.normal(size=(3, 40)), rng.integers(0, 12, 40)
    for named in (None, origins):
        one, other = mean(values, origins=named, seed=5), bootstrap(np.mean, values, origins=named, seed=5)
        assert one.n == other.n
        assert one.value == pytest.approx(other.value)
        assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_it_is_about_as_long_as_student_s_interval() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = mean(values, resamples=4000)
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_variants_of_one_original_are_one_draw() -> None:
    values = np.random.default_rng(2).normal(size=50)
    once, fourfold = mean(values, resamples=2000), mean(values.repeat(4), origins=np.arange(200) // 4, resamples=2000)
    assert fourfold.n == 50
    assert (fourfold.value, fourfold.low, fourfold.high) == pytest.approx((once.value, once.low, once.high))


def test_by_hand() -> None:
    constant = mean([2.0, 2.0, 2.0])
    assert (constant.value, constant.low, constant.high, constant.n) == (2, 2, 2, 3)
    uneven = mean([1.0, 1.0, 4.0], origins=["a", "a", "b"])
    assert (uneven.value, uneven.low, uneven.high, uneven.n) == (2, 1, 4, 2)


@pytest.mark.parametrize("values", [np.float64(1), np.ones(1), np.ones((2, 2, 2))])
def test_other_shapes_are_refused(values: NDArray[np.float64]) -> None:
    with pytest.raises(McdoError, match=r"give \[N\] or \[K, N\]"):
        mean(values)


def test_a_number_that_is_none_is_named() -> None:
    with pytest.raises(McdoError, match="trial 1, image 0"):
        mean([[1.0, 2.0], [np.nan, 1.0]])
