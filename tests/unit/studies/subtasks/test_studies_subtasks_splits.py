from __future__ import annotations

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.studies.subtasks.splits import (
    CalibrationSplit,
    Predictions,
    Split,
    Splits,
    TestSplit,
    TrainSplit,
    ValidationSplit,
)


def parts(*origins: str) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, np.ndarray]:
    ids = tuple(f"{each}/{i}" for i, each in enumerate(origins))
    return ids, origins, np.zeros((len(ids), 2), np.float32), np.zeros(len(ids), np.int64)


def test_splits_that_share_an_origin_are_refused_by_name() -> None:
    good = TrainSplit(*parts("a")), ValidationSplit(*parts("b")), CalibrationSplit(*parts("c"))
    assert len(Splits(*good, TestSplit(*parts("d", "d"))).test) == 2
    with pytest.raises(McdoError, match="calibration and test share 1 origins, such as c"):
        Splits(*good, TestSplit(*parts("d", "c")))


def test_groups_number_origins() -> None:
    assert Split(*parts("x", "a", "x")).groups.tolist() == [1, 0, 1]


def test_rows_that_do_not_match_are_refused() -> None:
    ids, origins, features, labels = parts("a", "b")
    with pytest.raises(McdoError, match="labels"):
        TrainSplit(ids, origins, features, labels[:1])
    with pytest.raises(McdoError, match="superclass"):
        TrainSplit(ids, origins, features, labels, {"superclass": labels[:1]})
    with pytest.raises(McdoError, match="0 images"):
        TrainSplit((), (), features[:0], labels[:0])


@pytest.mark.parametrize("logits", [np.zeros((1, 3)), np.zeros(2), np.full((2, 3), np.nan)])
def test_impossible_logits_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(McdoError):
        Predictions(TestSplit(*parts("a", "b")), logits)
