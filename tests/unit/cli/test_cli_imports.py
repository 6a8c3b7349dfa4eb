"""What a command waits for before it starts: the heavy libraries are imported where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIST = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules} - before))"


def brought_in(statement: str) -> set[str]:
    """Top-level modules outside the standard library that a statement imports into a fresh interpreter."""
    code = f"import sys; before = {{name.partition('.')[0] for name in sys.modules}}\n{statement}\n{LIST}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(done.stdout.split()) - sys.stdlib_module_names
    own = ("cython", "_cyutility", "_sysconfigdata")  # parts of numpy, of scipy and of Python
    return {name for name in names if not any(part in name for part in own)}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import mcdo", {"mcdo"}),
        ("import mcdo.cli", {"mcdo", "numpy", "filelock", "safetensors"}),
        (
            "import mcdo.report.compare, mcdo.report.export, mcdo.report.page, mcdo.report.stored_runs, "
            "mcdo.experiments.rivals.rating",
            {"mcdo", "numpy", "scipy", "filelock", "msgspec", "safetensors", "typing_extensions"},  # and no torch
        ),
    ],
)
def test_what_an_import_brings_in(statement: str, allowed: set[str]) -> None:
    assert brought_in(statement) <= allowed


def test_what_is_brought_in_is_seen() -> None:
    assert "msgspec" in brought_in("import mcdo.schema")
