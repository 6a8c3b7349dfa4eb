from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.stats.resampling import Units
from mcdo.stats.sharing import noise_sharing


def independent(rng: np.random.Generator, K: int, N: int) -> NDArray[np.float64]:
    return np.asarray(rng.lognormal(0, 0.5, N) * rng.chisquare(8, (K, N)))


def test_statistic_is_the_departure_of_the_gram_matrix_from_sphericity() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 7))
    d, P = scores - scores.mean(axis=0), np.eye(4) - 1 / 4
    parts = [np.outer(x, x) - x @ x / 3 * P for x in d.T]
    whole, own = np.linalg.norm(sum(parts)) ** 2, sum(np.linalg.norm(part) ** 2 for part in parts)
    found = noise_sharing(scores, Units.of(None, 7))
    assert found.p == pytest.approx(scipy.stats.chi2.sf(5 * whole / own, 5))
    assert found.share == pytest.approx(math.sqrt(whole / (1 - 1 / 3)) / (d**2).sum())


@pytest.mark.parametrize("K", [3, 5, 10])
def test_independent_noise_is_rejected_at_its_rate_and_shared_noise_nearly_always(K: int) -> None:
    rng, N, runs = np.random.default_rng(K), 200, 300
    units = Units.of(None, N)
    null = np.array([noise_sharing(independent(rng, K, N), units).p for _ in range(runs)])
    assert 0.06 <= np.mean(null < 0.1) <= 0.15
    shared = [
        noise_sharing(rng.normal(size=(K, N)) + rng.normal(size=(K, 1)) * rng.normal(size=N), units)
        for _ in range(runs)
    ]
    assert np.mean([found.p < 0.1 for found in shared]) > (0.8 if K == 3 else 0.95)
    if K == 10:
        assert np.median([found.share for found in shared]) == pytest.approx(0.5, abs=0.06)


def test_a_drift_from_trial_to_trial_is_shared_noise() -> None:
    rng = np.random.default_rng(0)
    drifting = rng.normal(size=300) + 0.5 * rng.normal(size=(4, 300)) + np.array([[0.0], [0.5], [1.0], [1.5]])
    found = noise_sharing(drifting, Units.of(None, 300))
    assert found.p < 1e-6
    between = np.var([0, 0.5, 1, 1.5], ddof=1)
    assert found.share == pytest.approx(between / (between + 0.25), abs=0.05)


def test_images_of_one_origin_may_share_noise_without_the_trial_sharing_it() -> None:
    rng, runs = np.random.default_rng(1), 200
    origins = np.repeat(np.arange(40), 5)
    draws = [rng.normal(size=(4, 40))[:, origins] + 0.5 * rng.normal(size=(4, 200)) for _ in range(runs)]
    by_origin = [noise_sharing(scores, Units.of(origins, 200)).p for scores in draws]
    by_image = [noise_sharing(scores, Units.of(None, 200)).p for scores in draws]
    assert np.mean(np.array(by_origin) < 0.1) <= 0.16
    assert np.mean(np.array(by_image) < 0.1) > 0.5  # what counting images would have claimed


def test_two_trials_show_nothing_and_no_noise_is_not_shared() -> None:
    two = noise_sharing(np.random.default_rng(0).normal(size=(2, 50)), Units.of(None, 50))
    assert math.isnan(two.p)
    assert math.isnan(two.share)
    same = noise_sharing(np.tile(np.arange(50.0), (5, 1)), Units.of(None, 50))
    assert (same.p, same.share) == (1.0, 0.0)
