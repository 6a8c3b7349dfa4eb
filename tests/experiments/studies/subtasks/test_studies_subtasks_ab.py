"""S2 on the session's encoder: two options and a control, what subtasks add, calibration, triage.

Every claim has three outcomes: met, not met, undecided. Comparisons of arms are judged by an interval that covers other
images and other seeds, and is stretched over zero where Holm's p is not below .05.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from mcdo.harness import Session, Settings
from mcdo.harness.judge import Judges
from mcdo.stats import Estimate
from mcdo.store import Store
from mcdo.studies.subtasks import Evaluation, Study, SubtaskConfig, evaluate, load_task
from mcdo.studies.subtasks.dropout import READINGS
from mcdo.studies.subtasks.evaluate import OPTIONS
from mcdo.studies.subtasks.labels import META_SUBTASKS
from mcdo.studies.subtasks.report import as_json, show, write
from mcdo.studies.subtasks.temperature import UNSCALED

pytestmark = [pytest.mark.subtasks, pytest.mark.first_model]
ARMS = tuple(arm.name for arm in SubtaskConfig().arms)
SEEDS = SubtaskConfig().seeds
Record = Callable[[str, object], None]


@pytest.fixture(scope="session")
def cifar10(pytestconfig: pytest.Config) -> Path | None:
    """Where CIFAR-10 lies, or None for the digits."""
    found = pytestconfig.getoption("--cifar10", default=None)
    return None if found is None else Path(found)


@pytest.fixture(scope="session")
def study(model: str, session: Session, cifar10: Path | None, pytestconfig: pytest.Config) -> Study:
    """The study of this session: no network is trained twice."""
    settings = session.settings
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def unmuted() -> AbstractContextManager[object]:
        return nullcontext() if capture is None else capture.global_and_fixture_disabled()

    config = SubtaskConfig.of(settings.protocol, settings.seed)
    store = None if settings.store is None else Store(settings.store)
    task = load_task(config, cifar10, settings.images)
    return Study(task, session.encoder(model), config, store, unmuted)


@pytest.fixture(scope="session")
def evaluation(study: Study) -> Evaluation:
    """Everything reported, computed once."""
    return evaluate(study)


@pytest.mark.parametrize(("arm", "seed"), itertools.product(ARMS, SEEDS), ids=lambda value: str(value))
def test_an_arm_is_trained_and_calibrated_as_the_protocol_says(
    study: Study, arm: str, seed: int, record_property: Record
) -> None:
    run, config = study.run(arm, seed), study.config
    assert run.trained is not None
    accuracy = [epoch.accuracy for epoch in run.trained.history]
    assert run.trained.best_epoch == 1 + int(np.argmax(accuracy))
    assert len(accuracy) == min(run.trained.best_epoch + config.patience, config.max_epochs)
    assert run.test.split is study.splits.test
    assert run.calibration.split is study.splits.calibration
    labels, rows = run.calibration.split.labels, np.arange(len(run.calibration.split))
    before, after = (t.probabilities(run.calibration)[rows, labels] for t in (UNSCALED, run.temperature))
    assert np.log(after).mean() >= np.log(before).mean() - 1e-6
    chance = np.bincount(study.splits.test.labels).max() / len(study.splits.test)
    assert run.correct.mean() > 2 * chance, f"{arm} seed {seed} has learned nothing: accuracy {run.correct.mean():.3f}"
    record_property("accuracy", f"{run.correct.mean():.4f} n={len(run.correct)}")
    record_property("temperature", f"{run.temperature.value:.3f} by NLL, {run.temperature_ece.value:.3f} by ECE")


def test_arms_differ_only_in_what_they_are_said_to_differ_in(study: Study) -> None:
    arms = {arm.name: arm for arm in study.config.arms}
    settings = [(arms[name].batch, arms[name].lr) for name in OPTIONS]
    assert settings == [(128, 1e-3), (256, 2e-3), (256, 5e-4)]
    assert {arms[name].inputs for name in OPTIONS} == {"labels"}
    rest = [arm for arm in arms.values() if arm.name not in OPTIONS]
    assert {(arm.batch, arm.lr) for arm in rest} == {(128, 1e-3)}
    D = study.splits.test.features.shape[1]
    widths = {name: study.inputs(study.splits.test, arm, SEEDS[0]).shape[1] - D for name, arm in arms.items()}
    assert widths == {"A": 3, "B": 3, "control": 3, "A_probabilities": 8, "A_no_subtasks": 0, "A_true_subtasks": 3}


def test_seeds_give_other_networks(study: Study) -> None:
    one, other = (study.run("A", seed).test.logits for seed in SEEDS[:2])
    assert np.abs(one - other).max() > 1e-3


def test_the_report_is_written_whole(
    study: Study, evaluation: Evaluation, settings: Settings, record_property: Record
) -> None:
    folder = write(study, evaluation, settings.reports)
    assert {file.name for file in folder.iterdir()} >= {"subtasks.json", "subtasks.md", "subtasks.png"}
    assert (folder / "subtasks.png").read_bytes().startswith(b"\x89PNG")
    held = as_json(study, evaluation)
    assert len(held["contrasts"]) == 3 * 4 + 3 * 4 + 4 + 3 * 3
    assert len(held["mcnemar"]) == 3 * 3 + 3
    assert len(held["triage"]) == len(OPTIONS) * len(READINGS) * 3
    for name, arm in evaluation.arms.items():
        record_property(name, f"accuracy {show(arm.after['accuracy'])} %, ECE {show(arm.after['ece'])} %")


def test_triage_classes_partition_the_images(evaluation: Evaluation) -> None:
    for arm, reading in itertools.product(OPTIONS, READINGS):
        rows = [row for row in evaluation.triage if (row.arm, row.reading) == (arm, reading)]
        assert sum(row.share.value for row in rows) == pytest.approx(1)
        for row in rows:
            assert np.isnan(row.accuracy.value) == (row.share.value == 0)


Claim = Callable[[Evaluation], tuple[Estimate, float, str]]


def _of(first: str, second: str, metric: str, direction: str) -> Claim:
    def claim(evaluation: Evaluation) -> tuple[Estimate, float, str]:
        return evaluation.contrast(first, second, metric).judged, 0.0, direction

    return claim


def _gain(subtask: str) -> Claim:
    return lambda evaluation: (evaluation.heads[subtask].gain, 0.0, ">")


def _useful(subtask: str) -> Claim:
    return lambda evaluation: (evaluation.heads[subtask].accuracy, 0.6, ">")


CLAIMS: dict[str, Claim] = {
    # the positive control: unless true labels are seen to help, that predicted ones do not says little
    "true_subtask_labels_lower_the_nll": _of("A_true_subtasks", "A_no_subtasks", "nll", "<"),
    "b_is_more_accurate_than_a": _of("B", "A", "accuracy", ">"),
    "a_is_better_calibrated_than_b": _of("B", "A", "ece", ">"),
    "the_misscaled_control_is_less_accurate_than_a": _of("A", "control", "accuracy", ">"),
    "the_misscaled_control_is_less_accurate_than_b": _of("B", "control", "accuracy", ">"),
    "subtask_labels_add_accuracy": _of("A", "A_no_subtasks", "accuracy", ">"),
    "subtask_probabilities_add_accuracy": _of("A_probabilities", "A_no_subtasks", "accuracy", ">"),
    "the_system_is_more_accurate_than_a_linear_probe": _of("A", "linear_probe", "accuracy", ">"),
    "temperature_lowers_the_nll_of_a": _of("A scaled", "A unscaled", "nll", "<"),
    "temperature_lowers_the_ece_of_a": _of("A scaled", "A unscaled", "ece", "<"),
    "temperature_lowers_the_ece_of_b": _of("B scaled", "B unscaled", "ece", "<"),
    "edges_are_read_better_than_variance": lambda e: (e.edges_over_variance.judged, 0.0, ">"),
    "accepted_images_are_more_often_right": lambda e: (e.accept_over_rest["A"], 0.0, ">"),
    **{f"the_{name}_head_beats_the_most_frequent_label": _gain(name) for name in META_SUBTASKS},
    **{f"the_{name}_head_is_above_60_per_cent": _useful(name) for name in META_SUBTASKS},
}


@pytest.mark.parametrize("claim", list(CLAIMS))
def test_claim_of_s2(
    model: str,
    claim: str,
    evaluation: Evaluation,
    cifar10: Path | None,
    judge: Judges,
) -> None:
    estimate, bar, direction = CLAIMS[claim](evaluation)
    said = f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}] n={estimate.n} origins"
    outcome = estimate.outcome(bar, direction)  # type: ignore[arg-type]
    about = model if cifar10 is None else f"{model} on CIFAR-10"  # findings hold for the digits only
    judge("subtasks", about).outcome(claim, outcome, f"{said} against {direction} {bar}")
