"""What was trained, one small JSON per (backbone, seed, left-out group), so that a stopped training goes on.

A run is kept under a key of all that decides it: the features, the model, the protocol. One with another key is
trained again, and so is one that is not as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from tqdm import tqdm

from mcdo.errors import McdoError
from mcdo.names import file_name, printable
from mcdo.report.files import write_json
from mcdo.schema import Record, plain, read_json
from mcdo.store import digest
from mcdo.store.fingerprint import code_fingerprint
from mcdo.studies.backbones.config import BackbonesConfig
from mcdo.studies.backbones.series import Series
from mcdo.studies.backbones.training import Prediction, Task, train

AT_ONCE = 44
"""Tasks whose models are moved together."""


class _Run(Record, frozen=True):
    """What is kept of a trained model."""

    key: str
    seed: int
    group: str
    plants: tuple[str, ...]
    probability: tuple[tuple[float | None, ...], ...]
    epochs: int
    best_epoch: int
    validation_loss: float
    checksum: str

    @property
    def whole(self) -> bool:
        """Whether it is as it was written."""
        facts = msgspec.to_builtins(self)
        return bool(facts.pop("checksum") == digest(facts))


def tasks_of(groups: Sequence[str], config: BackbonesConfig) -> list[Task]:
    """Every seed with every one of ``groups`` that is left out in turn.

    Raises:
        McdoError: when more folds are asked for than there are groups.

    """
    if config.folds > len(groups):
        raise McdoError(f"folds: {config.folds} of {len(groups)} groups cannot be left out; 0 takes every one")
    return [Task(seed, group) for seed in config.seeds for group in groups[: config.folds or None]]


def run_path(runs: Path, backbone: str, task: Task) -> Path:
    """Where a run is kept."""
    return runs / file_name(backbone) / f"seed-{task.seed}-{file_name(task.group)}.json"


def train_tasks(series: Series, tasks: Sequence[Task], config: BackbonesConfig, runs: Path) -> int:
    """Train what is not yet there; returns how many were."""
    left = [task for task in tasks if _held(series, task, config, runs) is None]
    chunks = [left[start : start + AT_ONCE] for start in range(0, len(left), AT_ONCE)]
    total = len(chunks) * config.training.max_epochs
    with tqdm(total=total, desc=printable(f"training on {series.name}"), unit="epoch", disable=None) as bar:
        for number, chunk in enumerate(chunks, start=1):
            for found in train(series, chunk, config, lambda running: _show(bar, running)):
                write_json(run_path(runs, series.name, found.task), _as_json(found, _key(series, config)))
            bar.update(number * config.training.max_epochs - bar.n)
    return len(left)


def _show(bar: tqdm[Any], running: int) -> None:
    bar.set_postfix(models=running, refresh=False)
    bar.update()


def read_runs(series: Series, tasks: Sequence[Task], config: BackbonesConfig, runs: Path) -> list[Prediction]:
    """The runs of all tasks.

    Raises:
        McdoError: naming the first that is missing or of another key.

    """
    found = []
    for task in tasks:
        held = _held(series, task, config, runs)
        if held is None:
            raise McdoError(
                f"{run_path(runs, series.name, task)} is missing, or of other features or another protocol; run: "
                "python -m mcdo.studies.backbones train"
            )
        found.append(held)
    return found


def _key(series: Series, config: BackbonesConfig) -> str:
    made_by = [code_fingerprint("mcdo.studies.backbones.training", "mcdo.studies.backbones.series"), torch.__version__]
    return digest([series.key, config.training_key(), made_by])


def _as_json(found: Prediction, key: str) -> dict[str, Any]:
    facts = {
        "key": key,
        "seed": found.task.seed,
        "group": found.task.group,
        "plants": found.plants,
        "probability": plain(found.probability.tolist()),
        "epochs": found.epochs,
        "best_epoch": found.best_epoch,
        "validation_loss": found.validation_loss,
    }
    return {**facts, "checksum": digest(facts)}


def _held(series: Series, task: Task, config: BackbonesConfig, runs: Path) -> Prediction | None:
    try:
        held: _Run = read_json(run_path(runs, series.name, task), _Run)
    except McdoError:  # not there, or damaged: it is trained again
        return None
    if not held.whole or held.key != _key(series, config):
        return None
    probability = np.array(held.probability, dtype=np.float64)  # null becomes NaN
    return Prediction(task, held.plants, probability, held.epochs, held.best_epoch, held.validation_loss)
