from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats import bootstrap, disattenuated, disattenuated_spearman, rank_matrix, trial_spearman

OWN, *NOISE = np.random.default_rng(0).normal(size=(9, 90))
X, Y = OWN + NOISE[:4], OWN + NOISE[4:]


def rho(a: object, b: object) -> float:
    return float(scipy.stats.spearmanr(a, b).statistic)


def corrected(scores: np.ndarray, exact: np.ndarray) -> float:
    own = np.mean([rho(a, b) for a, b in itertools.combinations(scores, 2)])
    return float(np.mean([rho(a, exact) for a in scores]) / math.sqrt(own)) if own > 0 else math.nan


def test_disattenuation_divides_by_the_geometric_mean() -> None:
    assert disattenuated(0.3, 0.5, 0.72) == pytest.approx(0.5)
    assert disattenuated(0.9, 0.5, 0.5) == pytest.approx(1.8)
    assert math.isnan(disattenuated(0.3, 0.0, 0.5))
    assert math.isnan(disattenuated(0.3, -0.1, -0.5))


def test_the_corrected_correlation_and_its_interval_are_those_of_scipy_in_the_same_resamples() -> None:
    found = disattenuated_spearman(X, OWN, seed=3, resamples=60)
    slow = bootstrap(corrected, X, OWN, seed=3, resamples=60)
    assert (found.value, found.low, found.high) == pytest.approx((slow.value, slow.low, slow.high))


def test_the_mean_over_trials_and_its_interval_are_those_of_scipy_in_the_same_resamples() -> None:
    def slow(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([rho(a, b) for a, b in zip(x, y, strict=True)]))

    origins = np.arange(90) // 2
    found = trial_spearman(X, Y, origins=origins, seed=1, resamples=60)
    expected = bootstrap(slow, X, Y, origins=origins, seed=1, resamples=60)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert found.n == 45
    assert trial_spearman(X[:1], Y[:1]).value == pytest.approx(rho(X[0], Y[0]))


def test_the_correction_recovers_the_noise_free_correlation() -> None:
    """Heavy-tailed scores with noise as large as themselves: the raw value is .1 too low."""
    rng, values = np.random.default_rng(1), []
    for _ in range(20):
        z = rng.normal(size=(2, 1000))
        own, exact = np.exp(z[0]), 0.8 * z[0] + 0.6 * z[1]
        values.append(disattenuated_spearman(own * rng.chisquare(2, size=(4, 1000)), exact, resamples=1).value)
    assert np.mean(values) == pytest.approx(6 / math.pi * math.asin(0.4), abs=0.012)


def test_the_interval_covers() -> None:
    rng, covered, runs = np.random.default_rng(2), 0, 100
    truth = 6 / math.pi * math.asin(0.4)
    for seed in range(runs):
        z = rng.normal(size=(2, 150))
        scores = z[0] + rng.normal(size=(4, 150))
        found = disattenuated_spearman(scores, 0.8 * z[0] + 0.6 * z[1], seed=seed, resamples=200)
        covered += found.low <= truth <= found.high
    assert covered / runs > 0.92 - 1.5 * math.sqrt(0.92 * 0.08 / runs)


def test_pure_noise_is_not_corrected() -> None:
    found = disattenuated_spearman(np.random.default_rng(1).normal(size=(3, 60)), OWN[:60])
    assert math.isnan(found.value)
    assert found.outcome(0.5) == "undecided"


def test_it_is_the_rank_matrix_s_correction_where_the_other_score_has_no_noise() -> None:
    exact = np.tile(OWN, (4, 1))
    matrix = rank_matrix({"x": X, "exact": exact}, resamples=2)
    assert disattenuated_spearman(X, OWN, resamples=2).value == pytest.approx(
        matrix.pair("disattenuated", "x", "exact").value
    )


def test_trials_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(McdoError, match="one trial"):
        disattenuated_spearman(X[:1], OWN)
    with pytest.raises(McdoError, match=r"x has shape \[4, 90\] and y \[3, 90\]"):
        trial_spearman(X, Y[:3])
    with pytest.raises(McdoError, match="unequal length"):
        disattenuated_spearman(X, OWN[1:])


def test_no_interval_is_given_where_more_resamples_have_no_correction_than_its_tail_holds() -> None:
    rng = np.random.default_rng(28)
    exact = rng.normal(size=40)
    scores = exact + 1.2 * rng.normal(size=(2, 40))
    draws = [corrected(scores[:, i], exact[i]) for i in rng.integers(0, 40, size=(250, 40))]
    assert 0.035 < np.isnan(draws).mean() < 0.085, "between the tail of 95 % and that of 80 %"
    assert math.isnan(disattenuated_spearman(scores, exact, level=0.95).value)
    assert disattenuated_spearman(scores, exact, level=0.80).value == pytest.approx(corrected(scores, exact))
