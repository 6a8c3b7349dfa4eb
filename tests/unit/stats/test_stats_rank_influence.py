from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.stats.rank_influence import spearman_confidence, spearman_influence
from mcdo.stats.resampling import correlation, multiplicities, rank_covariance


@settings(derandomize=True, deadline=None, max_examples=40)
@given(hnp.arrays(np.float64, (3, 9), elements=st.integers(0, 5).map(float), unique=False))
def test_influence_is_the_derivative_of_rho_by_the_weight_of_an_image(scores: NDArray[np.float64]) -> None:
    if (np.ptp(scores, axis=1) == 0).any():
        return
    rho, influence = spearman_influence(scores)
    step, N = 1e-6, scores.shape[1]
    bumped = 1 + step * np.concatenate([np.eye(N), -np.eye(N)])
    upper = np.triu_indices(3, 1)
    measured = correlation(rank_covariance(scores, bumped))[:, upper[0], upper[1]]
    np.testing.assert_allclose((measured[:N] - measured[N:]).T / (2 * step), influence / N, atol=1e-7)
    np.testing.assert_allclose(rho, correlation(rank_covariance(scores, np.ones((1, N))))[0][upper])
    np.testing.assert_allclose(influence.mean(axis=1), 0, atol=1e-12)


def test_rho_is_scipys_and_nan_beside_a_constant_row() -> None:
    scores = np.array([[1.0, 2, 2, 5, 9], [2, 1, 4, 4, 7], [3, 3, 3, 3, 3]])
    rho, influence = spearman_influence(scores)
    assert rho[0] == pytest.approx(scipy.stats.spearmanr(scores[0], scores[1]).statistic)
    assert np.isnan(rho[1:]).all()
    assert np.isnan(influence[1:]).all()


def test_linear_draws_are_close_to_ranking_every_resample_anew() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200) + 0.5 * rng.normal(size=(4, 200))
    rho, influence = spearman_influence(scores)
    weights = multiplicities(200, 400, 0)
    upper = np.triu_indices(4, 1)
    exact = correlation(rank_covariance(scores, weights))[:, upper[0], upper[1]]
    linear = rho + weights @ influence.T / 200
    assert all(scipy.stats.pearsonr(a, b).statistic > 0.97 for a, b in zip(exact.T, linear.T, strict=True))
    np.testing.assert_allclose(linear.std(axis=0), exact.std(axis=0), rtol=0.08)


@pytest.mark.parametrize(("n", "low"), [(3, -1.0), (4, -0.99), (100, 0.9999)])
def test_a_ranking_that_repeats_exactly_is_no_proof_from_few_images(n: int, low: float) -> None:
    confidence = spearman_confidence(np.ones(3), np.zeros((3, n)), n, 3, 0.0, 50, 0)
    found, top = confidence.interval(0.95)
    assert top == 1
    assert found == pytest.approx(low, abs=0.02 if n < 100 else 1e-4)


def test_an_exchanged_pair_of_neighbours_is_the_step_below_one() -> None:
    ranking = np.arange(6.0)
    exchanged = ranking[[1, 0, 2, 3, 4, 5]]
    step = 12 / (6 * 35)
    assert spearman_influence(np.stack([ranking, exchanged]))[0][0] == pytest.approx(1 - step)
    centre = spearman_confidence(np.ones(1), np.zeros((1, 6)), 6, 3, 0.0, 50, 0).centre
    assert math.tanh(centre) == pytest.approx(1 - step)
