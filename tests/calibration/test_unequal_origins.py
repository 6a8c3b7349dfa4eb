"""Origins of 1 to 50 images, as in data that nobody evened out: a few of them are most of the images."""

from __future__ import annotations

import numpy as np
import pytest
from populations import Population

from mcdo.stats import reliability

PEOPLE = Population(clustered=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("N", [200, 500])
def test_reliability_errs_on_the_side_of_too_little(N: int) -> None:
    """Few origins span less than the population, so that ρ comes out low, and its interval with it: docs/coverage.md
    has .88 and .87.
    """
    K, runs, goal = 5, 300, PEOPLE.spearman(5)
    rng, beside = np.random.default_rng(N), np.zeros(2)
    for seed in range(runs):
        sizes = np.exp(rng.normal(np.log(4), 1.2, N)).round().clip(1, 50).astype(int)
        origins = np.repeat(np.arange(N), sizes)[:N]
        (sample,) = PEOPLE.of_origins(rng, 1, K, origins)
        found = reliability(sample.scores, origins=origins, shared_noise=False, seed=seed, resamples=200).spearman_ci
        beside += found[0] > goal, found[1] < goal
    above, below = beside / runs
    assert 0.82 <= 1 - above - below <= 0.92
    assert above <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / runs)
