from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.stats.resampling import Units, multiplicities
from mcdo.stats.signal_noise import icc_from_snr, signal_noise, snr_confidence, snr_from_icc

Scores = NDArray[np.float64]
ORIGINS = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5, 6, 7, 7, 8, 9, 9])


def skewed(K: int, N: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.lognormal(0, 0.5, N) * rng.chisquare(20, (K, N)) / 20)


def log_ratio(scores: Scores) -> float:
    """log of Var_i(mean_k) with ddof 0 over mean_i Var_k."""
    return math.log(scores.mean(axis=0).var() / scores.var(axis=0, ddof=1).mean())


def naive(scores: Scores, members: NDArray[np.intp]) -> tuple[float, float, Scores]:
    """log ratio, its standard error and the influence of each unit, from their definitions."""
    means, variances = scores.mean(axis=0), scores.var(axis=0, ddof=1)
    of_images = (means - means.mean()) ** 2 / means.var() - variances / variances.mean()
    influence = np.bincount(members, of_images).astype(np.float64)
    n = len(influence)
    return log_ratio(scores), math.sqrt((influence**2).sum() * n / (n - 1)) / len(members), influence


@pytest.mark.parametrize("origins", [None, ORIGINS], ids=["images", "origins"])
def test_arms_are_the_bootstrap_t_and_freedom_is_satterthwaites(origins: NDArray[np.int64] | None) -> None:
    N = 60 if origins is None else len(origins)
    scores, units = skewed(5, N, 1), Units.of(origins, N)
    found = snr_confidence(scores, units, 0.0, 999, 0)
    value, error, influence = naive(scores, units.members)
    images, t = [np.flatnonzero(units.members == unit) for unit in range(units.n)], []
    for weights in multiplicities(units.n, 999, 0):
        held = [images[unit] for unit in np.repeat(np.arange(units.n), weights.astype(int))]
        drawn, its, _ = naive(scores[:, np.concatenate(held)], np.repeat(np.arange(units.n), list(map(len, held))))
        t.append((drawn - value) / its)
    low, high = np.quantile(t, [0.025, 0.975], method="inverted_cdf")
    student = scipy.stats.t.ppf(0.975, units.n - 1)
    kurtosis = (influence**4).mean() / (influence**2).mean() ** 2
    assert found.freedom == pytest.approx(min(units.n - 1, 2 * units.n / (kurtosis - 1)))
    distance, variances = (scores.mean(axis=0) - scores.mean()) ** 2, scores.var(axis=0, ddof=1)
    by_unit = (np.bincount(units.members, part) for part in (distance, variances))
    one_more = (1 + part.max() / part.sum() for part in by_unit)
    signal, noise = (math.log(share) / scipy.stats.t.ppf(0.975, found.freedom) for share in one_more)
    assert found.below == pytest.approx(error * high / student + noise, rel=1e-6)
    assert found.above == pytest.approx(-error * low / student + signal, rel=1e-6)
    assert found.centre == pytest.approx(math.log(np.divide(*signal_noise(scores))))


def test_what_trials_do_to_the_signal_is_their_covariance_with_the_images_means() -> None:
    rng, N, K = np.random.default_rng(0), 4000, 6
    own, z = rng.normal(size=N), rng.normal(size=(K, 1))
    gain = own * (1 + 0.1 * z) + 0.2 * rng.normal(size=(K, N))  # the variance of the mean goes as (1 + 0.1 mean z)²
    independent = own + 0.2 * rng.normal(size=(K, N))
    found, none = (snr_confidence(each, Units.of(None, N), 1.0, 10, 0).signal for each in (gain, independent))
    slope = 0.2 / (1 + 0.1 * z.mean())
    assert found == pytest.approx(slope**2 * z.var(ddof=1) / K, rel=0.05)
    assert none < 0.05 * found


def test_too_few_units_bound_nothing() -> None:
    scores = skewed(4, 3, 0)
    assert snr_confidence(scores, Units.of(None, 3), 0.0, 1000, 0).interval(0.95) == (0, math.inf)
    assert snr_confidence(skewed(4, 10, 0), Units.of(np.repeat([0, 1], 5), 10), 0.0, 1000, 0).interval(0.95)[0] == 0


def test_icc_and_snr_are_inverse() -> None:
    for icc in (-0.2, 0.0, 0.75, 0.99):
        assert icc_from_snr(snr_from_icc(icc, 5), 5) == pytest.approx(icc)
    assert snr_from_icc(0.75, 10) == pytest.approx(3.1)  # 3 and its 1/K
    assert snr_from_icc(1.0, 4) == math.inf
