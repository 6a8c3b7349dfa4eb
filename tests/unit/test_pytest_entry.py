"""The garbage collector is off while the plug-in is imported and tests are collected, and on wherever one runs."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from pytest_child import plugin, run_python

import mcdo.stats
from mcdo import pytest_entry


@pytest.mark.parametrize("ours", [True, False], ids=["of-the-harness", "of-others"])
def test_no_test_runs_without_the_garbage_collector(ours: bool, tmp_path: Path) -> None:
    """Where no test imports mcdo, it is on as their modules are imported as well."""
    head = f"import gc\n{'import mcdo' if ours else ''}\nON = gc.isenabled()\n"
    (tmp_path / "conftest.py").write_text(head)
    (tmp_path / "test_gc.py").write_text(
        f"{head}from conftest import ON as BEFORE\ndef test_on():\n"
        f"    assert gc.isenabled()\n    assert (BEFORE, ON) == (False, {not ours})\n"
    )
    done = run_python(f"import pytest, sys; sys.exit(pytest.main({[*plugin()]}))", cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.OK, done.stdout


def test_a_session_that_collects_nothing_leaves_it_on(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import mcdo\n")
    code = f"import gc, pytest\nassert pytest.main({[*plugin(), '--models=']}) == 4\nassert gc.isenabled()\n"
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_modules_are_found_as_written_but_for_those_whose_asserts_end_tests(tmp_path: Path) -> None:
    """pytest reads what it rewrote more slowly; when a session ends, nothing of ours stays in the way of imports."""
    finder = pytest_entry._AsWritten()
    found = finder.find_spec("mcdo.stats.ranks", [*mcdo.stats.__path__])
    assert found is not None
    assert isinstance(found.loader, SourceFileLoader)
    for name in ("mcdo.harness.tests", "mcdo.pytest_plugin.marks", "mcdo.suite.phase1.test_a", "mcdonalds", "os.path"):
        assert finder.find_spec(name, None) is None
    (tmp_path / "test_finder.py").write_text(
        "import sys\ndef test_finder():\n    assert type(sys.meta_path[0]).__name__ == '_AsWritten'\n"
    )
    code = f"import pytest, sys\nbefore = [*sys.meta_path]\nassert pytest.main({[*plugin()]}) == 0\n"
    done = run_python(f"{code}assert sys.meta_path == before", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
