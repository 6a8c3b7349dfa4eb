from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcdo.encoders import load_encoder
from mcdo.estimators import monte_carlo
from mcdo.experiments.phase1 import harness_checks
from mcdo.images import load_images
from mcdo.perturbation import Dropout
from mcdo.store import Store


def test_scores_of_each_way_of_batching_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a job which ends in the midst of them is no loss: they are a minute of passes of a large tower."""
    encoder, images, dropout = load_encoder("clip_tiny"), load_images("digits", n=8), Dropout(0.01)
    calls = list[int]()

    def ended_in_the_fourth(*given: Any, **named: Any) -> Any:
        calls.append(named["batch_size"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return monte_carlo(*given, **named)

    monkeypatch.setattr(harness_checks, "monte_carlo", ended_in_the_fourth)
    monkeypatch.setattr(harness_checks, "_batched", lambda _: (8, 2))
    with pytest.raises(KeyboardInterrupt):
        harness_checks._by_batch(encoder, images, dropout, Store(tmp_path).unfinished("a" * 64))
    found = harness_checks._by_batch(encoder, images, dropout, Store(tmp_path).unfinished("a" * 64))
    assert calls == [128, 1, 3, 8, 8, 128, 128]
    assert found == harness_checks._by_batch(encoder, images, dropout, None)
    assert all(0 <= each < 1e-4 for each in found)
