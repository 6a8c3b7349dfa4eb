"""Tracking metrics against cases counted by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdo.stats import Association, tracking_metrics


def frame(*pairs: tuple[int | None, str | None, int | None]) -> list[Association]:
    return [Association(*pair) for pair in pairs]


def test_a_perfect_sequence_has_accuracy_one_and_no_events() -> None:
    found = tracking_metrics([frame((1, "a", 1), (2, "b", 2))] * 4)
    assert (found.assignment_accuracy, found.correct, found.labelled) == (1.0, 8, 8)
    assert (found.id_switches, found.fragmentation) == (0, 0)


def test_a_swap_and_back_counts_two_switches_for_each_track_and_one_fragment_for_each_object() -> None:
    right, swapped = frame((1, "a", 1), (2, "b", 2)), frame((2, "a", 1), (1, "b", 2))
    found = tracking_metrics([right, swapped, right])
    assert found.assignment_accuracy == pytest.approx(4 / 6)
    assert found.id_switches == 4
    assert found.fragmentation == 2


def test_an_object_that_was_not_detected_is_no_fragment_and_no_switch() -> None:
    found = tracking_metrics([frame((1, "a", 1)), frame(), frame((1, "a", 1))])
    assert (found.id_switches, found.fragmentation) == (0, 0)


def test_an_object_given_to_no_track_in_between_is_a_fragment() -> None:
    found = tracking_metrics([frame((1, "a", 1)), frame((1, None, None)), frame((1, "a", 1))])
    assert (found.fragmentation, found.id_switches, found.labelled) == (1, 0, 2)


def test_wrong_before_the_first_right_association_is_no_fragment() -> None:
    found = tracking_metrics([frame((1, "b", 2)), frame((1, "a", 1)), frame((1, "a", 1))])
    assert found.fragmentation == 0


@pytest.mark.parametrize("unlabelled", [(None, "a", 1), (1, "a", None), (1, None, None)])
def test_an_unlabelled_pair_is_neither_right_nor_wrong(unlabelled: tuple[int | None, str | None, int | None]) -> None:
    found = tracking_metrics([frame((1, "a", 1)), frame(unlabelled)])
    assert (found.correct, found.labelled) == (1, 1)


def test_nothing_labelled_has_no_accuracy() -> None:
    found = tracking_metrics([frame((None, "a", 1))])
    assert math.isnan(found.assignment_accuracy)
    assert found.as_dict()["assignment_accuracy"] is None


@settings(deadline=None, derandomize=True)
@given(st.lists(st.permutations([0, 1, 2, 3]), min_size=1, max_size=8))
def test_counts_are_bounded_and_accuracy_is_the_share_of_fixed_points(given_to: list[list[int]]) -> None:
    found = tracking_metrics([frame(*((o, str(t), t) for o, t in enumerate(order))) for order in given_to])
    fixed = sum(o == t for order in given_to for o, t in enumerate(order))
    assert found.assignment_accuracy == fixed / (4 * len(given_to))
    changes = sum(before.index(t) != after.index(t) for before, after in itertools.pairwise(given_to) for t in range(4))
    assert found.id_switches == changes
    assert 0 <= found.fragmentation <= found.correct
