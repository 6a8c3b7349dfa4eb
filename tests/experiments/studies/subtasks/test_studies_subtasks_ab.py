"""S2 on the session's encoder: two options and a control, what subtasks add, calibration, triage.

Option: --cifar10=PATH, in place of the digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from mcdo.harness.tests import claims_of, contract_of, of_experiment
from mcdo.studies.subtasks import SubtaskStudy
from mcdo.studies.subtasks.config import ARMS
from mcdo.studies.subtasks.dropout import READINGS
from mcdo.studies.subtasks.evaluate import OPTIONS, Evaluation
from mcdo.studies.subtasks.report import show
from mcdo.studies.subtasks.temperature import UNSCALED

pytestmark = of_experiment(SubtaskStudy)
Record = Callable[[str, object], None]

test_claim_of_s2 = claims_of(SubtaskStudy)
test_contract = contract_of(SubtaskStudy)


@pytest.mark.parametrize(("arm", "seed"), itertools.product([arm.name for arm in ARMS], SubtaskStudy().seeds), ids=str)
def test_an_arm_is_trained_and_calibrated_as_the_protocol_says(
    result: Evaluation, arm: str, seed: int, record_property: Record
) -> None:
    run, config, splits = result.runs.run(arm, seed), result.runs.config, result.runs.splits
    accuracy = [epoch.accuracy for epoch in run.history]
    assert run.best_epoch == 1 + int(np.argmax(accuracy))
    assert len(accuracy) == min(run.best_epoch + config.patience, config.max_epochs)
    assert run.test.split is splits.test
    assert run.calibration.split is splits.calibration
    labels, rows = run.calibration.split.labels, np.arange(len(run.calibration.split))
    before, after = (t.probabilities(run.calibration)[rows, labels] for t in (UNSCALED, run.temperature))
    assert np.log(after).mean() >= np.log(before).mean() - 1e-6
    chance = np.bincount(splits.test.labels).max() / len(splits.test)
    assert run.correct.mean() > 2 * chance, f"{arm} seed {seed} has learned nothing: accuracy {run.correct.mean():.3f}"
    record_property("accuracy", f"{run.correct.mean():.4f} n={len(run.correct)}")
    record_property("temperature", f"{run.temperature.value:.3f} by NLL, {run.temperature_ece.value:.3f} by ECE")


def test_seeds_give_other_networks(result: Evaluation) -> None:
    one, other, *_ = (run.test.logits for run in result.runs.of("A"))
    assert np.abs(one - other).max() > 1e-3


def test_every_comparison_is_reported(result: Evaluation, record_property: Record) -> None:
    assert len(result.contrasts) == 3 * 4 + 3 * 4 + 4 + 3 * 3
    assert len(result.mcnemar) == 3 * 3 + 3
    assert len(result.triage) == len(OPTIONS) * len(READINGS) * 3
    for name, arm in result.arms.items():
        record_property(name, f"accuracy {show(arm.after['accuracy'])} %, ECE {show(arm.after['ece'])} %")


def test_triage_classes_partition_the_images(result: Evaluation) -> None:
    for arm, reading in itertools.product(OPTIONS, READINGS):
        rows = [row for row in result.triage if (row.arm, row.reading) == (arm, reading)]
        assert sum(row.share.value for row in rows) == pytest.approx(1)
        for row in rows:
            assert np.isnan(row.accuracy.value) == (row.share.value == 0)
