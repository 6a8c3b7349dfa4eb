from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.stats.resampling import Units, multiplicities
from mcdo.stats.signal_noise import icc_from_snr, signal_noise, snr_confidence, snr_from_icc

Scores = NDArray[np.float64]
inner = importlib.import_module("mcdo.stats.signal_noise")
ORIGINS = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5, 6, 7, 7, 8, 9, 9])


def skewed(K: int, N: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.lognormal(0, 0.5, N) * rng.chisquare(20, (K, N)) / 20)


def log_ratio(scores: Scores) -> float:
    """log of Var_i(mean_k) with ddof 0 over mean_i Var_k."""
    return math.log(scores.mean(axis=0).var() / scores.var(axis=0, ddof=1).mean())


def test_resampled_ratio_is_that_of_the_images_drawn() -> None:
    scores, units = skewed(4, len(ORIGINS), 0), Units.of(ORIGINS, len(ORIGINS))
    weights = multiplicities(units.n, 5, 0)
    sums = inner._unit_sums(scores, units)
    drawn, _ = inner._log_ratio(weights, sums)
    by_hand = [log_ratio(scores[:, np.repeat(np.arange(len(ORIGINS)), w[ORIGINS].astype(int))]) for w in weights]
    np.testing.assert_allclose(drawn, np.array(by_hand) - log_ratio(scores))


def test_standard_error_is_the_infinitesimal_jackknife_over_units() -> None:
    scores, units = skewed(4, len(ORIGINS), 0), Units.of(ORIGINS, len(ORIGINS))
    sums, n, step = inner._unit_sums(scores, units), units.n, 1e-6
    up, down = (inner._log_ratio(1 + sign * step * np.eye(n), sums)[0] for sign in (1, -1))
    slopes = (up - down) / (2 * step)
    error = inner._log_ratio(np.ones((1, n)), sums)[1][0]
    assert error == pytest.approx(math.sqrt((slopes**2).sum() * n / (n - 1)), rel=1e-6)


def test_arms_are_the_bootstrap_t_and_freedom_is_satterthwaites() -> None:
    scores, N = skewed(5, 60, 1), 60
    found = snr_confidence(scores, Units.of(None, N), 0.0, 999, 0)
    t = []
    value, error, influence = naive(scores)
    for weights in multiplicities(N, 999, 0):
        drawn, its, _ = naive(scores[:, np.repeat(np.arange(N), weights.astype(int))])
        t.append((drawn - value) / its)
    low, high = np.quantile(t, [0.025, 0.975], method="inverted_cdf")
    student = scipy.stats.t.ppf(0.975, N - 1)
    kurtosis = (influence**4).mean() / (influence**2).mean() ** 2
    assert found.freedom == pytest.approx(2 * N / (kurtosis - 1))
    distance, variances = (scores.mean(axis=0) - scores.mean()) ** 2, scores.var(axis=0, ddof=1)
    one_more = (1 + part.max() / part.sum() for part in (distance, variances))
    signal, noise = (math.log(share) / scipy.stats.t.ppf(0.975, found.freedom) for share in one_more)
    assert found.below == pytest.approx(error * high / student + noise, rel=1e-6)
    assert found.above == pytest.approx(-error * low / student + signal, rel=1e-6)
    assert found.centre == pytest.approx(math.log(np.divide(*signal_noise(scores))))


def naive(scores: Scores) -> tuple[float, float, Scores]:
    """log ratio, its standard error and the influence of each image, from their definitions."""
    N = scores.shape[1]
    means, variances = scores.mean(axis=0), scores.var(axis=0, ddof=1)
    influence = (means - means.mean()) ** 2 / means.var() - variances / variances.mean()
    return log_ratio(scores), math.sqrt((influence**2).sum() / (N - 1) / N), influence


def test_what_trials_do_to_the_signal_is_their_covariance_with_the_images_means() -> None:
    rng, N, K = np.random.default_rng(0), 4000, 6
    own, z = rng.normal(size=N), rng.normal(size=(K, 1))
    gain = own * (1 + 0.1 * z) + 0.2 * rng.normal(size=(K, N))  # the variance of the mean goes as (1 + 0.1 mean z)²
    found = inner._signal_over_trials(gain, signal_noise(gain)[0], Units.of(None, N))
    slope = 0.2 / (1 + 0.1 * z.mean())
    assert found == pytest.approx(slope**2 * z.var(ddof=1) / K, rel=0.05)
    independent = own + 0.2 * rng.normal(size=(K, N))
    assert inner._signal_over_trials(independent, signal_noise(independent)[0], Units.of(None, N)) < 0.05 * found


def test_too_few_units_bound_nothing() -> None:
    scores = skewed(4, 3, 0)
    assert snr_confidence(scores, Units.of(None, 3), 0.0, 1000, 0).interval(0.95) == (0, math.inf)
    assert snr_confidence(skewed(4, 10, 0), Units.of(np.repeat([0, 1], 5), 10), 0.0, 1000, 0).interval(0.95)[0] == 0


def test_icc_and_snr_are_inverse() -> None:
    for icc in (-0.2, 0.0, 0.75, 0.99):
        assert icc_from_snr(snr_from_icc(icc, 5), 5) == pytest.approx(icc)
    assert snr_from_icc(0.75, 10) == pytest.approx(3.1)  # 3 and its 1/K
    assert snr_from_icc(1.0, 4) == math.inf
