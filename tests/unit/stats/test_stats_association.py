from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import (
    advantages,
    disattenuated_spearman,
    partial_spearman,
    rank_matrix,
    rank_relations,
    spearman,
    spearman_differences,
    trial_spearman,
)

law = settings(derandomize=True, deadline=None, max_examples=25)
tied = hnp.arrays(np.float64, (3, 12), elements=st.integers(0, 6).map(float))
Z, *NOISE = np.random.default_rng(0).normal(size=(3, 300))
X, Y = Z + NOISE


@law
@given(tied)
def test_spearman_matches_scipy_with_ties(rows: NDArray[np.float64]) -> None:
    assume(all(np.ptp(row) > 0 for row in rows[:2]))
    expected = scipy.stats.spearmanr(rows[0], rows[1]).statistic
    assert spearman(rows[0], rows[1], resamples=2).value == pytest.approx(expected)


def test_spearman_interval_matches_a_naive_bootstrap() -> None:
    found = spearman(X, Y, seed=1, resamples=2000)
    draws = [scipy.stats.spearmanr(X[i], Y[i]).statistic for i in np.random.default_rng(1).integers(0, 300, (500, 300))]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.015)


def test_spearman_of_a_constant_is_undefined_and_of_itself_one() -> None:
    constant = spearman([1, 1, 1, 1], [1, 2, 3, 4])
    assert math.isnan(constant.value)
    assert constant.outcome(0.3, ">") == "undecided"
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]).value == 1.0


@law
@given(tied)
def test_partial_spearman_is_the_formula_for_one_and_the_regression_residual_for_two(rows: NDArray[np.float64]) -> None:
    from sklearn.linear_model import LinearRegression

    noise = np.random.default_rng(5).normal(size=(3, 12)) / 100
    x, y, z = np.round(rows + noise, 2)  # a few ties survive, exact dependence does not
    r = scipy.stats.spearmanr(np.stack([x, y, z]), axis=1).statistic
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_spearman(x, y, z, resamples=2).value == pytest.approx(expected)
    given_two = np.stack([z, np.arange(12.0)])
    design, ranks = scipy.stats.rankdata(given_two, axis=1).T, scipy.stats.rankdata([x, y], axis=1)
    a, b = (r - LinearRegression().fit(design, r).predict(design) for r in ranks)
    assert partial_spearman(x, y, given_two, resamples=2).value == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_partial_spearman_removes_a_common_cause() -> None:
    assert spearman(X, Y).outcome(0.3) == "met"
    assert abs(partial_spearman(X, Y, Z).value) < 0.12
    assert partial_spearman(X, Y, Z).low < 0 < partial_spearman(X, Y, Z).high


def test_partial_spearman_of_degenerate_covariates() -> None:
    plain = spearman(X, Y).value
    assert partial_spearman(X, Y, np.ones(300)).value == pytest.approx(plain)
    once, twice = partial_spearman(X, Y, Z), partial_spearman(X, Y, np.stack([Z, 2 * Z]))
    assert twice.value == pytest.approx(once.value)
    assert math.isnan(partial_spearman(X, Y, np.exp(X)).value)


@pytest.mark.parametrize("variants", [1, 5])
def test_the_interval_covers_the_true_correlation(variants: int) -> None:
    """100 images, or 20 origins of five variants each, whose traits share .8 of their variance."""
    runs, covered, truth = 150, 0, 6 / math.pi * math.asin(0.6 / 2)
    draw, origin = np.random.default_rng(variants), np.arange(100) // variants
    root = np.linalg.cholesky([[1, 0.6], [0.6, 1]])
    for seed in range(runs):
        between, own = draw.normal(size=(2, 100))[:, origin], draw.normal(size=(2, 100))
        x, y = root @ (math.sqrt(0.8) * between + math.sqrt(0.2) * own if variants > 1 else own)
        found = spearman(x, y, origins=origin, seed=seed, resamples=300)
        covered += found.low <= truth <= found.high
    slack = 1.7 * np.sqrt(np.array([0.92 * 0.08, 0.98 * 0.02]) / runs)
    assert 0.92 - slack[0] < covered / runs < 0.98 + slack[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1, 2, 3], [1, 2]), "unequal length"),
        (lambda: spearman([1, 2], [1, 2]), "at least 3"),
        (lambda: spearman([1, 2, math.nan], [1, 2, 3]), "x holds nan at image 2"),
        (lambda: spearman(np.ones((1, 2, 3)), [1, 2, 3]), r"x has shape \[1, 2, 3\]; give \[N\], or \[K, N\]"),
        (lambda: spearman([[1.0, 2, 3], [1.0, math.nan, 2]], [1, 2, 3]), "x holds nan at trial 1, image 1"),
        (lambda: partial_spearman([1, 2, 3], [1, 2, 3], [1, 2, 3]), "at least 4"),
    ],
)
def test_malformed_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        call()


def test_a_perfect_order_of_few_origins_has_an_interval_with_width() -> None:
    """It is one in all resamples: of true ρ .89 every fourth sample of five had [1, 1], and p = 0."""
    rng, covered, runs, truth = np.random.default_rng(0), 0, 150, 6 / math.pi * math.asin(0.9 / 2)
    for seed in range(runs):
        x, noise = rng.normal(size=(2, 5))
        found = spearman(x, 0.9 * x + math.sqrt(0.19) * noise, resamples=100, seed=seed)
        covered += found.low <= truth <= found.high
    assert covered / runs > 0.92
    many = rng.normal(size=500)
    assert 0.999999 < spearman(many, np.exp(many), resamples=100).low < 1
    five = rank_relations({"x": [1, 2, 3, 4, 5]}, {"y": [1, 2, 3, 4, 5]})["x", "y"]
    assert five.p_value > 1 / 60
    assert five.rho.low < 0, "as p says"
    apart = spearman_differences({"x": many[:9], "away": -many[:9]}, "away", many[:9], resamples=100)["x"].estimate
    assert (apart.value, apart.high) == (2, 2)
    assert 1 < apart.low < 2


def test_what_nearly_all_images_have_in_common_has_no_ranks_to_infer_from() -> None:
    """Of one image that stands out among 200, intervals of independent scores left out zero in .85 of samples."""
    y = np.random.default_rng(0).normal(size=200)
    trials = np.exp(y) * np.random.default_rng(1).lognormal(0, 0.1, (5, 200))
    for others, known in ((9, False), (10, True)):
        x = np.where(np.arange(200) < others, 1.0 + np.arange(200), 0.0)
        figures = [
            spearman(x, y), partial_spearman(y, x, trials[0]), disattenuated_spearman(trials, x),
            spearman(trials * x, y, shared_noise=True), trial_spearman(trials * x, trials),
            rank_matrix({"x": trials * x, "y": trials}).pair("raw", "x", "y"),
        ]  # fmt: skip
        relation = rank_relations({"x": x}, {"y": y})["x", "y"]
        assert [figure.has_interval for figure in (*figures, relation.rho)] == [known] * 7
        assert math.isnan(relation.p_value) != known
        assert all(known or "9 originals have another value than 0" in figure.reason for figure in figures)
    five = np.repeat([1.0, 2.0, 0.0], [45, 5, 150])
    assert spearman(five, y).has_interval
    assert not spearman(five, y, origins=np.arange(200) // 6).has_interval, "ten images of nine originals"


def test_a_difference_may_be_larger_than_one_where_trials_share_noise() -> None:
    """It was held to [-1, 1], so that the interval of a difference of 1.97 was [1, 1]."""
    t = np.random.default_rng(0).normal(size=60)
    up, down = (np.random.default_rng(1).normal(side * t, 0.3, (2, 6, 60)) for side in (1, -1))
    ahead = spearman_differences({"up": up[0], "down": down[0]}, "down", t, shared_noise=True)["up"].estimate
    behind = advantages({"up": down[1]}, {"base": up[1]}, follows={"t": t}, detects={}, shared_noise=True)
    for found in (ahead, behind["up", "base", "t"].estimate):
        assert found.low < found.value < found.high
        assert abs(found.value) > 1.5
