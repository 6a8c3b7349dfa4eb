"""The study: every arm and seed trained once, then everything computed from logits on the same test images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from mcdo.encoders import Encoder
from mcdo.estimators import provenance
from mcdo.store import Store
from mcdo.studies.subtasks.config import HEAD, META, Arm, Inputs, SubtaskConfig
from mcdo.studies.subtasks.dropout import mc_logits
from mcdo.studies.subtasks.labels import COMPARED_SUBTASKS, META_SUBTASKS, SIZE, make_splits
from mcdo.studies.subtasks.observe import observe
from mcdo.studies.subtasks.splits import CalibrationSplit, Predictions, Split, Splits, TestSplit
from mcdo.studies.subtasks.task import Task
from mcdo.studies.subtasks.temperature import Temperature, fit_temperature
from mcdo.studies.subtasks.training import Examples, Job, Trained, logits, train

LINEAR = "linear_probe"
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One arm and seed: logits on test and calibration, and the temperatures fitted on the latter."""

    arm: str
    seed: int
    test: Predictions[TestSplit]
    calibration: Predictions[CalibrationSplit]
    temperature: Temperature
    temperature_ece: Temperature
    trained: Trained | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the deterministic prediction is right, [N]."""
        return np.asarray(self.test.logits.argmax(axis=1) == self.test.split.labels)


@dataclass(eq=False)
class Study:
    """A task seen through an encoder. Nothing is trained twice; results lie in the store where there is one."""

    task: Task
    encoder: Encoder
    config: SubtaskConfig
    store: Store | None = None
    unmuted: Callable[[], AbstractContextManager[object]] = nullcontext
    trainings: int = 0
    _runs: dict[tuple[str, int], Run] = field(default_factory=dict)
    _passes: dict[tuple[str, int], Floats] = field(default_factory=dict)
    _heads: dict[tuple[str, int, float, int], Trained] = field(default_factory=dict)

    @cached_property
    def splits(self) -> Splits:
        """The four splits, observed through the encoder."""
        with self.unmuted():
            return make_splits(
                self.task,
                {
                    name: observe(self.encoder, images, self.task.shown[name], self.config.edge_threshold, self.store)
                    for name, images in self.task.images.items()
                },
            )

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Encoder, versions, and the content of every split."""
        facts = provenance(self.encoder, self.task.shown["test"])
        del facts["masks"]  # the encoder is not perturbed here
        return {**facts, "images": {name: images.fingerprint for name, images in self.task.shown.items()}}

    def run(self, arm: str, seed: int) -> Run:
        """The result of an arm and seed, trained on first use."""
        if (arm, seed) not in self._runs:
            found = self._linear_probe(seed) if arm == LINEAR else self._meta(self.config.arm(arm), seed)
            self._runs[arm, seed] = found
        return self._runs[arm, seed]

    def runs(self, arm: str) -> list[Run]:
        """An arm's results over all seeds."""
        return [self.run(arm, seed) for seed in self.config.seeds]

    def passes(self, arm: str, seed: int) -> Floats:
        """Monte Carlo logits of the arm's meta-learner on the test split, float64 [T, N, C]."""
        if (arm, seed) not in self._passes:
            trained, test = self.run(arm, seed).trained, self.splits.test
            assert trained is not None, f"{arm} has no dropout"
            x = self.inputs(test, self.config.arm(arm), seed)
            self._passes[arm, seed] = mc_logits(trained.network, test, x, self.config.passes, seed)
        return self._passes[arm, seed]

    def head(self, subtask: str, arm: Arm, seed: int) -> Trained:
        """A subtask head, trained as the arm trains."""
        key = (subtask, arm.batch, arm.lr, seed)
        if key not in self._heads:
            job = Job(f"{subtask} head, {arm.name} seed {seed}", SIZE[subtask], HEAD, self.config.training(arm), seed)
            splits = self.splits
            self._heads[key] = self._train(job, splits.train.features, splits.validation.features, subtask)
        return self._heads[key]

    def head_predictions(self, subtask: str, arm: Arm, seed: int) -> NDArray[np.int64]:
        """The head's labels on the test split, [N]."""
        head = self.head(subtask, arm, seed)
        return np.asarray(logits(head.network, self.splits.test.features).argmax(axis=1), dtype=np.int64)

    def inputs(self, split: Split, arm: Arm, seed: int) -> NDArray[np.float32]:
        """What the meta-learner sees of a split: the feature, and whatever the arm adds, float32 [N, D + extra]."""
        parts = [split.features]
        parts += [self._extra(split, name, arm, seed) for name in META_SUBTASKS if arm.inputs != "none"]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _extra(self, split: Split, subtask: str, arm: Arm, seed: int) -> NDArray[Any]:
        if arm.inputs == "oracle":
            return split.subtasks[subtask][:, None]
        found = logits(self.head(subtask, arm, seed).network, split.features)
        return encode_outputs(found, arm.inputs)

    def _train(self, job: Job, x: NDArray[np.float32], validation: NDArray[np.float32], target: str) -> Trained:
        train_split, validation_split = self.splits.train, self.splits.validation
        y = train_split.labels if target == "class" else train_split.subtasks[target]
        v = validation_split.labels if target == "class" else validation_split.subtasks[target]
        self.trainings += 1
        with self.unmuted():
            return train(job, Examples(x, y), Examples(validation, v), device=self.encoder.device, store=self.store)

    def _meta(self, arm: Arm, seed: int) -> Run:
        splits, classes = self.splits, len(self.task.class_names)
        job = Job(f"{arm.name} seed {seed}", classes, META, self.config.training(arm), seed)
        x = {name: self.inputs(split, arm, seed) for name, split in vars(splits).items() if isinstance(split, Split)}
        trained = self._train(job, x["train"], x["validation"], "class")
        on_calibration, on_test = (logits(trained.network, x[name]) for name in ("calibration", "test"))
        return self._finished(arm.name, seed, on_calibration, on_test, trained)

    def _linear_probe(self, seed: int) -> Run:
        """Multinomial logistic regression on the embedding alone (L2, C = 1); the same for every seed."""
        from sklearn.linear_model import LogisticRegression

        splits = self.splits
        probe = LogisticRegression(max_iter=5000).fit(splits.train.features, splits.train.labels)
        found = [np.asarray(probe.decision_function(s.features)) for s in (splits.calibration, splits.test)]
        return self._finished(LINEAR, seed, found[0], found[1], None)

    def _finished(self, arm: str, seed: int, calibration: Floats, test: Floats, trained: Trained | None) -> Run:
        held_out = Predictions(self.splits.calibration, calibration)
        return Run(
            arm=arm,
            seed=seed,
            test=Predictions(self.splits.test, test),
            calibration=held_out,
            temperature=fit_temperature(held_out, "nll"),
            temperature_ece=fit_temperature(held_out, "ece", self.config.bins),
            trained=trained,
        )


def encode_outputs(head_logits: Floats, inputs: Inputs) -> NDArray[Any]:
    """A head's output as input of the meta-learner: one number, the label [N, 1], or probabilities [N, k]."""
    if inputs == "labels":
        return np.asarray(head_logits.argmax(axis=1)[:, None])
    return np.asarray(softmax(head_logits, axis=1))


__all__ = ["COMPARED_SUBTASKS", "LINEAR", "META_SUBTASKS", "Run", "Study", "encode_outputs"]
