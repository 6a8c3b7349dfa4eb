"""docs/adding.md as its readers meet it: its files in an empty folder, run by pytest and in Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pytest_child import run_python

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_PYTHON = """
import sys
import mcdo
encoder, images = mcdo.load_encoder("grey_linear"), mcdo.load_images("digits", n=4)
run = mcdo.monte_carlo(encoder, images, mcdo.Dropout(0.05), 8, 2, progress=False)
assert (run.scores("median_var") > 0).all(), run.scores("median_var")
named = mcdo.load_encoder("python:lab.encoder:grey_linear")
assert named.weights_hash == encoder.weights_hash
try:
    mcdo.load_encoder("grey_liner")
except mcdo.McdoError as error:
    assert "grey_linear" in str(error), error
else:
    raise AssertionError("an unknown key was taken")
import pytest
raise SystemExit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the page; what its pyproject.toml says stands beside it as it would after an installation."""
    folder = tmp_path_factory.mktemp("adding")
    files = dict(BLOCK.findall((ROOT / "docs/adding.md").read_text(encoding="utf-8")))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    points = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", files["pyproject.toml"]).replace('"', "")
    installed = folder / "lab-0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 0.1\n")
    (installed / "entry_points.txt").write_text(points)
    (folder / "pyproject.toml").unlink()  # or pytest would take its tables for a project
    (folder / "lab/__init__.py").touch()
    (folder / "conftest.py").write_text('pytest_plugins = ["mcdo.pytest_plugin"]\n')
    return folder


def test_every_example_is_one_file(lab: Path) -> None:
    examples = sorted(path.stem for path in (lab / "lab").glob("*.py") if path.stem != "__init__")
    assert examples == ["encoder", "experiment", "kind", "score", "statistic"]


def test_all_of_it_is_there_in_python_and_the_experiment_under_its_mark_is_judged(lab: Path) -> None:
    asked = ["-m", "lab", "-v", "--store=store", "--reports=reports", "--models=grey_linear,clip_tiny"]
    asked += ["--perturbation=input_dropout:0.05@all", "--protocol=quick"]
    done = run_python(IN_PYTHON, "-p", "no:cacheprovider", "--assert=plain", *asked, cwd=lab)
    assert done.returncode == 0, done.stdout
    for model in ("grey_linear", "clip_tiny"):
        assert f"test_lab.py::test_median::test_median[{model}-below_the_mean] PASSED" in done.stdout, done.stdout
        folder = lab / "reports/lab/median_beside_trace" / model
        summary = json.loads((folder / "median_summary.json").read_text(encoding="utf-8"))
        assert 0 < summary["median_over_mean"]["value"] < 1
        assert [claim["outcome"] for claim in summary["claims"]] == ["met"]
        assert summary["config"]["dropout"]["kind"] == "InputDropout"
        assert (folder / "median.png").stat().st_size > 5_000
