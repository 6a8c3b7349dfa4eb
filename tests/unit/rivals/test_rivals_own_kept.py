"""Scores of one's own are kept as calls return, and a scorer may say that it takes images one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import mcdo.estimators.resumption
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.experiments.rivals.requests import OwnScores
from mcdo.harness import Images, Session, Settings
from mcdo.images import ImageSet

N, BATCH, TRIALS = 12, 5, 3


class Mean:
    """Mean of the pixels, plus a tenth of the trial's number."""

    name, cost, stochastic = "mean", 0.0, True

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.limit = 10**9
        self.fitted: list[int] = []

    def fit(self, encoder: Encoder, images: ImageSet) -> None:
        self.fitted.append(len(images))

    def score(self, encoder: Encoder, images: ImageSet, trial: int) -> NDArray[np.float64]:
        if len(self.calls) == self.limit:
            raise KeyboardInterrupt
        self.calls.append(len(images))
        return np.array([np.asarray(image).mean() for image in images]) + trial / 10


class MeanByImage(Mean):
    by_image = True


class OfAll(MeanByImage):
    """Says that it takes images one by one, and does not."""

    def score(self, encoder: Encoder, images: ImageSet, trial: int) -> NDArray[np.float64]:
        return super().score(encoder, images, trial) + len(images)


def measured(scorer: Mean, store: Path | None) -> NDArray[np.float64]:
    scorer.calls.clear()
    session = Session(Settings(("clip_tiny",), store=store, batch_size=BATCH))
    return session.measure(OwnScores("clip_tiny", Images(N), scorer, "", TRIALS, Images(N), 6))["scores"]


@pytest.fixture(autouse=True)
def saved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcdo.estimators.resumption, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(mcdo.estimators.resumption, "COST", np.inf)


ALL, BATCHES = [N] * TRIALS, [5, 1, 5, 2, 5, 5, 2, 5, 5, 2]
"""Images of each call; a batch of one is the look whether it is so."""


@pytest.mark.parametrize(
    ("kind", "calls", "most", "rest"),
    [
        (Mean, ALL, 2, ALL[2:]),
        (MeanByImage, BATCHES, 1, BATCHES),
        (MeanByImage, BATCHES, 3, [2, 1, *BATCHES[4:]]),
    ],
)
def test_calls_that_returned_are_not_made_again(
    kind: type[Mean], calls: list[int], most: int, rest: list[int], tmp_path: Path
) -> None:
    scorer = kind()
    whole = measured(scorer, None)
    assert whole.shape == (TRIALS, N)
    assert scorer.calls == calls
    scorer.limit = most
    with pytest.raises(KeyboardInterrupt):
        measured(scorer, tmp_path)
    scorer.limit = 10**9
    np.testing.assert_array_equal(measured(scorer, tmp_path), whole)
    assert scorer.calls == rest
    assert not list(tmp_path.rglob("*.parts"))
    assert scorer.fitted == [6] * 3
    np.testing.assert_array_equal(measured(scorer, tmp_path), whole)
    assert scorer.calls == []
    assert len(scorer.fitted) == 3


def test_a_scorer_that_looks_at_other_images_as_well_is_refused(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"the scorer mean says by_image, and gives \S+ for .* beside other images but"):
        measured(OfAll(), tmp_path)
