"""Subtask labels: superclass from the class, brightness and complexity from the pixels, and their splits.

``complexity`` counts edges with S2's cuts. S2 compares it with a version by variance whose cuts it does not give, and
accuracies over classes of different sizes say little, so two more are made for comparison alone, cut into equal thirds
on the training split: ``edges_thirds`` and ``variance_thirds``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.studies.subtasks.observe import Observed
from mcdo.studies.subtasks.splits import (
    CalibrationSplit,
    Ints,
    Split,
    Splits,
    TestSplit,
    TrainSplit,
    ValidationSplit,
)
from mcdo.studies.subtasks.task import SplitName, Task

BRIGHTNESS_CUTS = (85.0, 170.0)
EDGE_CUTS = (50.0, 150.0)
META_SUBTASKS = ("superclass", "brightness", "complexity")
COMPARED_SUBTASKS = ("edges_thirds", "variance_thirds")
SIZE = {"superclass": 2, "brightness": 3, "complexity": 3, "edges_thirds": 3, "variance_thirds": 3}
"""Number of labels of each subtask."""

Kind = TypeVar("Kind", bound=Split)


def levels(values: ArrayLike, cuts: ArrayLike) -> Ints:
    """0 below the first cut, 1 below the second, … : a value on a cut belongs to the upper level."""
    return np.asarray(np.digitize(np.asarray(values), np.asarray(cuts)), dtype=np.int64)


@dataclass(frozen=True)
class Thirds:
    """Cuts at the thirds of the training split, for comparisons at equal base rates."""

    edges: tuple[float, float]
    variance: tuple[float, float]

    @staticmethod
    def of(train: Observed) -> Thirds:
        """The 1/3 and 2/3 quantiles."""

        def cuts(values: NDArray[np.float64]) -> tuple[float, float]:
            low, high = np.quantile(values, [1 / 3, 2 / 3])
            return float(low), float(high)

        return Thirds(cuts(train.edges), cuts(train.variance))


def subtask_labels(observed: Observed, labels: Ints, superclass: tuple[int, ...], thirds: Thirds) -> dict[str, Ints]:
    """Every subtask's label of every image, int64 [N] each."""
    return {
        "superclass": np.array(superclass, dtype=np.int64)[labels],
        "brightness": levels(observed.grey, BRIGHTNESS_CUTS),
        "complexity": levels(observed.edges, EDGE_CUTS),
        "edges_thirds": levels(observed.edges, thirds.edges),
        "variance_thirds": levels(observed.variance, thirds.variance),
    }


def make_splits(task: Task, observed: Mapping[SplitName, Observed]) -> Splits:
    """The four splits, with features standardised by the mean and deviation of the training split."""
    thirds, train = Thirds.of(observed["train"]), observed["train"].features.astype(np.float64)
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std == 0] = 1.0

    def split(kind: type[Kind], name: SplitName) -> Kind:
        images, seen = task.images[name], observed[name]
        assert images.labels is not None
        return kind(
            ids=images.ids,
            origins=images.origins,
            features=((seen.features - mean) / std).astype(np.float32),
            labels=images.labels,
            subtasks=subtask_labels(seen, images.labels, task.superclass, thirds),
        )

    return Splits(
        split(TrainSplit, "train"),
        split(ValidationSplit, "validation"),
        split(CalibrationSplit, "calibration"),
        split(TestSplit, "test"),
    )
