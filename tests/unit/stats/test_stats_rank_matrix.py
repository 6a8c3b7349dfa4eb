from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats.rank_matrix import rank_matrix

Array = NDArray[np.float64]


def related(rng: np.random.Generator, N: int, rho: float, noise: float, K: int = 3, shared: float = 0.0) -> list[Array]:
    """Two scores [K, N] whose noise-free values correlate at ``rho``; ``shared`` of the noise is common to both."""
    true = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], N).T
    common = rng.normal(size=(K, N))
    own = rng.normal(size=(2, K, N))
    return [true[i] + noise * (math.sqrt(1 - shared) * own[i] + math.sqrt(shared) * common) for i in range(2)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 3), st.booleans())
def test_values_are_those_of_scipy(seed: int, K: int, other_K: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(2, 25)) + 0.5 * rng.normal(size=25)
    scores = {"a": true[0] + 0.4 * rng.normal(size=(K, 25)), "b": true[1] + 0.4 * rng.normal(size=(other_K, 25))}
    if ties:
        scores = {name: np.round(values) for name, values in scores.items()}
    found = rank_matrix(scores, resamples=2)

    def rho(x: Array, y: Array) -> float:
        return float(scipy.stats.spearmanr(x, y).statistic)

    a, b = scores.values()
    assert found.raw["a", "b"].value == pytest.approx(rho(a.mean(axis=0), b.mean(axis=0)), abs=1e-12)
    within = {n: np.mean([rho(x, y) for x, y in itertools.combinations(s, 2)]) for n, s in scores.items()}
    for name, value in within.items():
        assert found.reliability[name].value == pytest.approx(value, abs=1e-12)
    across = np.mean([rho(x, y) for k, x in enumerate(a) for m, y in enumerate(b) if k != m])
    assert min(within.values()) > 0.2
    expected = across / math.sqrt(within["a"] * within["b"])
    assert found.disattenuated["a", "b"].value == pytest.approx(expected, abs=1e-9)
    assert found.reliability_difference["a", "b"].estimate.value == pytest.approx(within["b"] - within["a"], abs=1e-12)


def test_the_correction_recovers_the_noise_free_correlation() -> None:
    rng = np.random.default_rng(1)
    corrected, raw = [], []
    for _ in range(40):
        a, b = related(rng, 1000, 0.8, 1.0)
        found = rank_matrix({"a": a, "b": b}, resamples=1)
        corrected.append(found.disattenuated["a", "b"].value)
        raw.append(found.raw["a", "b"].value)
    # ranks of normal values at r = .8 correlate at 6/pi asin(.4) = .786
    assert np.mean(corrected) == pytest.approx(0.786, abs=0.02)
    assert np.mean(raw) < 0.65


def test_noise_that_equal_trials_share_does_not_reach_the_correction() -> None:
    """Scores with the same masks per trial look related even where their noise-free values are not."""
    rng = np.random.default_rng(2)
    a, b = related(rng, 4000, 0.0, 1.0, shared=1.0)
    found = rank_matrix({"a": a, "b": b}, resamples=100)
    assert found.raw["a", "b"].low > 0.15
    assert found.disattenuated["a", "b"].low < 0 < found.disattenuated["a", "b"].high


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(60):
        a, b = related(rng, 200, 0.5, 0.7)
        e = rank_matrix({"a": a, "b": b}, seed=seed, resamples=200).disattenuated["a", "b"]
        inside += e.low <= 6 / math.pi * math.asin(0.25) <= e.high
    assert inside >= 51  # 57 expected; 51 is four standard deviations below


def test_the_more_reliable_score_is_told_apart() -> None:
    rng = np.random.default_rng(4)
    true = rng.normal(size=400)
    scores = {
        name: true + sd * rng.normal(size=(4, 400)) for name, sd in {"good": 0.2, "bad": 1.0, "same": 0.2}.items()
    }
    found = rank_matrix(scores, resamples=500)
    worse, none = found.reliability_difference["good", "bad"], found.reliability_difference["good", "same"]
    assert worse.estimate.high < 0
    error = (worse.estimate.high - worse.estimate.low) / (2 * scipy.stats.norm.ppf(0.975))
    assert worse.p_holm == pytest.approx(3 * worse.p_value)
    assert np.log10(worse.p_value) == pytest.approx(
        np.log10(2 * scipy.stats.t.sf(-worse.estimate.value / error, 399)), rel=0.1
    )
    assert none.p_holm > 0.05
    assert none.estimate.low < 0 < none.estimate.high


def test_a_score_without_proven_reliability_is_not_corrected() -> None:
    """Noise divided by noise would be a correlation of any size."""
    rng = np.random.default_rng(6)
    true = rng.normal(size=100)
    scores = {"good": true + 0.2 * rng.normal(size=(3, 100)), "noise": rng.normal(size=(3, 100))}
    scores["noise"] += 0.05 * scores["good"].mean(axis=0)
    found = rank_matrix(scores, resamples=300)
    assert found.reliability["noise"].low < 0
    assert math.isnan(found.disattenuated["good", "noise"].value)
    assert math.isnan(found.disattenuated["good", "noise"].low)
    assert np.isfinite(found.raw["good", "noise"].value)


def test_one_trial_has_a_raw_correlation_only() -> None:
    x = np.arange(10.0)[None]
    found = rank_matrix({"a": x, "b": -x}, resamples=10)
    assert found.raw["a", "b"].value == -1
    assert math.isnan(found.disattenuated["a", "b"].value)
    assert math.isnan(found.reliability["a"].value)
    assert math.isnan(found.reliability_difference["a", "b"].p_holm)
    json.dumps(found.as_dict(), allow_nan=False)


def test_names_may_be_asked_for_in_either_order_and_the_matrix_is_symmetric() -> None:
    rng = np.random.default_rng(5)
    found = rank_matrix({name: rng.normal(size=(2, 9)) for name in "abc"}, resamples=5)
    assert found.pair("raw", "c", "a") == found.raw["a", "c"]
    matrix = found.values("raw")
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 1)
    assert set(found.as_dict()["spearman"]) == {"a~b", "a~c", "b~c"}


@pytest.mark.parametrize(
    "scores",
    [{"a": np.zeros((2, 5))}, {"a": np.zeros((2, 5)), "b": np.zeros((2, 6))}],
    ids=["one", "other-images"],
)
def test_scores_that_cannot_be_compared_are_refused(scores: dict[str, Array]) -> None:
    with pytest.raises(McdoError, match="two or more scores of the same images"):
        rank_matrix(scores)


def test_a_correction_that_noise_forbids_says_whose() -> None:
    rng = np.random.default_rng(8)
    matrix = rank_matrix({"noise": rng.normal(size=(3, 60)), "own": np.arange(60) + rng.normal(size=(3, 60))})
    found = matrix.pair("disattenuated", "noise", "own")
    assert str(found) == ("undefined (trials of noise do not rank alike beyond chance: no correction for noise) n=60")
    assert found.as_dict()["reason"] == found.reason
    assert "reason" not in matrix.pair("raw", "noise", "own").as_dict()
