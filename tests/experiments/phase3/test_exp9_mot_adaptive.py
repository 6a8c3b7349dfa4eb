"""Exp9: does an uncertainty help to associate detections with tracks?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.experiments.phase3.exp9_tracking.association import BASELINE, TrackingResult
from mcdo.experiments.phase3.exp9_tracking.experiment import OwnTracking, SyntheticTracking
from mcdo.experiments.phase3.exp9_tracking.images import CONTROLS, MODES, ImageTracking
from mcdo.harness import Completed, Images
from mcdo.harness.tests import about, claims_of, contract_of

pytestmark = pytest.mark.phase3

Record = Callable[[str, object], None]

test_claims_on_synthetic_sequences = claims_of(SyntheticTracking)
test_contract_on_synthetic_sequences = contract_of(SyntheticTracking)
test_claims_on_sequences_of_images = claims_of(ImageTracking)
test_contract_on_sequences_of_images = contract_of(ImageTracking)


def record(result: TrackingResult, record_property: Record) -> None:
    for mode, beta in result.betas.items():
        gain = f"accuracy {result.gains[mode].accuracy}, {result.gains[mode]}, " if mode in result.gains else ""
        counts = f"{result.total(mode, 'id_switches')} switches, {result.total(mode, 'fragmentation')} fragments"
        right = f"{result.total(mode, 'correct')} of {result.total(mode, 'labelled')} right"
        record_property(mode, f"{gain}{right}, beta {beta:g}, {counts}")


@about(SyntheticTracking)
def test_synthetic_sequences_are_reported(result: TrackingResult, record_property: Record) -> None:
    record(result, record_property)
    assert set(result.gains) == {BASELINE, "adaptive", "oracle", "shuffled"}
    assert 0 < result.total(BASELINE, "correct") < result.total(BASELINE, "labelled"), "nothing to gain or lose"


@about(ImageTracking)
def test_sequences_of_images_are_reported(result: TrackingResult, record_property: Record) -> None:
    record(result, record_property)
    assert set(result.gains) == {BASELINE, "oracle", "shuffled", *MODES, *CONTROLS}
    assert 0 < result.total(BASELINE, "correct") < result.total(BASELINE, "labelled"), "nothing to gain or lose"


@about(ImageTracking)
def test_no_original_is_both_chosen_on_and_reported_on(completed: Completed[TrackingResult]) -> None:
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, ImageTracking)
    origins = inputs.images(Images(experiment.n)).origins
    chosen_on, reported = experiment.groups(origins)
    named = [
        {origins[i] for group in groups for original in group for i in original} for groups in (chosen_on, reported)
    ]
    assert not named[0] & named[1]
    assert completed.result.gains[BASELINE].accuracy.n == min(len(reported), experiment.sequences), (
        "groups are the unit"
    )


@about(OwnTracking)
def test_sequences_of_ones_own_are_reported(result: TrackingResult, record_property: Record) -> None:
    """With --tracking=FILE.json,…, each a list of frames with tracks, detections and costs."""
    record(result, record_property)
    assert result.total(BASELINE, "labelled") > 0
