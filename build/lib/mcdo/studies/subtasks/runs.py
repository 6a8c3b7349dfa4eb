"""Every arm and seed as it was measured, on the same test images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mcdo.harness import Inputs
from mcdo.studies.subtasks.splits import CalibrationSplit, Predictions, Splits, TestSplit
from mcdo.studies.subtasks.task import Task, load_task
from mcdo.studies.subtasks.temperature import Temperature, fit_temperature
from mcdo.studies.subtasks.training import Epoch

if TYPE_CHECKING:
    from mcdo.studies.subtasks.study import SubtaskStudy

LINEAR = "linear_probe"
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One arm and seed: logits on test and calibration, the temperatures fitted on the latter, and the training.

    ``history`` and ``best_epoch`` (1 is the first) are empty and 0 for the linear probe.
    """

    arm: str
    seed: int
    test: Predictions[TestSplit]
    calibration: Predictions[CalibrationSplit]
    temperature: Temperature
    temperature_ece: Temperature
    history: tuple[Epoch, ...] = ()
    best_epoch: int = 0

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the deterministic prediction is right, [N]."""
        return np.asarray(self.test.logits.argmax(axis=1) == self.test.split.labels)


class Runs:
    """All runs of a study about one encoder; ``config`` is the study."""

    def __init__(self, config: SubtaskStudy, inputs: Inputs) -> None:
        self.config, self._inputs = config, inputs
        self._runs: dict[tuple[str, int], Run] = {}

    @cached_property
    def task(self) -> Task:
        """Its images."""
        return load_task(self.config.source)

    @cached_property
    def splits(self) -> Splits:
        """The four splits, observed through the encoder."""
        return self._inputs[self.config.seen(self._inputs)]

    def run(self, arm: str, seed: int) -> Run:
        """An arm at a seed."""
        if (arm, seed) not in self._runs:
            self._runs[arm, seed] = self._made(arm, seed)
        return self._runs[arm, seed]

    def _made(self, arm: str, seed: int) -> Run:
        about, splits = self._inputs, self.splits
        probe = arm == LINEAR  # which is the same for every seed
        arrays = about[self.config.linear_probe(about) if probe else self.config.outputs(about, arm, seed)]
        held_out, test = (arrays[f"logits/{name}"].astype(np.float64) for name in ("calibration", "test"))
        calibration = Predictions(splits.calibration, held_out)
        return Run(
            arm=arm,
            seed=seed,
            test=Predictions(splits.test, test),
            calibration=calibration,
            temperature=fit_temperature(calibration, "nll"),
            temperature_ece=fit_temperature(calibration, "ece", self.config.bins),
            history=() if probe else tuple(Epoch(*each) for each in arrays["history"].tolist()),
            best_epoch=0 if probe else int(arrays["best_epoch"][0]),
        )

    def of(self, arm: str) -> list[Run]:
        """An arm's runs over all seeds."""
        return [self.run(arm, seed) for seed in self.config.seeds]

    def passes(self, arm: str, seed: int) -> Floats:
        """Monte Carlo logits of the arm's meta-learner on the test split, float64 [T, N, C]."""
        return self._inputs[self.config.dropout_passes(self._inputs, arm, seed)]["logits"].astype(np.float64)

    def head_predictions(self, subtask: str, arm: str, seed: int) -> NDArray[np.int64]:
        """Labels of the head that the arm trains, on the test split, [N]."""
        found = self._inputs[self.config.outputs(self._inputs, arm, seed, subtask)]["logits/test"]
        return np.asarray(found.argmax(axis=1), dtype=np.int64)
