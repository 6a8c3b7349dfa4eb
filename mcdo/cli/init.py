"""``mcdo init``: a test module that runs the gates in one's own repository."""

from __future__ import annotations

import argparse
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.names import say

TEST, CONFTEST = "test_uncertainty.py", "conftest.py"
TESTS = '''"""Can the uncertainty of our encoder be trusted? mcdo measures it, and ends with GO, NO-GO or UNDECIDED.

    pytest -m phase1 --protocol=quick                          # mcdo's embedded encoders, in minutes
    pytest -m phase1 --models=ours --images=folder:/data/images

where conftest.py says mcdo.register_encoder("ours", factory), and factory() returns mcdo.Encoder.of(module, ...).
Without these tests: pytest -m "not phase1".
"""

from mcdo.harness import tests_of

test_phase1 = tests_of("phase1")
'''
PLUGIN = 'pytest_plugins = ["mcdo.pytest_plugin"]'


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser("init", help=f"write {TEST}, which runs the gates, into a repository of one's own")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="where (default: here)")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Write what is not there yet, and say what."""
    if not asked.folder.is_dir():
        raise McdoError(f"there is no folder {asked.folder} to write {TEST} into: make it first, or name another")
    test, conftest = asked.folder / TEST, asked.folder / CONFTEST
    if test.exists():
        raise McdoError(f"{test} is there already, and stays as it is: name another folder")
    _write(test, TESTS)
    if any(point.value.startswith("mcdo.") for point in entry_points(group="pytest11")):
        return 0  # pytest finds the plug-in by itself
    if conftest.exists():
        say(f"{conftest} stays as it is, and needs the line {PLUGIN}")
    else:
        _write(conftest, f"{PLUGIN}\n")
    return 0


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:  # never over a file
        file.write(text)
    say(f"wrote {path}")
