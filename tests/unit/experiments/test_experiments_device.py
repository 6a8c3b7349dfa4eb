"""The device check at toy sizes on a CPU, so that it can be relied on where there is a card and little time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcdo.experiments.cost.device.check import SECTIONS, Check, run
from mcdo.experiments.cost.device.setup import TOY, Machine, Row


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Check, Path]:
    folder = tmp_path_factory.mktemp("device")
    return run("cpu", TOY, folder), folder


def test_every_section_runs_and_is_written(checked: tuple[Check, Path]) -> None:
    check, folder = checked
    assert check.errors == {}
    assert check.not_run == {}
    assert check.broken == []
    assert all(check.sections[name] for name in SECTIONS)
    written = json.loads((folder / "device.json").read_text())
    assert set(written["sections"]) == set(SECTIONS)
    page = (folder / "device.md").read_text()
    assert all(f"## {name} (" in page for name in SECTIONS)


def test_a_device_is_equal_to_itself(checked: tuple[Check, Path]) -> None:
    masks, scores = checked[0].sections["masks"], checked[0].sections["scores"]
    assert all(row["different units"] == 0 and row["units"] > 10_000 for row in masks)
    assert all(row["worst"] == row["first order, one direction"] == 0 for row in scores)


def test_a_section_that_fails_or_has_no_time_left_is_named_and_the_rest_runs(tmp_path: Path) -> None:
    def broken(machine: Machine) -> Iterator[Row]:
        yield {"what": "a row", "ok": False}
        raise RuntimeError("no such kernel")

    def long(machine: Machine) -> Iterator[Row]:
        yield from ({"what": number} for number in range(3))

    def fine(machine: Machine) -> Iterator[Row]:
        yield {"what": "fine", "ok": True}

    sections = {"broken": (broken, 9.0), "long": (long, -1.0), "fine": (fine, 9.0)}
    check = run("cpu", replace(TOY, patience=1.0), tmp_path, sections=sections)
    assert list(check.errors) == ["broken"]
    assert "no such kernel" in check.errors["broken"]
    assert check.broken == [("broken", {"what": "a row", "ok": False})]
    assert check.not_run == {"long": "stopped after 1 rows: -1 s were up"}
    assert check.sections["fine"] == [{"what": "fine", "ok": True}]
    assert not check.ok
    assert "- broken: failed: RuntimeError: no such kernel" in (tmp_path / "device.md").read_text()
    late = run("cpu", replace(TOY, total=0.0), tmp_path, sections={"fine": (fine, 9.0)})
    assert late.not_run == {"fine": "no time was left of 0 s"}
