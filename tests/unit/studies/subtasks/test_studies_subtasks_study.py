from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.harness import Request, Runner, Session, Settings
from mcdo.stats import Estimate
from mcdo.studies.subtasks import SubtaskStudy
from mcdo.studies.subtasks.config import ARMS, Source, Training
from mcdo.studies.subtasks.evaluate import OPTIONS, Contrast, Evaluation
from mcdo.studies.subtasks.labels import META_SUBTASKS, SIZE
from mcdo.studies.subtasks.requests import CLASS, Network, Outputs, SeenSplits
from mcdo.studies.subtasks.splits import CalibrationSplit, Splits, TestSplit, TrainSplit, ValidationSplit
from mcdo.studies.subtasks.study import _contrast

SEEN = SeenSplits("clip_tiny", Source(), 50)


def made_up() -> Splits:
    rng = np.random.default_rng(0)

    def part(kind: Any, name: str) -> Any:
        ids = tuple(f"{name}/{i}" for i in range(6))
        subtasks = {subtask: rng.integers(0, SIZE[subtask], 6) for subtask in META_SUBTASKS}
        return kind(ids, ids, rng.normal(size=(6, 5)).astype(np.float32), rng.integers(0, 3, 6), subtasks)

    kinds = (TrainSplit, ValidationSplit, CalibrationSplit, TestSplit)
    return Splits(*(part(kind, name) for kind, name in zip(kinds, ("a", "b", "c", "d"), strict=True)))


def test_arms_differ_only_in_what_they_are_said_to_differ_in() -> None:
    splits, arms = made_up(), {arm.name: arm for arm in ARMS}
    assert [(arms[name].batch, arms[name].lr) for name in OPTIONS] == [(128, 1e-3), (256, 2e-3), (256, 5e-4)]
    assert {arms[name].inputs for name in OPTIONS} == {"labels"}
    rest = [arm for arm in arms.values() if arm.name not in OPTIONS]
    assert {(arm.batch, arm.lr) for arm in rest} == {(128, 1e-3)}
    splits_of_images = ("train", "validation", "calibration", "test")
    said = {name: np.random.default_rng(1).normal(size=(6, size)) for name, size in SIZE.items()}

    def value_of(request: Request[Any]) -> Any:
        if isinstance(request, SeenSplits):
            return splits
        assert isinstance(request, Outputs)
        return {f"logits/{name}": said[request.network.target] for name in splits_of_images}

    def seen_by(name: str) -> np.ndarray:
        arm = arms[name]
        return Network("clip_tiny", SEEN, CLASS, arm.inputs, Training(arm.batch, arm.lr), 0).inputs_of(value_of)["test"]

    widths = {name: seen_by(name).shape[1] - 5 for name in arms}
    assert widths == {"A": 3, "B": 3, "control": 3, "A_probabilities": 8, "A_no_subtasks": 0, "A_true_subtasks": 3}
    np.testing.assert_array_equal(seen_by("A")[:, 5], said["superclass"].argmax(axis=1))
    np.testing.assert_allclose(seen_by("A_probabilities")[:, 5:7].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(seen_by("A_true_subtasks")[:, 6], splits.test.subtasks["brightness"])


def test_equal_heads_of_two_arms_are_one_request() -> None:
    a, b, probabilities = (
        Network("clip_tiny", SEEN, CLASS, arm.inputs, Training(arm.batch, arm.lr), 0)
        for arm in ARMS
        if arm.name in ("A", "A_probabilities", "B")
    )
    assert a.heads == probabilities.heads
    assert set(a.heads).isdisjoint(b.heads)


@pytest.mark.parametrize(("p_holm", "outcome"), [(0.01, "met"), (0.05, "undecided")])
def test_a_contrast_takes_the_interval_and_the_corrected_test(p_holm: float, outcome: str) -> None:
    over, evaluation = Estimate(0.2, 0.1, 0.3, 300), cast("Evaluation", None)
    found = Contrast("f", "a", "b", "accuracy", over, over, p_holm, p_holm)
    assert _contrast("x", lambda _: found, above=0.0).judge(evaluation).outcome == outcome


def test_the_command_line_decides(tmp_path: Path) -> None:
    settings = Settings(("siglip_tiny", "clip_tiny"), protocol="quick", seed=5)
    (subject,) = SubtaskStudy.subjects(settings)
    assert (subject.name, SubtaskStudy.configured(settings).digits) == ("clip_tiny", SubtaskStudy.quick["digits"])
    assert "dropout" not in SubtaskStudy().as_dict(), "the encoder is not perturbed"
    own = replace(settings, own_data={"--cifar10": "x"}, reports=tmp_path)
    assert SubtaskStudy.subjects(own)[0].name == "clip_tiny on CIFAR-10", "findings hold for the digits only"
    other = replace(settings, images="folder:/x", reports=tmp_path)
    with pytest.raises(McdoError, match="runs on digits, or on CIFAR-10"):
        Runner(Session(other)).run(SubtaskStudy.configured(other), subject)
