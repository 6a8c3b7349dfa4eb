from __future__ import annotations

import json
import math
from typing import Any, Literal

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import Estimate, bootstrap, holm, permutation_p, proportion, spearman
from mcdo.stats.resampling import Units, correlation, multiplicities, quantiles, rank_covariance
from mcdo.stats.selective import fpr95, risk_areas

few_values = hnp.arrays(np.float64, (3, 8), elements=st.integers(0, 4).map(float))


@pytest.mark.parametrize(
    ("low", "high", "direction", "outcome"),
    [
        (0.8, 0.9, ">=", "met"),
        (0.8, 0.9, ">", "undecided"),
        (0.7, 0.8, ">=", "undecided"),
        (0.7, 0.79, ">=", "not met"),
        (0.7, 0.8, ">", "not met"),
        (0.7, 0.8, "<=", "met"),
        (0.7, 0.8, "<", "undecided"),
        (0.81, 0.9, "<", "not met"),
        (0.9, math.inf, ">=", "met"),
        (math.nan, 0.9, ">=", "undecided"),
    ],
)
def test_outcome_is_met_or_not_only_when_the_whole_interval_agrees(low, high, direction, outcome):  # type: ignore[no-untyped-def]
    assert Estimate(0.8, low, high, 10).outcome(0.8, direction) == outcome


def test_verdict_refuses_an_unknown_direction() -> None:
    with pytest.raises(McdoError, match="direction"):
        Estimate(1, 0, 2, 3).outcome(1, "==")  # type: ignore[arg-type]


def test_estimate_reads_short_and_serialises_strictly() -> None:
    assert str(Estimate(0.926, 0.911, 0.944, 500)) == "0.93 [0.91, 0.94] n=500"
    assert json.loads(json.dumps(Estimate(math.nan, -math.inf, 1.0, 3).as_dict(), allow_nan=False)) == {
        "value": None,
        "low": None,
        "high": 1.0,
        "n": 3,
        "level": 0.95,
    }


@settings(derandomize=True, deadline=None, max_examples=25)
@given(few_values, st.integers(0, 99))
def test_rank_covariance_by_multiplicities_equals_ranking_every_resample(scores, seed):  # type: ignore[no-untyped-def]
    weights = multiplicities(8, 5, seed)
    fast = rank_covariance(scores, weights)
    for counts, table in zip(weights, fast, strict=True):
        drawn = scores[:, np.repeat(np.arange(8), counts.astype(int))]
        ranks = scipy.stats.rankdata(drawn, axis=1) - 4.5
        np.testing.assert_array_equal(table, ranks @ ranks.T)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 2)), min_size=3, max_size=15))
def test_rank_covariance_by_any_multiplicities_is_that_of_the_repeated_sample(cells):  # type: ignore[no-untyped-def]
    counts, *rows = (np.array(column, dtype=float) for column in zip(*cells, strict=True))
    repeated = np.repeat(np.stack(rows), counts.astype(int), axis=1)
    ranks = scipy.stats.rankdata(repeated, axis=1) - (repeated.shape[1] + 1) / 2
    np.testing.assert_array_equal(rank_covariance(np.stack(rows), counts[None])[0], ranks @ ranks.T)


def test_resamples_of_many_images_are_held_in_blocks_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All thousand of a million images are 8 GB, and judging them took several times as much."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 90))
    origins, wrong = np.arange(90) // 3 % 23, rng.random(90) < 0.4

    def found() -> list[Estimate]:
        how: dict[str, Any] = {"origins": origins, "resamples": 50}
        passed = fpr95(x, y[:60], known_origins=origins, foreign_origins=origins[:60], resamples=50)
        return [spearman(x, y, **how), risk_areas(x, wrong, **how)["augrc"], passed]

    whole, weights = found(), Units.of(origins, 90).multiplicities(50, 0)
    monkeypatch.setattr("mcdo.stats.resampling.MOST_HELD", 7 * 90)
    blocks = list(Units.of(origins, 90).in_blocks(50, 0))
    assert max(map(len, blocks)) == 7
    np.testing.assert_array_equal(np.concatenate(blocks), weights)
    assert found() == whole


def test_multiplicities_are_draws_with_replacement_and_read_only() -> None:
    counts = multiplicities(50, 2000, 3)
    np.testing.assert_array_equal(counts.sum(axis=1), 50)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(counts.var(axis=0).mean(), 1 - 1 / 50, atol=0.02)
    with pytest.raises(ValueError, match="read-only"):
        counts[0, 0] = 1


def test_correlation_beside_a_constant_row_is_nan_and_of_a_row_with_itself_exactly_one() -> None:
    rows = np.array([[1.0, 2, 3, 4], [2, 2, 2, 2], [4, 3, 2, 1]])
    found = correlation(rank_covariance(rows, np.ones((1, 4))))[0]
    assert found[0, 0] == 1.0
    assert found[0, 2] == -1.0
    assert np.isnan(found[1]).all()


def test_quantiles_leave_out_nan_and_survive_infinity() -> None:
    np.testing.assert_array_equal(quantiles([math.nan, 3, 1, 2, math.inf], [0.25, 0.5, 0.75, 1.0]), [1, 2, 3, math.inf])
    assert np.isnan(quantiles([math.nan], [0.5])).all()


def test_bootstrap_of_a_mean_agrees_with_its_standard_error_and_keeps_pairs() -> None:
    x = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda a: float(a.mean()), x, seed=2)
    half = 1.96 * x.std(ddof=1) / 20
    assert found.value == x.mean()
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    paired = bootstrap(lambda a, b: float((a - b[0]).mean()), x, np.stack([x, x]), seed=2)
    assert (paired.low, paired.value, paired.high) == (0, 0, 0)
    assert found == bootstrap(lambda a: float(a.mean()), x, seed=2)
    independent = scipy.stats.bootstrap((x,), np.mean, n_resamples=2000, method="percentile", random_state=5)
    assert (found.low, found.high) == pytest.approx(tuple(independent.confidence_interval), abs=0.02)


def test_bootstrap_leaves_out_undefined_resamples() -> None:
    found = bootstrap(lambda a: math.nan if np.ptp(a) == 0 else float(a.mean()), np.arange(5.0) // 4, seed=0)
    assert (found.low, found.value) == (0.2, 0.2), "one of five; a third of the resamples holds none"


def test_a_few_origins_make_no_interval() -> None:
    values, origins = np.random.default_rng(0).normal(size=40), np.arange(40) // 10
    found = bootstrap(np.mean, values, origins=origins, seed=0)
    assert (found.value, found.n, found.outcome(-9, ">")) == (values.mean(), 4, "undecided")
    assert found.reason == "4 originals; an interval needs 5"
    assert bootstrap(np.mean, values, origins=np.arange(40) // 8, seed=0).has_interval


def test_recentring_takes_off_the_bias_that_resampling_adds() -> None:
    values = np.random.default_rng(0).normal(size=40)

    def squared_mean(v: NDArray[np.float64]) -> float:
        return float(v.mean() ** 2)

    plain = bootstrap(squared_mean, values, seed=1, resamples=400)
    moved = bootstrap(squared_mean, values, seed=1, resamples=400, recentred=True)
    added = plain.low - moved.low
    assert plain.high - moved.high == pytest.approx(added)
    assert added == pytest.approx(values.var() / 40, rel=0.3)  # E[mean*²] − mean² = variance of the resampled mean
    assert moved.value == plain.value


def test_bootstrap_leaves_global_randomness_alone_and_refuses_unpaired_input() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    bootstrap(lambda a: float(a.mean()), np.arange(5.0), seed=0, resamples=10)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    with pytest.raises(McdoError, match="last axis"):
        bootstrap(lambda a, b: 0.0, np.arange(5), np.arange(4), seed=0)
    with pytest.raises(McdoError, match="level"):
        bootstrap(lambda a: 0.0, np.arange(5), seed=0, level=95)


def test_permutation_p_counts_the_observed_among_the_permuted() -> None:
    null = np.arange(9.0)
    assert permutation_p(100, null, "greater") == 1 / 10
    assert permutation_p(8, null, "greater") == 2 / 10
    assert permutation_p(-1, null, "less") == 1 / 10
    assert permutation_p(100, null, "two-sided") == 2 / 10
    assert permutation_p(4, null, "two-sided") == 1.0
    assert permutation_p(1e-13, null * 1e-15, "greater") == 1 / 10, "in whatever units"
    assert permutation_p(0.0, [1e-17, 2e-17], "greater") == 1.0
    assert permutation_p(0.0, [-1e-17, 2e-17], "greater") == 2 / 3
    assert permutation_p(0.0, [-1e-17, 2e-17], "greater", size=0.5) == 1.0, (
        "differences of halves are rounded like these"
    )
    assert math.isnan(permutation_p(math.nan, null, "greater")), "no p of what is not defined, least of all a small one"


@pytest.mark.parametrize(
    ("option", "value"), [("resamples", 1.5), ("resamples", "10"), ("resamples", True), ("level", "0.95")]
)
def test_what_is_no_number_of_resamples_or_no_level_is_named(option: str, value: object) -> None:
    with pytest.raises(McdoError, match=f"{option} {value!r}; give a"):
        bootstrap(lambda a: 0.0, np.arange(5), seed=0, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["wilson", "exact"])
@pytest.mark.parametrize(
    ("k", "n", "level"), [(0, 1, 0.95), (1, 1, 0.8), (8, 10, 0.95), (0, 30, 0.99), (499, 500, 0.9)]
)
def test_intervals_of_a_share_are_scipy_s(k: int, n: int, level: float, method: Literal["wilson", "exact"]) -> None:
    found, expected = proportion(k, n, level=level, method=method), scipy.stats.binomtest(k, n)
    assert (found.low, found.high) == pytest.approx(tuple(expected.proportion_ci(level, method)), abs=1e-11)


def test_shares_of_none_and_what_is_no_share() -> None:
    assert proportion(0, 20, method="exact").low == 0.0
    assert proportion(0, 20, method="exact").high == pytest.approx(1 - 0.025 ** (1 / 20))
    with pytest.raises(McdoError, match="11 of 10"):
        proportion(11, 10)
    with pytest.raises(McdoError, match=r"1\.5 of 2 is not a share"):
        proportion(1.5, 2)  # type: ignore[arg-type]


def test_holm_matches_the_hand_computed_steps() -> None:
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    with pytest.raises(McdoError, match=r"\[0, 1\]"):
        holm([1.1])


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.42, 0.4, 0.44, 12), "0.42 [0.40, 0.44]"),
        (Estimate(0.42, 0.4, 0.44, 12, level=0.9975), "0.42 [0.40, 0.44] at 99.75 %"),
        (Estimate(0.42, math.nan, math.nan, 12), "0.42, no interval"),
        (Estimate(0.42, math.nan, math.nan, 12, reason="one trial"), "0.42, no interval (one trial)"),
        (Estimate(math.nan, math.nan, math.nan, 0), "undefined"),
        (Estimate(math.inf, 11.5, math.inf, 12), "inf [11.50, inf]"),
        (Estimate(2.0, -math.inf, 3.0, 12), "2.00 [-inf, 3.00]"),
    ],
)
def test_an_estimate_is_read_back_and_said_without_n(estimate: Estimate, text: str) -> None:
    assert estimate.without_n == text
    assert estimate.has_interval is ("[" in text)
    assert str(estimate) == f"{text} n={estimate.n}"
    assert str(Estimate.of(json.loads(json.dumps(estimate.as_dict(), allow_nan=False)))) == str(estimate)
