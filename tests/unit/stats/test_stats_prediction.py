from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import Thresholds, predicted_reliability, reliability, smallest_usable_passes

N, K = 400, 10


def variance_scores(passes: int, seed: int, spread: float = 0.5) -> NDArray[np.float64]:
    """Sample variances of ``passes`` normal passes: skewed images, skewed noise, the same images for every T."""
    own = np.random.default_rng(99).lognormal(0, spread, N)
    freedom = 3 * (passes - 1)
    return np.asarray(own * np.random.default_rng(seed).chisquare(freedom, (K, N)) / freedom)


def test_figures_follow_their_closed_forms() -> None:
    run = reliability(variance_scores(16, 0))
    ahead = predicted_reliability(run, 16, [64])[64]
    within = run.noise / 4
    between = run.signal - run.noise / K
    assert ahead.icc.value == pytest.approx(between / (between + within))
    assert ahead.snr.value == pytest.approx(between / within + 1 / K)
    assert ahead.spearman.value == pytest.approx(4 * run.spearman / (1 + 3 * run.spearman))
    assert ahead.spearman.low < ahead.spearman.value < ahead.spearman.high


def test_prediction_at_the_measured_passes_is_the_measurement() -> None:
    run = reliability(variance_scores(16, 1))
    here = predicted_reliability(run, 16, [16])[16]
    for name in ("spearman", "snr", "icc"):
        predicted, measured = getattr(here, name), run.estimate(name)
        assert (predicted.value, predicted.low, predicted.high) == pytest.approx(
            (measured.value, measured.low, measured.high)
        )
    assert here.status == run.status


@pytest.mark.parametrize("spread", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(("start", "goal"), [(8, 64), (16, 256), (64, 16)])
def test_predictions_meet_measurements_of_skewed_scores(spread: float, start: int, goal: int) -> None:
    run = reliability(variance_scores(start, 1, spread), resamples=20)
    predicted = predicted_reliability(run, start, [goal], degrees_lost=1)[goal]
    measured = reliability(variance_scores(goal, 2, spread), resamples=20)
    assert predicted.spearman.value == pytest.approx(measured.spearman, abs=0.02)
    assert predicted.icc.value == pytest.approx(measured.icc, abs=0.03)


def test_the_smallest_usable_passes_sit_on_the_threshold() -> None:
    run = reliability(variance_scores(8, 3), resamples=200)
    fewest = smallest_usable_passes(run, 8, [4, 16, 64, 256])
    assert fewest.continuous is not None
    assert fewest.low is not None
    assert fewest.high is not None
    assert fewest.low < fewest.continuous < fewest.high
    above, below = math.ceil(fewest.continuous), math.floor(fewest.continuous)
    status = {T: found.status for T, found in predicted_reliability(run, 8, [below, above]).items()}
    assert status[above] == "usable" != status[below]
    assert fewest.on_grid == min(T for T in (4, 16, 64, 256) if above <= T)
    assert fewest.limiting in ("spearman", "icc")


def test_the_figure_with_the_hardest_bar_limits() -> None:
    run = reliability(variance_scores(8, 3), resamples=20)
    bars = Thresholds(usable_snr=50.0)
    fewest = smallest_usable_passes(run, 8, thresholds=bars)
    assert fewest.limiting == "snr"
    assert fewest.continuous == pytest.approx(8 * (50 - 1 / K) / run.snr_corrected)
    there = predicted_reliability(run, 8, [math.ceil(fewest.continuous or 0)], thresholds=bars)
    assert [found.status for found in there.values()] == ["usable"]


def test_a_perfect_score_needs_only_the_two_passes_of_a_variance() -> None:
    found = smallest_usable_passes(np.tile([1.0, 2, 3, 4], (3, 1)), 16, [2, 4])
    assert (found.continuous, found.on_grid) == (2.0, 2)


def test_noise_is_never_usable() -> None:
    noise = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    found = smallest_usable_passes(noise, 16, [4, 16, 64])
    assert (found.continuous, found.low, found.high, found.on_grid) == (None, None, None, None)
    ahead = predicted_reliability(noise, 16, [1024])[1024]
    assert (ahead.spearman.value, ahead.icc.value, ahead.snr.value, ahead.status) == (0, 0, 0.5, "failed")


def test_no_grid_point_large_enough_is_none() -> None:
    assert smallest_usable_passes(variance_scores(8, 0), 8, [4, 8]).on_grid is None


def test_prediction_needs_trials_and_passes() -> None:
    with pytest.raises(McdoError, match="at least 2 trials"):
        predicted_reliability([[1.0, 2, 3]], 4, [8])
    with pytest.raises(McdoError, match="passes"):
        predicted_reliability(variance_scores(8, 0), 0, [8])
    with pytest.raises(McdoError, match="passes"):
        predicted_reliability(variance_scores(8, 0), 8, [1], degrees_lost=1)
