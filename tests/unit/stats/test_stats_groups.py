from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats.groups import _mean_and_error, group_differences

SIZES = (("a", 0, 14), ("b", 100, 20))
"""Name of a group, its first origin and number of origins."""


def test_effect_and_exact_permutation_p_by_hand() -> None:
    """3 against 3, fully separated: of 20 relabellings two are as extreme, so p = 2/20 when all are tried."""
    found = group_differences({"low": [1.0, 2.0, 3.0], "high": [11.0, 12.0, 13.0]}, permutations=100)["low", "high"]
    assert found.difference.value == 10
    assert found.exceedance.value == 1
    assert found.p_value == pytest.approx(0.1)
    assert found.p_holm == pytest.approx(0.1)
    assert found.difference.n == 6


def test_a_group_of_a_few_origins_has_a_p_and_no_interval() -> None:
    found = group_differences({"a": np.arange(4.0), "b": np.arange(9.0, 29.0)}, permutations=999)["a", "b"]
    assert (found.difference.has_interval, found.exceedance.has_interval) == (False, False)
    assert found.difference.reason == "4 originals; an interval needs 5"
    assert found.difference.n == 24
    assert found.p_value < 0.01


def test_exceedance_counts_ties_as_halves() -> None:
    found = group_differences({"a": [1.0, 2.0], "b": [2.0, 0.0]}, permutations=10)["a", "b"]
    assert found.exceedance.value == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert found.exceedance.value == scipy.stats.mannwhitneyu([2.0, 0.0], [1.0, 2.0]).statistic / 4


def test_p_is_near_welch_s_for_normal_values() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(0.6, 2, size=50)
    found = group_differences({"a": a, "b": b}, permutations=9999)["a", "b"]
    assert found.p_value == pytest.approx(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue, abs=0.015)


def test_equal_means_with_unequal_spreads_are_rejected_at_the_stated_rate() -> None:
    """A plain permutation of the difference of means rejects far too often here (small group, wide spread)."""
    rng = np.random.default_rng(1)
    studentised = plain = 0
    for seed in range(100):
        a, b = rng.normal(0, 3, 15), rng.normal(0, 1, 60)
        studentised += (
            group_differences({"a": a, "b": b}, seed=seed, permutations=199, resamples=1)["a", "b"].p_value < 0.05
        )
        mixed = np.concatenate([a, b])
        permuted = rng.permuted(np.tile(mixed, (199, 1)), axis=1)
        gaps = permuted[:, 15:].mean(axis=1) - permuted[:, :15].mean(axis=1)
        plain += (1 + np.sum(np.abs(gaps) >= abs(b.mean() - a.mean()))) / 200 < 0.05
    assert studentised / 100 < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 100)
    assert plain / 100 > 0.15


def test_holm_is_over_all_pairs() -> None:
    rng = np.random.default_rng(2)
    groups = {name: rng.normal(size=20) for name in "abcd"}
    found = group_differences(groups, permutations=99)
    assert list(found) == list(itertools.combinations("abcd", 2))
    smallest = min(found.values(), key=lambda d: d.p_value)
    assert smallest.p_holm == pytest.approx(min(1, 6 * smallest.p_value), rel=1e-9, abs=0)


def test_intervals_hold_the_difference_of_independent_means() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=400), rng.normal(1, 2, size=300)
    found = group_differences({"a": a, "b": b}, permutations=10, resamples=4000)["a", "b"]
    half = 1.96 * np.sqrt(a.var(ddof=1) / 400 + b.var(ddof=1) / 300)
    assert found.difference.low == pytest.approx(b.mean() - a.mean() - half, abs=0.02)
    assert found.difference.high == pytest.approx(b.mean() - a.mean() + half, abs=0.02)
    assert found.exceedance.low < found.exceedance.value < found.exceedance.high < 1


def test_the_same_seed_gives_the_same_numbers() -> None:
    groups = {"a": np.arange(9.0), "b": np.arange(9.0) ** 1.1}
    assert group_differences(groups, seed=5) == group_differences(groups, seed=5)


def test_groups_without_spread() -> None:
    same, apart = {"a": [1.0, 1.0], "b": [1.0, 1.0]}, {"a": np.zeros(5), "b": np.ones(5)}
    assert group_differences(same, permutations=10)["a", "b"].p_value == 1
    assert group_differences(apart, permutations=9999)["a", "b"].p_value == pytest.approx(2 / 252)


def test_one_group_or_a_group_of_one_is_refused() -> None:
    with pytest.raises(McdoError, match="at least two"):
        group_differences({"a": [1.0, 2.0]})
    with pytest.raises(McdoError, match="b: 1 images"):
        group_differences({"a": [1.0, 2.0], "b": [1.0]})


def test_size_where_variants_of_an_origin_are_alike() -> None:
    """No difference; one to six variants that share their origin's value: 5 % are rejected, not a third."""
    rng, mine, naive, runs = np.random.default_rng(5), 0, 0, 150
    for seed in range(runs):
        origins = {name: np.repeat(start + np.arange(n), rng.integers(1, 7, n)) for name, start, n in SIZES}
        groups = {name: rng.normal(size=200)[held] + 0.3 * rng.normal(size=len(held)) for name, held in origins.items()}
        how: dict[str, Any] = {"seed": seed, "permutations": 199, "resamples": 1}
        mine += group_differences(groups, origins=origins, **how)["a", "b"].p_value < 0.05
        naive += group_differences(groups, **how)["a", "b"].p_value < 0.05
    assert 0 < mine / runs < 0.05 + 0.05  # 2.8 standard errors
    assert naive / runs > 0.25


def test_the_error_of_a_group_is_that_of_a_ratio_of_sums() -> None:
    """Origins of 2 and 1 images that sum to 5 and 1: mean 2, residuals 1 and −1, so 2 · 2/1 over 3²."""
    mean, squared_error = _mean_and_error(np.array([[2.0, 1.0], [5.0, 1.0]]))
    assert (mean, squared_error) == pytest.approx((2, 4 / 9))
    values = np.arange(7.0) ** 2
    mean, squared_error = _mean_and_error(np.stack([np.ones(7), values]))
    assert (mean, squared_error) == pytest.approx((values.mean(), values.var(ddof=1) / 7))


def test_origins_of_unequal_sizes_lengthen_the_intervals() -> None:
    """Of two groups in which one origin has half of the images they held the truth in .90 of data sets."""
    rng, held, runs = np.random.default_rng(0), 0, 100
    origins = np.repeat(np.arange(20), [38] + [2] * 19)
    for seed in range(runs):
        one, other = (rng.normal(size=20)[origins] + 0.3 * rng.normal(size=76) for _ in range(2))
        names = {name: [f"{name} {origin}" for origin in origins] for name in ("one", "other")}
        (found,) = group_differences(
            {"one": one, "other": other}, origins=names, seed=seed, resamples=200, permutations=1
        ).values()
        held += found.difference.low <= 0 <= found.difference.high
    assert held / runs > 0.93


def test_groups_that_are_wholly_apart_may_not_be_in_another_sample() -> None:
    """Of five images each the exceedance was 1 [1, 1]; a true .9 comes out so in three of ten."""
    for one, other in ((0, 10), (10, 0)):
        groups = {"one": one + np.arange(5.0), "other": other + np.arange(5.0)}
        (found,) = group_differences(groups, permutations=10, resamples=50).values()
        assert found.exceedance.value in (0, 1)
        assert 0.2 < found.exceedance.high - found.exceedance.low < 0.7
