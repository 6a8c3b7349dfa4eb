"""Libraries that take long to import are imported where they are used, so that collecting the tests does not wait."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import pytest
from pytest_child import run_pytest

from mcdo.encoders import REGISTRY
from mcdo.encoders.recipe import replicate_folder, write_untrained

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = run_path(str(ROOT / "conftest.py"))
SLOW: set[str] = CONFTEST["SLOW"]
BACKENDS = {  # themselves imported where a model is built
    f"mcdo.encoders.{name}"
    for name in (
        *("configuration", "hf_backend", "hf_preprocessing", "open_clip_backend", "timm_backend"),
        *("torchvision_backend", "towers", "train"),
    )
}


@cache
def texts(room: str) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in (ROOT / room).rglob("*.py")}


@cache
def parsed(room: str) -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(text)) for path, text in texts(room).items()]


def mentioning(pattern: str) -> list[tuple[Path, ast.Module]]:
    """Modules of tests in which a pattern is found: parsing all takes long."""
    return [(path, ast.parse(text)) for path, text in texts("tests").items() if re.search(pattern, text, re.MULTILINE)]


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """What the module imports when it is itself imported."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))


def slow_imports(tree: ast.Module) -> set[str]:
    names = set(imported_at_once(tree))
    return {name for name in names if name.partition(".")[0] in SLOW or name in BACKENDS or name.startswith("scipy.")}


def test_nothing_but_a_backend_imports_a_slow_library_at_once() -> None:
    named = rf"^(import|from)\b.*\b({'|'.join(sorted(SLOW))}|scipy|mcdo\.encoders)\b"
    trees = parsed("mcdo") + mentioning(named)
    found = {str(path.relative_to(ROOT)): slow_imports(tree) for path, tree in trees}
    assert len(found) > 400
    allowed = {f"{name.replace('.', '/')}.py" for name in BACKENDS}
    assert {path: names for path, names in found.items() if names and path not in allowed} == {}


@pytest.mark.parametrize("line", ["import timm.models", "from mcdo.encoders import Encoder, open_clip_backend"])
def test_a_slow_import_is_seen(line: str) -> None:
    late = "def late():\n    import sklearn\n"
    assert slow_imports(ast.parse(f"{line}\n\n{late}"))
    assert not slow_imports(ast.parse(late))


def test_a_slow_library_that_a_test_s_module_imports_is_seen(tmp_path: Path) -> None:
    """A table as a constant of a test's module, say: every collection of these tests looks for it."""
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "h5py.py").touch()
    (tmp_path / "test_late.py").write_text("def test_late():\n    import h5py\n")
    (tmp_path / "test_at_once.py").write_text("from importlib import import_module\nimport_module('h5py')\n")
    done = run_pytest(cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert "test_at_once.py imports h5py as it is collected" in done.stdout
    assert "1 error in" in done.stdout, done.stdout
    (tmp_path / "test_at_once.py").unlink()
    done = run_pytest(cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.OK, done.stdout


def bears_a_phase(tree: ast.AST) -> bool:
    """Whether a test's module names the mark of a phase, or that of an experiment, which brings one."""
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return "of_experiment" in names or any(re.fullmatch(r"phase\d", each) for each in attributes)


def test_tests_of_a_phase_lie_where_its_mark_looks_for_them() -> None:
    """``-m phase1`` collects no other folder."""
    trees = mentioning(r"\bof_experiment\b|(?<!experiments)\.phase\d\b")
    found = {path.relative_to(ROOT / "tests").parts[0] for path, tree in trees if bears_a_phase(tree)}
    assert found == set(CONFTEST["PHASES"])


@pytest.mark.slow
def test_trainings_that_are_named_may_bring_their_library(tmp_path: Path) -> None:
    """As ``make replicates`` names them, in a process that has imported nothing yet."""
    for key in ("clip_tiny", "clip_tiny_sigmoid", "siglip_tiny", "siglip_tiny_softmax"):
        for seed in (1, 2):
            folder = replicate_folder(key, seed, tmp_path)
            write_untrained(REGISTRY[key], folder)
            (folder / "card.json").touch()
    command = [sys.executable, "-m", "pytest", "tests/experiments/prelim/test_prelim_replicates.py", "--collect-only"]
    done = subprocess.run(
        [*command, f"--replicates={tmp_path}", "--store=none"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == pytest.ExitCode.OK, done.stdout


def exists(name: str) -> bool:
    """Whether a dotted name leads to a module, or to what one holds."""
    head, _, last = name.rpartition(".")
    try:
        if find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    return bool(head) and exists(head) and hasattr(_held(head), last)


def _held(name: str) -> object:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        head, _, last = name.rpartition(".")
        return getattr(import_module(head), last)


def test_references_in_docstrings_lead_somewhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mcdo").rglob("*.py"))
    names = set(re.findall(r":[a-z]+:`~?(mcdo\.[\w.]+)`", text))
    assert len(names) > 10
    assert {name for name in names if not exists(name)} == set()
    assert not exists("mcdo.experiments.first_order_domain")


ROOMS = (
    *("names", "errors", "arguments", "threads", "registration", "schema", "compiled"),
    *("store", "images", "encoders", "perturbation", "estimators", "rivals", "stats", "report", "recipes"),
    *("harness", "experiments", "studies", "suite", "cluster", "pytest_plugin", "pytest_entry", "cli"),
)
"""A room imports from rooms before it only; what is imported for annotations alone does not count."""


def rooms_imported(tree: ast.AST) -> Iterator[str]:
    """But under ``if TYPE_CHECKING``, whose ``else`` counts."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from (name for each in node.orelse for name in rooms_imported(ast.Module([each], [])))
        elif isinstance(node, ast.ImportFrom):
            names = [f"mcdo.{alias.name}" for alias in node.names] if node.module == "mcdo" else [str(node.module)]
            yield from (name.split(".")[1] for name in names if name.startswith("mcdo."))
        elif isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case)):  # no expression holds an import
            yield from rooms_imported(node)


def test_what_a_room_imports_is_seen() -> None:
    typed = "if TYPE_CHECKING:\n    from mcdo.cli import main\nelse:\n    from mcdo import store\n"
    late = "def late():\n    try:\n        from mcdo.stats.relations import spearman\n    except ImportError:\n"
    handled = "        with held:\n            from mcdo import report, images\n"
    matched = "match late:\n    case 1:\n        from mcdo.harness import claim\n"
    tree = ast.parse(typed + late + handled + matched)
    assert set(rooms_imported(tree)) == {"store", "stats", "report", "images", "harness"}


def test_a_room_imports_only_from_rooms_above_it() -> None:
    found = {}
    for path, tree in parsed("mcdo"):
        room = path.relative_to(ROOT / "mcdo").parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            below = {name for name in rooms_imported(tree) if name in ROOMS[ROOMS.index(room) + 1 :]}
            found[str(path.relative_to(ROOT))] = below
    assert any("recipes" in path for path in found)
    assert {path: below for path, below in found.items() if below} == {}


def test_experiments_of_a_phase_lie_in_its_folder_and_nothing_lies_beside_them() -> None:
    """What experiments share is the harness's, or a room's above it."""
    assert [path.name for path in (ROOT / "mcdo" / "experiments").glob("*.py")] == ["__init__.py"]
