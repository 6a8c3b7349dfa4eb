"""Folders of reports that somebody else made: nothing in them is waited for, followed out of them or run."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports_folder import NAME, write

from mcdo.errors import McdoError
from mcdo.report.export import SCORE_COLUMNS, export, scores
from mcdo.report.page import rendered
from mcdo.report.results import Reports

SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width=\"9pt\">"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "reports", "m")


def shown(folder: Path) -> str:
    began = time.process_time()
    try:
        return rendered(Reports.read(folder))
    finally:
        assert time.process_time() - began < 2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_and_not_waited_for(make: Callable[[Path], Any], folder: Path) -> None:
    make(folder / "phase1" / "x.json")
    with pytest.raises(McdoError, match=r"x\.json is not a regular file"):
        shown(folder)


def test_no_link_leads_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SVG + b"<text>secret</text></svg>")
    place = folder / "phase1" / NAME / "norms.svg"
    place.unlink()
    place.symlink_to(tmp_path / "secret")
    assert "secret" not in shown(folder)


@pytest.mark.parametrize(
    "content", [SVG.replace(b"9pt", b"1.2.3pt"), b"\xff\xfe\0" * 9, SVG + b"<!--" * 400_000, b"<metadata>" * 100_000]
)
def test_a_figure_that_is_none_takes_no_time(content: bytes, folder: Path) -> None:
    (folder / "phase1" / NAME / "norms.svg").write_bytes(content)
    assert "<!--<!--" not in shown(folder)


def test_a_figure_of_gigabytes_is_refused(folder: Path) -> None:
    os.truncate(folder / "phase1" / NAME / "norms.svg", 2**33)
    with pytest.raises(McdoError, match=rf"norms\.svg has {2**33} bytes; at most"):
        shown(folder)


@pytest.mark.parametrize("name", ["run.json", "rates/m.json"])
def test_when_a_file_was_made_stands_in_it(name: str, folder: Path) -> None:
    rate = {"model": "m", "passes": 1, "seconds": 1.0, "device": "cpu", "threads": 1, "machine": "x"}
    held = {**({"interrupted": False, "errors": []} if name == "run.json" else rate), "made": {}}
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(held))
    with pytest.raises(McdoError, match=rf"{name}: made lacks the key time"):
        shown(folder)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"origins": np.array(["x"])}, "1 origins of 2 images"),
        ({"origins": np.array([["x"], ["y"]])}, "its origins are no names"),
        ({"paths": np.array([b"\xff", b"y"])}, "its paths are no names"),
        ({"paths": np.zeros(2, dtype=[("a", "i4")])}, "its paths are no names"),
    ],
)
def test_names_that_are_none_are_refused(names: dict[str, Any], said: str, folder: Path) -> None:
    held = {"paths": np.array(["a", "b"]), "trial_pre": np.ones(2), **names}
    np.savez(folder / "phase1" / NAME / "norms.npz", **held)
    with pytest.raises(McdoError, match=said):
        list(scores(Reports.read(folder)))


def test_no_cell_of_an_exported_table_is_a_formula_or_steers_a_terminal(folder: Path) -> None:
    ids, names = np.array(["=cmd|' /C calc'!A0", "\uff1d1+1\x1b[2J"]), {"@SUM(A1)": np.ones(2)}
    np.savez(folder / "phase1" / NAME / "norms.npz", paths=ids, **names)  # type: ignore[arg-type]
    text = export(list(scores(Reports.read(folder))), SCORE_COLUMNS, "csv", None)
    assert "\x1b" not in text
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert {"'=cmd|' /C calc'!A0", "'@SUM(A1)"} <= set(cells)
    assert not any(cell.startswith(("=", "+", "@", "\uff1d")) for cell in cells)
    assert export([{"=a\x1b": 1}], ["=a\x1b"], "csv", None) == "'=a\\x1b\n1"
