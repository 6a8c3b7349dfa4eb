from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.base import Need, add_to_json, merge, write_json, write_npz
from mcdo.perturbation import Dropout


def _need(model: str = "a", n: int = 5, passes: tuple[int, ...] = (4,), trials: int = 2, p: float = 0.01) -> Need:
    return Need(model, n, MonteCarloConfig(Dropout(p), passes, trials, 42, geometry=passes[:1]))


needs = st.builds(
    _need,
    st.sampled_from("ab"),
    st.sampled_from([5, 6]),
    st.sets(st.integers(2, 9), min_size=1).map(lambda s: tuple(sorted(s))),
    st.integers(1, 5),
    st.sampled_from([0.01, 0.02]),
)


@given(st.lists(needs, max_size=8))
def test_merged_runs_serve_every_need_and_no_two_join(asked: list[Need]) -> None:
    runs = merge(asked)
    for need in asked:
        (run,) = [run for run in runs if run.joins(need)]
        assert set(need.config.passes) <= set(run.config.passes)
        assert set(need.config.geometry) <= set(run.config.geometry)
        assert need.config.trials <= run.config.trials


@given(st.lists(needs, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_needs_does_not_matter(asked: list[Need], random: object) -> None:
    shuffled = list(asked)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(merge(asked)) == set(merge(shuffled))


def test_a_summary_never_mixes_two_sessions(tmp_path: Path) -> None:
    path = tmp_path / "overall.json"
    add_to_json(path, "first", "results", "a", 1)
    add_to_json(path, "first", "results", "b", 2)
    assert json.loads(path.read_text())["results"] == {"a": 1, "b": 2}
    add_to_json(path, "second", "results", "a", 3)
    assert json.loads(path.read_text()) == {"session": "second", "results": {"a": 3}}


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_arrays_are_written_without_pickles(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", paths=np.array(["a", "bc"]), scores=np.eye(2))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as held:
        assert held["paths"].tolist() == ["a", "bc"]
    with pytest.raises(TypeError, match="pickled"):
        write_npz(tmp_path / "y.npz", paths=np.array(["a", None]))
