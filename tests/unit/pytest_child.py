"""pytest, ``mcdo`` and Python as processes of their own, forked from where everything is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import pytest
from forked import begin

from mcdo.cli import main
from mcdo.registration import Table

ROOT = Path(__file__).resolve().parents[2]


def run_pytest(*arguments: str, cwd: Path = ROOT) -> CompletedProcess[str]:
    """``pytest arguments``."""
    # Assertions stay plain: what was imported before the fork cannot be rewritten, and pytest would complain of that.
    return _run(_pytest, "-p", "no:cacheprovider", "--assert=plain", "--store=none", *arguments, cwd=cwd)


def run_mcdo(*arguments: str, cwd: Path = ROOT) -> CompletedProcess[str]:
    """``mcdo arguments``, with nothing to read."""
    return _run(_mcdo, *arguments, cwd=cwd)


def run_python(code: str, *arguments: str, cwd: Path) -> CompletedProcess[str]:
    """``python -c code arguments``, where packages in ``cwd`` are found as if they were installed."""
    return _run(_python, code, *arguments, cwd=cwd)


def collected(*arguments: str) -> set[str]:
    """Ids of the tests that ``pytest arguments`` would run."""
    return {line for line in run_pytest("--collect-only", "-q", *arguments).stdout.splitlines() if "::" in line}


def _run(what: Callable[..., None], *arguments: str, cwd: Path) -> CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        said = Path(folder) / "said.txt"
        process = begin(what, arguments, cwd, said)
        process.join(timeout=300)
        assert process.exitcode is not None, f"still running: {' '.join(arguments)}"
        return CompletedProcess(arguments, process.exitcode, stdout=said.read_text(encoding="utf-8"))


def _pytest(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    _as_a_process(("pytest", *arguments), cwd, said)
    sys.exit(int(pytest.main(list(arguments))))


def _mcdo(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    _as_a_process(("mcdo", *arguments), cwd, said)
    sys.exit(main(list(arguments)))


def _python(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    code, *others = arguments
    _as_a_process(("-c", *others), cwd, said)
    sys.path.insert(0, str(cwd))
    ours = [vars(module) for name, module in sys.modules.items() if name.startswith("mcdo.")]
    for table in (each for held in ours for each in held.values() if isinstance(each, Table)):
        vars(table).pop("_points", None)  # packages that were installed when the server looked
    script = said.with_name("code.py")
    script.write_text(code, encoding="utf-8")
    run_path(str(script), run_name="__main__")


def _as_a_process(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    with said.open("wb") as file:  # both streams: what is said is looked for in either
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    sys.argv = [*arguments]
