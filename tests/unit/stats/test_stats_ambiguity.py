from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.rivals.logits import entropy, margin, sigmoid_entropy, sigmoid_margin
from mcdo.stats import above_chance, ambiguity_targets, prompt_sensitivity

law = settings(derandomize=True, deadline=None, max_examples=25)
moderate = hnp.arrays(np.float64, (4, 5), elements=st.floats(-20, 20, width=32))


def test_hand_computed_margin_and_entropy() -> None:
    logits = np.log([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(margin(logits), [math.log(2), 0], atol=1e-15)
    np.testing.assert_allclose(entropy(logits), [1.5 * math.log(2), math.log(3)])


@law
@given(moderate)
def test_softmax_entropy_matches_scipy_and_ignores_shifts_and_class_order(logits: NDArray[np.float64]) -> None:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(entropy(logits), scipy.stats.entropy(p, axis=1), atol=1e-12)
    np.testing.assert_allclose(entropy(logits + 7), entropy(logits), atol=1e-9)
    np.testing.assert_allclose(entropy(logits[:, ::-1]), entropy(logits), atol=1e-12)
    np.testing.assert_allclose(margin(logits[:, ::-1]), margin(logits))


@law
@given(moderate)
def test_sigmoid_targets_match_their_definitions(logits: NDArray[np.float64]) -> None:
    p = 1 / (1 + np.exp(-logits))
    ordered = np.sort(p, axis=1)
    np.testing.assert_allclose(sigmoid_margin(logits), ordered[:, -1] - ordered[:, -2], atol=1e-12)
    binary = [[scipy.stats.entropy([q, 1 - q]) for q in row] for row in p]
    np.testing.assert_allclose(sigmoid_entropy(logits), np.mean(binary, axis=1), atol=1e-7)


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [-800.0, -801.0, -900.0]])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(entropy(logits), [0, math.log(3), 0.5822032], atol=1e-6)
        np.testing.assert_allclose(sigmoid_entropy(logits), [math.log(2) / 3, 0, 0], atol=1e-12)
        np.testing.assert_allclose(sigmoid_margin(logits), [0.5, 0, 0], atol=1e-12)
    # two confident classes: the plain difference of probabilities would be exactly 0
    assert sigmoid_margin(np.array([[41.0, 40.0]]))[0] == pytest.approx(math.exp(-40) - math.exp(-41))


def test_prompt_sensitivity_is_the_sample_variance_of_the_top_probability() -> None:
    logits = np.log([[[0.5, 0.5]], [[0.9, 0.1]], [[0.2, 0.8]]])
    np.testing.assert_allclose(prompt_sensitivity(logits), [np.var([0.5, 0.9, 0.8], ddof=1)])
    as_sigmoid = prompt_sensitivity(np.array([[[0.0, -1]], [[math.log(3), 0]]]), head="sigmoid")
    np.testing.assert_allclose(as_sigmoid, [np.var([0.5, 0.75], ddof=1)])
    assert prompt_sensitivity(np.repeat(logits[1:2], 3, axis=0))[0] == 0


def test_targets_come_from_the_first_template_and_sensitivity_from_all() -> None:
    first, second = np.log([[0.6, 0.4], [0.1, 0.9]]), np.log([[0.3, 0.7], [0.2, 0.8]])
    targets = ambiguity_targets(np.stack([first, second]), [0, 0])
    np.testing.assert_allclose(targets.neg_margin, [-math.log(1.5), -math.log(9)])
    np.testing.assert_array_equal(targets.predicted, [0, 1])
    assert targets.correct is not None
    assert targets.prompt_sensitivity is not None
    np.testing.assert_array_equal(targets.correct, [True, False])
    np.testing.assert_allclose(targets.prompt_sensitivity, [0.005, 0.005])
    single = ambiguity_targets(first)
    assert single.prompt_sensitivity is None
    assert single.correct is None
    sigmoid = ambiguity_targets(first, head="sigmoid")
    np.testing.assert_allclose(sigmoid.neg_margin, -sigmoid_margin(first))
    np.testing.assert_allclose(sigmoid.entropy, sigmoid_entropy(first))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 1)), None, "one class"),
        (np.zeros((0, 3)), None, "shape"),
        (np.zeros(3), None, "shape"),
        ([[0.0, math.nan]], None, "template 0, image 0, class 1"),
        (np.zeros((2, 3)), [0, 3], "label 3.0 at image 1"),
        (np.zeros((2, 3)), [0, 0.5], "label 0.5 at image 1"),
        (np.zeros((2, 3)), [0], "one per image"),
    ],
)
def test_malformed_logits_and_labels_are_refused(logits: Any, labels: Any, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        ambiguity_targets(logits, labels)


def test_one_template_has_no_prompt_sensitivity_and_heads_are_two() -> None:
    with pytest.raises(McdoError, match="2 templates"):
        prompt_sensitivity(np.zeros((1, 2, 3)))
    with pytest.raises(McdoError, match="softmax or sigmoid"):
        ambiguity_targets(np.zeros((2, 3)), head="relu")  # type: ignore[arg-type]


def test_a_head_is_set_against_the_largest_class_whatever_classes_are_called() -> None:
    correct = np.array([1, 1, 0, 1, 0, 1])
    for known in (np.array([-1, -1, -1, 4, 4, 2]), np.array([0.0, 0, 0, 1, 1, 2])):
        assert above_chance(correct, known).value == pytest.approx(4 / 6 - 3 / 6)


@pytest.mark.parametrize(
    ("correct", "labels", "said"),
    [
        ([1, 1, 0], list("aab"), "labels is not an array of real numbers"),
        ([1, 1, 0], [0, 1], "unequal length"),
        ([2, 1, 0], [0, 0, 1], "correct holds 2.0 at image 0"),
    ],
)
def test_what_is_no_head_to_set_against_chance_is_refused(correct: Any, labels: Any, said: str) -> None:
    with pytest.raises(McdoError, match=said):
        above_chance(correct, labels)
