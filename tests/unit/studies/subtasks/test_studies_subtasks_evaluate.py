"""What the study says of its runs, from runs that are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mcdo.stats import Estimate
from mcdo.studies.subtasks.compare import sums
from mcdo.studies.subtasks.evaluate import OPTIONS, PAIRS, Contrast, _contrasts, _head
from mcdo.studies.subtasks.triaged import triage_rows

N, SEEDS = 40, (3, 5)


class Shown(SimpleNamespace):
    """Stands in for a split of N images."""

    def __len__(self) -> int:
        return N


def study_of(**parts: Any) -> Any:
    config = SimpleNamespace(
        seeds=SEEDS, seed=0, resamples=50, permutations=200, review_std=0.35, accept_std=0.25, accept_confidence=0.9,
        bins=5,
    )  # fmt: skip
    test = Shown(labels=np.zeros(N, dtype=np.int64), groups=np.arange(N), subtasks={})
    return SimpleNamespace(**{"config": config, "splits": SimpleNamespace(test=test), **parts})


def test_triage_takes_the_passes_of_every_seed() -> None:
    """One network is sure of the right class, the other sways between two: nothing to be seen in the first alone."""
    sure, sways = np.tile([9.0, 0.0], (25, N, 1)), np.tile([[[9.0, 0.0]], [[0.0, 9.0]]], (1, N, 1))[np.arange(25) % 2]
    study = study_of(
        passes=lambda arm, seed: {3: sure, 5: sways}[seed],
        run=lambda arm, seed: SimpleNamespace(temperature=SimpleNamespace(value=1.0)),
    )
    shares = {row.name: row.share.value for row in triage_rows(study, "A", "probability")}
    assert (shares["accept"], shares["review"]) == (0.5, 0.5)


def test_a_head_gains_over_the_most_frequent_label_of_the_training_split() -> None:
    truth, usual = np.repeat([0, 1], [30, 10]), np.repeat([0, 1], [5, 15])
    study = study_of(head_predictions=lambda subtask, arm, seed: truth)
    study.splits.test.subtasks, study.splits.train = {"x": truth}, SimpleNamespace(subtasks={"x": usual})
    found = _head(study, "x")
    assert found.accuracy.value == 1.0
    assert found.gain.value == pytest.approx(0.75), "always 1 is right on a quarter"


def test_a_contrast_is_judged_by_both_of_its_intervals() -> None:
    images, seeds = Estimate(0.2, 0.1, 0.3, 300), Estimate(0.2, -0.1, 0.25, 3)
    found = Contrast("f", "a", "b", "accuracy", images, seeds, 0.01, 0.01).judged
    assert (found.value, found.low, found.high) == (0.2, -0.1, 0.3)


def test_temperature_is_after_less_before() -> None:
    """Overconfident before, calibrated after: the error of calibration falls."""
    labels = (np.arange(N) % 4 == 0).astype(np.int64)

    def at(confidence: float) -> Any:
        return sums(np.tile([confidence, 1 - confidence], (2, N, 1)), labels, np.arange(N), bins=5)

    arms = {arm for pairs in PAIRS.values() for pair in pairs for arm in pair}
    before, after = {arm: at(0.99) for arm in OPTIONS}, {arm: at(0.75) for arm in arms}
    for each in _contrasts(study_of(), before, after):
        if each.family == "temperature" and each.metric == "ece":
            assert (each.first, each.second) == (f"{each.first[:-7]} scaled", f"{each.first[:-7]} unscaled")
            assert each.difference.value == pytest.approx(0 - 0.24)
