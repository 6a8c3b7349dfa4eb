"""A wheel in an environment of its own: the gates run in any repository, and one without them notices nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from runpy import run_path
from zipfile import ZipFile

import pytest
from pytest_child import run_pytest, run_python

from mcdo.cli import main

ROOT = Path(__file__).resolve().parents[2]
SLOW: set[str] = run_path(str(ROOT / "conftest.py"))["SLOW"]
SOURCES = ("mcdo", "tests/gates", "tests/experiments", "pyproject.toml", "setup.py", "README.md")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
LOOK = """
import json, pathlib, pytest, sys
code = pytest.main(["--collect-only", "-q", "-m", "phase1"])
slow = sorted(set(sys.argv[1:]) & set(sys.modules))
import mcdo
from mcdo.harness.negatives import KnownNegatives
from mcdo.encoders import REGISTRY
negatives = KnownNegatives.load().all
embedded = [pathlib.Path(spec.source.partition(":")[2]) for spec in REGISTRY.values() if spec.embedded]
weights = [folder.name for folder in embedded if (folder / "open_clip_model.safetensors").is_file()]
print(json.dumps({"file": mcdo.__file__, "negatives": len(negatives), "weights": weights, "slow": slow}))
raise SystemExit(code)
"""
BOTH = """
import pytest, sys
from ours.encoder import train
train(epochs=3)
raise SystemExit(pytest.main(sys.argv[1:]))
"""
UNRELATED = """
import sys

import pytest

@pytest.mark.gate
def test_nothing_of_ours_is_here(request, model, session):
    assert (model, session, request.config.getoption("--models")) == ("mine", "mine", "mine")
    assert not {"torch", "numpy", "mcdo.harness"} & set(sys.modules), sorted(sys.modules)
"""
CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--models", default="mine")

@pytest.fixture
def model():
    return "mine"

@pytest.fixture
def session():
    return "mine"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that holds the wheel; its libraries are this one's, and its mcdo is not."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    found = home / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([found, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    libraries = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    with ZipFile(wheel) as held:  # an installation is no more than that, as long as no scripts are in it
        held.extractall(packages)
    return found


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    command = [str(python), "-m", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_the_wheel_holds_all_that_the_gates_need_and_no_test_of_ours(wheel: Path) -> None:
    with ZipFile(wheel) as held:
        names = set(held.namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "mcdo").rglob("*.*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    suite = {
        f"mcdo/suite/{path.relative_to(ROOT / 'tests')}"
        for top in ("gates", "experiments")
        for path in (ROOT / "tests" / top).rglob("test_*.py")
    }
    assert len([name for name in package if name.startswith("mcdo/data/")]) > 20
    assert len(suite) > 20
    assert package | suite <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"mcdo", next(top for top in tops if top.endswith(".dist-info"))}


def test_a_repository_that_does_not_use_it_keeps_its_options_and_fixtures_and_waits_for_nothing(
    python: Path, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "test_unrelated.py").write_text(UNRELATED, encoding="utf-8")
    done = run(python, tmp_path, "pytest", "-p", "no:hypothesispytest", "-p", "no:anyio")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 warning" in done.stdout, done.stdout  # the mark gate is unknown there
    assert "uncertainty" not in run(python, tmp_path, "pytest", "--help").stdout


def test_init_writes_a_module_that_collects_what_the_checkout_does_with_what_it_needs(
    python: Path, tmp_path: Path
) -> None:
    done = run(python, tmp_path, "mcdo", "init")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["test_uncertainty.py"]
    (tmp_path / "look.py").write_text(LOOK, encoding="utf-8")
    there = run(python, tmp_path, "look", *SLOW)
    assert there.returncode == 0, there.stdout + there.stderr
    *lines, last = there.stdout.splitlines()
    seen = json.loads(last)
    assert Path(seen["file"]).is_relative_to(python.parents[1])
    assert seen["negatives"] > 10
    assert len(seen["weights"]) == 4
    assert seen["slow"] == [], "collecting waits for them"
    here = run_pytest("tests/gates", "tests/experiments", "--collect-only", "-q", "-m", "phase1")
    ids = {line.partition("::test_phase1::")[2] for line in lines if "::" in line}
    assert len(ids) > 30
    assert ids == {line.rpartition("/")[2].replace(".py::", "::") for line in here.stdout.splitlines() if "::" in line}


def test_init_names_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "there")]) == 2
    assert f"there is no folder {tmp_path / 'there'}" in capsys.readouterr().err


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "test_uncertainty.py"
    written.write_text("mine", encoding="utf-8")
    assert main(["init", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert written.read_text(encoding="utf-8") == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example as a repository of its own."""
    ignored = shutil.ignore_patterns("*.pt", "store", "reports")
    return Path(shutil.copytree(ROOT / "examples/own-encoder", tmp_path / "own-encoder", ignore=ignored))


def test_the_example_runs_its_own_experiment(example: Path) -> None:
    """On an encoder that was trained for a moment, in the same process."""
    done = run_python(BOTH, "-m", "ours", "--protocol=quick", "-v", "--assert=plain", cwd=example)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout, done.stdout
    summary = json.loads((example / "reports/ours/not_the_norm/ours/not_the_norm_summary.json").read_text("utf-8"))
    assert [claim["outcome"] for claim in summary["claims"]] == ["met", "met"]


@pytest.mark.slow
def test_the_example_s_gates_end_with_a_verdict_also_on_two_workers(python: Path, example: Path) -> None:
    trained = run(python, example, "ours.encoder")
    assert trained.returncode == 0, trained.stderr
    done = run(python, example, "pytest", "-m", "phase1", "--protocol=quick", "-n", "2")
    assert done.returncode in (0, 1), done.stdout  # the verdict is the encoder's own affair
    assert "The harness's own gates: " in done.stdout
    assert ", 0 failed, " in done.stdout
    assert "ours trace_pre: " in done.stdout
    assert "ours disagreeing_dims: " in done.stdout
