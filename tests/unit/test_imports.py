"""Libraries that take long to import are imported where they are used, so that collecting the tests does not wait."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOW = {
    *("h5py", "huggingface_hub", "matplotlib", "numba", "open_clip", "pandas", "sklearn", "timm", "torchvision"),
    *("transformers", "scipy.optimize", "scipy.stats"),  # scipy imports a part of it that is named: scipy.stats.norm
}
BACKENDS = {  # themselves imported where a model is built
    f"mcdo.encoders.{name}"
    for name in (
        *("configuration", "hf_backend", "hf_preprocessing", "open_clip_backend", "timm_backend"),
        *("torchvision_backend", "towers", "train"),
    )
}


def imported_at_once(path: Path) -> Iterator[str]:
    """What the module imports when it is itself imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))


def slow_imports(path: Path) -> set[str]:
    names = set(imported_at_once(path))
    return {name for name in names if name.partition(".")[0] in SLOW or name in BACKENDS or name.startswith("scipy.")}


def test_nothing_but_a_backend_imports_a_slow_library_at_once() -> None:
    paths = [path for room in ("mcdo", "tests") for path in (ROOT / room).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): slow_imports(path) for path in paths}
    allowed = {f"{name.replace('.', '/')}.py" for name in BACKENDS}
    assert {path: names for path, names in found.items() if names and path not in allowed} == {}


@pytest.mark.parametrize("line", ["import timm.models", "from mcdo.encoders import Encoder, open_clip_backend"])
def test_a_slow_import_is_seen(line: str, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(f"{line}\n\ndef late():\n    import sklearn\n", encoding="utf-8")
    assert slow_imports(module)
    module.write_text("def late():\n    import sklearn\n", encoding="utf-8")
    assert not slow_imports(module)


def test_collection_runs_nothing_that_imports_a_slow_library() -> None:
    """Digits of scikit-learn as a constant of a test's module, say."""
    code = "import pytest, sys; pytest.main(['--collect-only', '-qq', 'tests']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "mcdo.experiments" in done.stderr.split()
    assert SLOW & set(done.stderr.split()) == set()


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


def rooms_imported(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    annotations = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in annotations:
            names = [f"mcdo.{alias.name}" for alias in node.names] if node.module == "mcdo" else [str(node.module)]
            yield from (name.split(".")[1] for name in names if name.startswith("mcdo."))


def test_a_room_imports_only_from_rooms_above_it() -> None:
    found = {}
    for path in (ROOT / "mcdo").rglob("*.py"):
        room = path.relative_to(ROOT / "mcdo").parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            below = {name for name in rooms_imported(path) if name in ROOMS[ROOMS.index(room) + 1 :]}
            found[str(path.relative_to(ROOT))] = below
    assert any("recipes" in path for path in found)
    assert {path: below for path, below in found.items() if below} == {}


def test_experiments_of_a_phase_lie_in_its_folder_and_nothing_lies_beside_them() -> None:
    """What experiments share is the harness's, or a room's above it."""
    assert [path.name for path in (ROOT / "mcdo" / "experiments").glob("*.py")] == ["__init__.py"]
