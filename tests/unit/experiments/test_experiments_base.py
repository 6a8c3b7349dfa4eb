from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mcdo.experiments.base import add_to_json, write_json, write_npz


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
