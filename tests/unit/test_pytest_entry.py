"""The garbage collector is off while the plug-in is imported and tests are collected, and on wherever one runs."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pytest_child import run_python

INSTALLED = any(each.value == "mcdo.pytest_entry" for each in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "mcdo.pytest_entry")


@pytest.mark.parametrize("ours", [True, False], ids=["of-the-harness", "of-others"])
def test_no_test_runs_without_the_garbage_collector(ours: bool, tmp_path: Path) -> None:
    """Where no test imports mcdo, it is on as their modules are imported as well."""
    head = f"import gc\n{'import mcdo' if ours else ''}\nON = gc.isenabled()\n"
    (tmp_path / "conftest.py").write_text(head)
    (tmp_path / "test_gc.py").write_text(
        f"{head}from conftest import ON as BEFORE\ndef test_on():\n"
        f"    assert gc.isenabled()\n    assert (BEFORE, ON) == (False, {not ours})\n"
    )
    done = run_python(f"import pytest, sys; sys.exit(pytest.main({[*PLUGIN]}))", cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.OK, done.stdout


def test_a_session_that_collects_nothing_leaves_it_on(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import mcdo\n")
    code = f"import gc, pytest\nassert pytest.main({[*PLUGIN, '--models=']}) == 4\nassert gc.isenabled()\n"
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
