from __future__ import annotations

from typing import TypeVar

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import expected_calibration_error
from mcdo.studies.subtasks.splits import CalibrationSplit, Predictions, Split, TestSplit, TrainSplit, ValidationSplit
from mcdo.studies.subtasks.temperature import BOUNDS, ECE_GRID, UNSCALED, By, fit_temperature

law = settings(derandomize=True, deadline=None, max_examples=8)
Kind = TypeVar("Kind", bound=Split)


def split(kind: type[Kind], labels: NDArray[np.int64]) -> Kind:
    ids = tuple(f"{kind.__name__}/{i}" for i in range(len(labels)))
    return kind(ids, ids, np.zeros((len(labels), 1), np.float32), labels)


def drawn(seed: int, n: int = 400, true_t: float = 1.0) -> Predictions[CalibrationSplit]:
    """Labels drawn from softmax(logits / true_t)."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((n, 5))
    p = scipy.special.softmax(logits / true_t, axis=1)
    labels = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1).astype(np.int64)
    return Predictions(split(CalibrationSplit, labels), logits)


def nll(held: Predictions[CalibrationSplit], t: float) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(held.split.labels, scipy.special.softmax(held.logits / t, axis=1), labels=np.arange(5)))


COARSE = np.geomspace(*BOUNDS, 10)


@law
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_by_nll_no_temperature_nearby_or_of_a_coarse_grid_is_better(seed: int, true_t: float) -> None:
    held = drawn(seed, true_t=true_t)
    found = fit_temperature(held)
    assert not found.at_bound
    others = (*COARSE, *found.value * np.array([0.99, 0.999, 1.001, 1.01]))
    assert nll(held, found.value) <= min(nll(held, t) for t in others) + 1e-9


@pytest.mark.parametrize("true_t", [0.5, 1.431, 3.0])
def test_the_temperature_that_made_the_labels_is_recovered(true_t: float) -> None:
    found = [fit_temperature(drawn(seed, 1000, true_t)).value for seed in range(20)]
    standard_error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - true_t) < 4 * standard_error + 0.01 * true_t


@law
@given(st.integers(0, 1000), st.sampled_from([0.7, 2.0]))
def test_by_ece_no_temperature_of_the_grid_is_better(seed: int, true_t: float) -> None:
    held = drawn(seed, 100, true_t)
    correct = held.logits.argmax(axis=1) == held.split.labels
    errors = [
        expected_calibration_error(scipy.special.softmax(held.logits / t, axis=1).max(axis=1), correct)
        for t in ECE_GRID
    ]
    at = errors[int(np.flatnonzero(fit_temperature(held, "ece").value == ECE_GRID)[0])]
    assert at == pytest.approx(min(errors), abs=1e-9)


def test_of_equal_eces_the_temperature_nearest_to_one_is_taken() -> None:
    even = Predictions(split(CalibrationSplit, np.array([0, 1])), np.zeros((2, 2)))  # confidence 1/2 at every T
    assert fit_temperature(even, "ece").value == 1.0


def test_what_the_calibration_split_does_not_determine_is_marked() -> None:
    sure = Predictions(split(CalibrationSplit, np.array([0, 1, 0])), np.array([[2.0, 0], [0, 2.0], [1.0, 0]]))
    assert fit_temperature(sure).at_bound
    assert fit_temperature(sure).value == pytest.approx(BOUNDS[0], rel=0.01)


@pytest.mark.parametrize("by", ["nll", "ece"])
def test_a_temperature_changes_no_prediction(by: By) -> None:
    held = drawn(3, true_t=2.0)
    scaled = fit_temperature(held, by).probabilities(held)
    np.testing.assert_array_equal(scaled.argmax(axis=1), held.logits.argmax(axis=1))
    np.testing.assert_allclose(scaled.sum(axis=1), 1)


def test_unscaled_is_the_softmax() -> None:
    held = drawn(4)
    np.testing.assert_allclose(UNSCALED.probabilities(held), scipy.special.softmax(held.logits, axis=1))


def test_a_temperature_cannot_be_fitted_on_the_test_split() -> None:
    test = Predictions(split(TestSplit, np.array([0, 1])), np.eye(2))
    # mypy (strict: warn_unused_ignores) makes the next line an error as soon as the signature would allow it
    with pytest.raises(McdoError, match="TestSplit; give the CalibrationSplit"):
        fit_temperature(test)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [TrainSplit, ValidationSplit, Split])
def test_a_temperature_can_be_fitted_on_no_other_split(kind: type[Split]) -> None:
    other = Predictions(split(kind, np.array([0, 1])), np.eye(2))
    with pytest.raises(McdoError, match=kind.__name__):
        fit_temperature(other)  # type: ignore[arg-type]
