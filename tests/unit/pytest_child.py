"""What a process of test_pytest_plugin.py does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcdo.cli import main


def child(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    """``pytest arguments`` in ``cwd``, as a process of its own; what it prints goes to ``said``."""
    _as_a_process(("pytest", *arguments), cwd, said)
    sys.exit(int(pytest.main(list(arguments))))


def command(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    """The same of ``mcdo arguments``."""
    _as_a_process(("mcdo", *arguments), cwd, said)
    sys.exit(main(list(arguments)))


def _as_a_process(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    sys.argv = [*arguments]
