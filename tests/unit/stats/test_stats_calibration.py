from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import (
    adaptive_calibration_error,
    expected_calibration_error,
    reliability_diagram,
)

law = settings(derandomize=True, deadline=None, max_examples=25)
confidences = hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(0, 60).map(lambda i: i / 60))


def naive_ece(confidence: Any, correct: Any, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        lo, hi = b / bins, (b + 1) / bins
        held = [i for i, c in enumerate(confidence) if lo < c <= hi or (b == 0 and c == 0)]
        if held:
            gap = np.mean([correct[i] for i in held]) - np.mean([confidence[i] for i in held])
            total += len(held) / len(confidence) * abs(gap)
    return float(total)


@law
@given(confidences, st.integers(1, 20), st.integers(0, 9))
def test_ece_matches_the_loop_over_bins(confidence: NDArray[np.float64], bins: int, seed: int) -> None:
    correct = np.random.default_rng(seed).integers(0, 2, len(confidence))
    found = expected_calibration_error(confidence, correct, bins)
    assert found == pytest.approx(naive_ece(confidence, correct, bins), abs=1e-12)
    order = np.random.default_rng(seed).permutation(len(confidence))
    for error in (expected_calibration_error, adaptive_calibration_error):
        assert error(confidence[order], correct[order], bins) == pytest.approx(error(confidence, correct, bins))


def test_confidence_exactly_zero_and_one_count() -> None:
    assert expected_calibration_error([1.0, 1.0], [1, 1]) == 0
    assert expected_calibration_error([1.0, 1.0], [0, 1]) == 0.5
    assert expected_calibration_error([0.0, 0.0], [0, 0]) == 0
    assert expected_calibration_error([0.0, 1.0], [1, 0]) == 1
    assert list(reliability_diagram([0.0, 1.0], [0, 1], 4).count) == [1, 0, 0, 1]


@pytest.mark.parametrize("bins", [10, 15, 3, 7])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(bins: int) -> None:
    edges = [k / bins for k in range(1, bins + 1)]
    np.testing.assert_array_equal(reliability_diagram(edges, [1] * bins, bins).count, np.ones(bins))
    above = np.nextafter(edges[:-1], 2)
    np.testing.assert_array_equal(reliability_diagram(above, [1] * (bins - 1), bins).count, [0] + [1] * (bins - 1))


def test_one_bin_is_the_overall_gap_and_empty_bins_weigh_nothing() -> None:
    assert expected_calibration_error([0.2, 0.9], [0, 1], 1) == pytest.approx(0.05)
    assert expected_calibration_error([0.2, 0.9], [0, 1], 1000) == pytest.approx((0.2 + 0.1) / 2)
    diagram = reliability_diagram([0.2, 0.9], [0, 1], 2)
    np.testing.assert_allclose(diagram.accuracy, [0, 1])
    np.testing.assert_allclose(diagram.confidence, [0.2, 0.9])
    assert np.isnan(reliability_diagram([0.2], [0], 2).accuracy[1])


def test_errors_that_cancel_in_a_bin_are_seen_by_finer_or_adaptive_bins() -> None:
    confidence, correct = [0.61, 0.69], [1, 0]
    assert expected_calibration_error(confidence, correct, 2) == pytest.approx(0.15)
    assert adaptive_calibration_error(confidence, correct, 2) == pytest.approx((0.39 + 0.69) / 2)


def test_adaptive_bins_hold_equal_shares_and_keep_ties_together() -> None:
    confidence = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    correct = np.array([0, 1, 0, 1, 1, 0])
    pairs = [(slice(0, 2)), (slice(2, 4)), (slice(4, 6))]
    expected = np.mean([abs(confidence[s].mean() - correct[s].mean()) for s in pairs])
    assert adaptive_calibration_error(confidence, correct, 3) == pytest.approx(expected)
    assert adaptive_calibration_error([0.5] * 4, [1, 1, 0, 0], 4) == 0


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "message"),
    [
        ([1.0001], [1], 15, "outside"),
        ([-0.1], [1], 15, "outside"),
        ([0.5, math.nan], [1, 1], 15, "nan at image 1"),
        ([0.5], [1, 0], 15, "unequal length"),
        ([], [], 15, "at least 1"),
        ([0.5], [0.5], 15, "0 or 1"),
        ([0.5], [1], 0, "bins = 0"),
        ([0.5], [1], 2.5, "bins = 2.5"),
    ],
)
@pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error])
def test_malformed_input_is_refused(error: Any, confidence: Any, correct: Any, bins: Any, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        error(confidence, correct, bins)
