"""Four splits, each a type of its own, so that what may be fitted on which is part of a signature.

A temperature takes ``Predictions[CalibrationSplit]``: predictions on the test split are another type, which mypy
refuses, and which is refused again when the program runs. No two splits share an *origin* (a handwritten digit and its
affine variants have one origin), and every interval is over origins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """N images: ``features`` float32 [N, D], ``labels`` int64 [N], ``subtasks`` of int64 [N], and their ``origins``."""

    ids: tuple[str, ...]
    origins: tuple[str, ...]
    features: Floats
    labels: Ints
    subtasks: Mapping[str, Ints] = field(default_factory=dict)

    def __post_init__(self) -> None:
        held = {"origins": self.origins, "features": self.features, "labels": self.labels, **self.subtasks}
        odd = {name: len(each) for name, each in held.items() if len(each) != len(self.ids)}
        if odd or not self.ids:
            raise McdoError(f"{type(self).__name__}: {len(self.ids)} images, but {odd}; give one row per image")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def groups(self) -> Ints:
        """Number of each image's origin, int64 [N]."""
        return np.unique(np.array(self.origins), return_inverse=True)[1].astype(np.int64)


class TrainSplit(Split):
    """What networks are trained on."""


class ValidationSplit(Split):
    """What chooses the epoch."""


class CalibrationSplit(Split):
    """What temperatures are fitted on, and nothing else."""


class TestSplit(Split):
    """What results are reported on; nothing is fitted on it."""

    __test__ = False  # pytest would take the name for a test


AnySplit = TypeVar("AnySplit", bound=Split, covariant=True)


@dataclass(frozen=True, eq=False)
class Predictions(Generic[AnySplit]):
    """Logits float64 [N, C] on a split."""

    split: AnySplit
    logits: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or len(self.logits) != len(self.split):
            raise McdoError(f"logits of shape {list(self.logits.shape)} for {len(self.split)} images; give [N, C]")
        if not np.isfinite(self.logits).all():
            raise McdoError("the logits hold NaN or infinity; find the network that produced them")


@dataclass(frozen=True, eq=False)
class Splits:
    """The four splits of a task; refused when two of them share an origin."""

    train: TrainSplit
    validation: ValidationSplit
    calibration: CalibrationSplit
    test: TestSplit

    def __post_init__(self) -> None:
        each: dict[str, Split] = dict(vars(self))
        for one, other in combinations(each, 2):
            shared = sorted(set(each[one].origins) & set(each[other].origins))
            if shared:
                raise McdoError(f"{one} and {other} share {len(shared)} origins, such as {shared[0]}; split by origin")
