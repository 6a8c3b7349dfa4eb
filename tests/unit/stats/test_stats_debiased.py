from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.stats import (
    debiased_ece,
    debiased_squared_calibration_error,
    expected_calibration_error,
    reliability_diagram,
)

law = settings(derandomize=True, deadline=None, max_examples=25)
confidences = hnp.arrays(np.float64, st.integers(2, 60), elements=st.integers(0, 60).map(lambda i: i / 60))
TEN = np.full(10, 0.8), np.array([1] * 7 + [0] * 3)  # one bin: accuracy .7, gap -.1


def resampled_ece(confidence: NDArray[np.float64], correct: NDArray[np.int64], bins: int, draws: int) -> float:
    """Kumar et al.'s own way: normal resamples of each bin's accuracy."""
    diagram = reliability_diagram(confidence, correct, bins)
    full = diagram.count > 0
    accuracy, n = diagram.accuracy[full], diagram.count[full]
    rng = np.random.default_rng(0)
    moved = rng.normal(accuracy, np.sqrt(accuracy * (1 - accuracy) / n), (draws, len(n)))
    again = (np.abs(moved - diagram.confidence[full]) @ n / n.sum()).mean()
    return float(2 * diagram.calibration_error - again)


def test_one_bin_by_hand() -> None:
    assert debiased_squared_calibration_error(*TEN) == pytest.approx(0.1**2 - 0.7 * 0.3 / 9)
    # sd √.021 = .144914, z = .690066: folded mean .144914 · 2 φ(z) + .1 (2 Φ(z) − 1) = .14207
    assert debiased_ece(*TEN) == pytest.approx(0.2 - 0.14207, abs=1e-4)


@law
@given(confidences, st.integers(1, 15), st.integers(0, 9))
def test_the_closed_form_is_the_limit_of_resampling(confidence: NDArray[np.float64], bins: int, seed: int) -> None:
    correct = np.random.default_rng(seed).integers(0, 2, len(confidence))
    assert debiased_ece(confidence, correct, bins) == pytest.approx(
        resampled_ece(confidence, correct, bins, 20_000), abs=0.01
    )


@law
@given(confidences, st.integers(1, 15), st.integers(0, 9))
def test_debiasing_never_adds_and_the_order_does_not_matter(
    confidence: NDArray[np.float64], bins: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    correct, order = rng.integers(0, 2, len(confidence)), rng.permutation(len(confidence))
    assert debiased_ece(confidence, correct, bins) <= expected_calibration_error(confidence, correct, bins) + 1e-12
    for error in (debiased_ece, debiased_squared_calibration_error):
        assert error(confidence[order], correct[order], bins) == pytest.approx(error(confidence, correct, bins))


def test_a_calibrated_model_has_none_on_average_where_the_plug_in_has_some() -> None:
    squared, plain, debiased = [], [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        confidence = rng.choice([0.3, 0.5, 0.9], 150)  # one value per bin, so the bins are exactly calibrated
        correct = rng.random(150) < confidence
        squared.append(debiased_squared_calibration_error(confidence, correct))
        plain.append(expected_calibration_error(confidence, correct))
        debiased.append(debiased_ece(confidence, correct))
    assert abs(np.mean(squared)) < 4 * np.std(squared) / np.sqrt(400)
    assert np.mean(plain) > 0.02
    assert 0 < np.mean(debiased) < 0.7 * np.mean(plain)


def test_confidence_zero_and_one_ties_empty_bins_and_bins_of_one() -> None:
    for error in (debiased_ece, debiased_squared_calibration_error):
        assert error([1.0, 1.0], [1, 1]) == 0
        assert error([0.0, 0.0], [0, 0]) == 0
        assert error([1.0, 1.0, 1.0], [0, 0, 0]) == 1  # accuracy 0 in the bin: no scatter to take off
        assert error([0.2, 0.2, 0.9, 0.9], [0, 0, 1, 1], 1) == error([0.55] * 4, [0, 0, 1, 1], 1)
    assert debiased_squared_calibration_error([0.6], [0]) == 0  # one image says nothing of its own scatter
    assert debiased_ece([0.6], [0]) == pytest.approx(0.6)
