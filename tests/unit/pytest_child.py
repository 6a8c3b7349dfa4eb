"""What a process of test_pytest_plugin.py does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def child(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    """``pytest arguments`` in ``cwd``, as a process of its own; what it prints goes to ``said``."""
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    sys.argv = ["pytest", *arguments]
    sys.exit(int(pytest.main(list(arguments))))
