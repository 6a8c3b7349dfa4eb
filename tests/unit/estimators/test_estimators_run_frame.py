from __future__ import annotations

import sys

import numpy as np
import pytest

import mcdo
from mcdo.errors import McdoError


@pytest.fixture(scope="module")
def runs() -> list[mcdo.MonteCarloRun | mcdo.FirstOrderRun]:
    encoder, images = mcdo.load_encoder("clip_tiny"), mcdo.load_images("digits", n=6, seed=1)
    dropout = mcdo.Dropout(0.01)
    return [
        mcdo.monte_carlo(encoder, images, dropout, passes=(4, 8), trials=2, seed=3, store=None),
        mcdo.first_order(encoder, images, dropout, probes=4, trials=2, seed=3, store=None),
    ]


def test_a_frame_has_one_row_for_each_image_score_and_trial(runs: list[mcdo.MonteCarloRun]) -> None:
    for run in runs:
        frame = run.to_frame()
        assert list(frame.columns) == ["id", "origin", "score", "trial", "value"]
        one = frame[frame["score"] == "trace_post"].pivot(index="trial", columns="id", values="value")
        np.testing.assert_array_equal(one[list(run.ids)].to_numpy(), run.scores("trace_post"))


def test_without_pandas_the_remedy_is_named(runs: list[mcdo.MonteCarloRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(McdoError, match=r"mcdo\[frames\]"):
        runs[0].to_frame()


def test_a_run_says_what_it_is_in_one_line(runs: list[mcdo.MonteCarloRun]) -> None:
    for run in runs:
        said = repr(run)
        assert "\n" not in said
        assert len(said) < 200
        for words in ("clip_tiny", "6 images of 6 originals", "K = 2", "0.01"):
            assert words in said
