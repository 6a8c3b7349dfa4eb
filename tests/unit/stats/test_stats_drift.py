from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdo.errors import McdoError
from mcdo.stats.drift import stacked_drift, trial_drift


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 12), st.floats(0.1, 10))
def test_scores_that_grow_by_themselves_at_every_trial_have_the_drift_of_stacking(K: int, size: float) -> None:
    rng = np.random.default_rng(0)
    stacked = size * np.arange(1, K + 1)[:, None] * rng.uniform(1, 2, 20)
    assert trial_drift(stacked, resamples=20).value == pytest.approx(stacked_drift(K))


def test_by_hand() -> None:
    """Trials 1, 2, 3 and 3, 3, 3: slopes 1 and 0, so 0.5 over a mean of 2.5."""
    assert trial_drift([[1.0, 3.0], [2.0, 3.0], [3.0, 3.0]], resamples=5).value == pytest.approx(0.2)


def test_exchangeable_trials_include_zero_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(100):
        scores = rng.uniform(1, 5, 100) * rng.chisquare(63, (3, 100)) / 63
        e = trial_drift(scores, seed=seed, resamples=300)
        inside += e.low <= 0 <= e.high
        assert e.high < stacked_drift(3)
    assert inside >= 86  # 95 expected; 86 is four standard deviations below


def test_one_trial_and_dead_scores_are_refused() -> None:
    with pytest.raises(McdoError, match="at least two trials"):
        trial_drift(np.ones((1, 5)))
    with pytest.raises(McdoError, match="mean zero"):
        trial_drift(np.zeros((2, 5)))
