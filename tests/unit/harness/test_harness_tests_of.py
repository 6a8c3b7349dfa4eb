"""``tests_of`` in a repository elsewhere: the tests of the checkout, under the same names, with the same marks."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_pytest_plugin import run_pytest

from mcdo.errors import McdoError
from mcdo.harness import tests_of

PHASES = ("phase1", "phase2", "phase3", "phase4", "prelim", "rivals", "recipe", "backbones", "connector", "subtasks")


def marks(output: str, behind: str) -> dict[str, set[str]]:
    """Marks of each test, by module and name."""
    lines = [line.removeprefix("MARKS ").rpartition(": ") for line in output.splitlines() if line.startswith("MARKS ")]
    return {name.rpartition(behind)[2].replace(".py::", "::"): set(found.split()) for name, _, found in lines}


def test_a_repository_elsewhere_collects_what_the_checkout_does(tmp_path: Path) -> None:
    lines = [f'test_of_{phase} = tests_of("{phase}")' for phase in PHASES]
    (tmp_path / "test_all.py").write_text("\n".join(("from mcdo.harness import tests_of", *lines)), encoding="utf-8")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["mcdo.pytest_plugin"]\n', encoding="utf-8")
    asked = ("--collect-only", "-q", "-p", "said_marks")
    there = run_pytest(*asked, cwd=tmp_path)
    here = run_pytest("tests/gates", "tests/experiments", *asked)
    assert there.returncode == here.returncode == 0, there.stdout
    found = {name.partition("::")[2]: held for name, held in marks(there.stdout, "test_all.py::").items()}
    assert len(found) > 100
    assert found == marks(here.stdout, "/")


def test_a_phase_that_nobody_knows_is_named() -> None:
    with pytest.raises(McdoError, match=r"no experiment of phase 'phase0'.*phase1"):
        tests_of("phase0")


def test_a_module_that_imports_it_by_another_is_refused_rather_than_passed_over(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text('from mcdo.harness import tests_of\nmade = tests_of("rivals")\n')
    (tmp_path / "conftest.py").write_text('def pytest_addoption(parser):\n    parser.addoption("--store")\n')
    (tmp_path / "test_ours.py").write_text("from ours import made as test_rivals\n")
    done = run_pytest("-p", "mcdo.pytest_plugin.entry", cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert "test_ours.py::test_rivals needs mcdo's plug-in" in done.stdout
