"""The command line as its users meet it: each test runs pytest on the repository, or on a small suite, in a process."""

from __future__ import annotations

import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from pytest_child import ROOT, collected, run_mcdo, run_pytest, run_python

from mcdo.harness import first_model
from mcdo.pytest_plugin import marks

MISTYPED = {
    "mark": (["-m", "phase11"], "unknown mark 'phase11' in -m; the nearest: phase1"),
    "mark-in-expression": (["-m", "phase1 and clipp"], "the nearest: clip"),
    "model": (["--models=clip_tny"], "unknown encoder 'clip_tny'; the nearest: clip_tiny"),
    "model-twice": (["--models=clip_tiny,siglip_tiny,clip_tiny"], "--models names clip_tiny twice"),
    "random-weights": (["--random-weights=clip_b32"], "--random-weights clip_b32: not among --models"),
    "scores": (["--scores=file:mine.csv"], "-m rivals --scorers=file:mine.csv judges any other"),
    "p": (["--dropout=1.0"], "it must be a number in [0, 1)"),
    "kind": (["--perturbation=gausian"], "unknown kind of perturbation 'gausian'; the nearest: gaussian"),
    "twice": (
        ["--perturbation=dropout:0.05", "--sites=mlp"],
        "says kind, p and sites, and --sites=mlp says them again",
    ),
    "seed": (["--seed=-1"], "seed = -1: it must be at least 0"),
    "batch-size": (["--batch-size=0"], "--batch-size = 0: it must be at least 1"),
    "gpu": (["--device=gpu"], "unknown device 'gpu'; the nearest: cpu"),
}


EACH = """
import json, sys
import pytest
for arguments in json.loads(sys.argv[1]):
    print("\\f", flush=True)
    print("ended with", int(pytest.main(arguments)), flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What pytest says of each, all in one process."""
    asked = ("tests/gates", "-p", "no:cacheprovider", "--assert=plain", "--store=none")
    reports = f"--reports={tmp_path_factory.mktemp('reports')}"
    every = [[*asked, reports, *arguments] for arguments, _ in MISTYPED.values()]
    _, *said = run_python(EACH, json.dumps(every), cwd=ROOT).stdout.split("\f")
    return dict(zip(MISTYPED, said, strict=True))


@pytest.mark.parametrize("mistyped", MISTYPED)
def test_a_mistyped_option_ends_with_the_nearest_real_one(mistyped: str, refusals: dict[str, str]) -> None:
    assert MISTYPED[mistyped][1] in refusals[mistyped]
    assert "ended with 4" in refusals[mistyped]


def test_a_test_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The end of a collection comes although it broke off."""
    done = run_pytest("tests/gates/test_harness.py::test_nothing", f"--reports={tmp_path}")
    assert done.returncode == 4
    assert "ERROR: not found" in done.stdout


OF_NO_MODEL = {
    "test_images_are_spread_over_the_classes",
    "test_accelerator_agrees_with_the_cpu[cuda]",
    "test_accelerator_agrees_with_the_cpu[mps]",
}


@pytest.mark.parametrize(
    ("arguments", "folder", "only"),
    [
        (["-m", "phase1 and siglip"], "(experiments/phase1|gates)/", "siglip_tiny"),
        (["-m", "phase3 and not slow"], "experiments/phase3/", ""),
        (["-k", "exp3"], "experiments/phase2/test_exp3", ""),
    ],
    ids=lambda value: value[1].replace(" ", "-") if isinstance(value, list) else "",
)
def test_marks_and_names_select_what_they_say(arguments: list[str], folder: str, only: str) -> None:
    ids = collected("tests/experiments", "tests/gates", *arguments)
    assert ids
    assert all(re.match(f"tests/{folder}", node) and node.isascii() and "@" not in node for node in ids)
    # What is about all selected models is of every family of theirs, and so is a gate that is about none.
    others = {node for node in ids if f"[{only}" not in node and "[all_models" not in node} if only else set()
    assert {node.rpartition("::")[2] for node in others} == (OF_NO_MODEL if only else set())


def test_the_performance_suite_runs_with_benchmark_only_and_is_all_that_perf_selects() -> None:
    everything = collected("tests/perf", "tests/gates")
    assert everything
    assert not any("tests/perf" in node for node in everything)
    measured = collected("tests/perf", "tests/gates", "--benchmark")
    assert measured > everything
    assert collected("tests/perf", "tests/gates", "--benchmark", "-m", "perf") == measured - everything


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A small suite elsewhere, with the same plugin."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["mcdo.pytest_plugin"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    return tmp_path


def test_later_phases_are_refused_without_a_go(suite: Path) -> None:
    (suite / "test_later.py").write_text(
        "import pytest\n\n@pytest.mark.phase2\ndef test_later() -> None:\n    assert True\n"
    )
    refused = run_pytest(f"--reports={suite / 'reports'}", cwd=suite)
    assert refused.returncode == 1
    assert "there is no Phase 1 verdict" in refused.stdout
    forced = run_pytest(f"--reports={suite / 'reports'}", "--force", cwd=suite)
    assert forced.returncode == 0


def test_tests_of_other_kinds_may_call_anything_subject(suite: Path) -> None:
    (suite / "test_other.py").write_text(
        "import pytest\n\n"
        '@pytest.mark.parametrize("subject", ["a file"])\n'
        "def test_other(subject: str) -> None:\n    assert subject\n"
    )
    done = run_pytest(f"--reports={suite / 'reports'}", cwd=suite)
    assert done.returncode == 0, done.stdout


def test_missing_hardware_is_a_skip_that_says_so_and_a_failure_on_demand(suite: Path) -> None:
    import torch

    missing = next(
        (
            tier
            for tier, found in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
            if not found
        ),
        None,
    )
    assert missing is not None, "a machine with both kinds of accelerator"
    (suite / "test_tier.py").write_text(
        f"import pytest\n\n@pytest.mark.{missing}\ndef test_tier() -> None:\n    assert True\n"
        f"\n@pytest.mark.{missing}\ndef test_with_a_model(model: str) -> None:\n    raise AssertionError(model)\n"
    )
    skipped = run_pytest("-rs", cwd=suite)
    assert skipped.returncode == 0, skipped.stdout
    assert f"needs {missing}; found cpu" in skipped.stdout
    required = run_pytest(f"--require-tier={missing}", cwd=suite)
    assert required.returncode == 1
    assert f"needs {missing}; found cpu" in required.stdout


SMALL = """
import torch
from torch import nn
from torchvision.transforms import v2

import mcdo

pytest_plugins = ["mcdo.pytest_plugin"]

def small(device):
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.Flatten(), nn.Linear(128, 16))
    shown = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,) * 3, (0.5,) * 3))
    return mcdo.Encoder.of(tower, v2.Compose([v2.Resize((32, 32)), *shown]), device=device)

for name in ("one", "other"):
    mcdo.register_encoder(name, small)
"""
SCORES = """
import json
from pathlib import Path

import mcdo
from mcdo.estimators import MonteCarloConfig
from mcdo.harness import Images, Passes

def scored(model, passes, session, worker):
    config = MonteCarloConfig(mcdo.Dropout(0.05), (passes,), 2, session.settings.seed)
    scores = session.measure(Passes(model, Images(6), config)).scores("trace_pre").tolist()
    found = {"scores": scores, "loads": session.loads}
    Path(f"{worker}-{model}-{passes}.json").write_text(json.dumps(found))

def test_few(model, session, worker_id):
    scored(model, 4, session, worker_id)

def test_more(model, session, worker_id):
    scored(model, 8, session, worker_id)
"""


def test_workers_load_each_model_once_and_give_the_same_numbers(tmp_path: Path) -> None:
    """Of encoders that take no library which is long to import."""
    (tmp_path / "conftest.py").write_text(SMALL)
    (tmp_path / "test_scores.py").write_text(SCORES)
    asked = ("--models=one,other", "--images=synthetic:noise:32", "--seed=7", f"--reports={tmp_path / 'reports'}")
    for further in ((), ("-n", "2")):
        done = run_pytest(*asked, *further, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
    found = {tuple(path.stem.split("-")): json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    workers = {key for key in found if key[0] != "master"}
    assert len(workers) == 4, "each is scored once"
    assert len({(worker, model) for worker, model, _ in workers}) == 2, "tests of one model ran on several workers"
    for worker, model, passes in workers:
        assert found[worker, model, passes]["scores"] == found["master", model, passes]["scores"]
        assert found[worker, model, passes]["loads"][model] == 1


def recorded(junit: ET.ElementTree[Any], test: str) -> dict[str, str]:
    """Properties of one test."""
    (case,) = (case for case in junit.iter("testcase") if case.get("name") == test)
    return {str(each.get("name")): str(each.get("value")) for each in case.iter("property")}


def test_junit_carries_the_figures_and_what_was_run(tmp_path: Path) -> None:
    experiment = "tests/experiments/phase1/test_exp4_subset_recipe.py"
    sizes = ("--protocol=quick", "--num-images=30", "--passes=8", "--trials=3")
    asked = ("-k", "both_scores or angular", "--models=clip_tiny", *sizes, f"--reports={tmp_path}")
    done = run_pytest(experiment, *asked, f"--junitxml={tmp_path / 'junit.xml'}")
    assert done.returncode == 0, done.stdout
    junit = ET.parse(tmp_path / "junit.xml")
    figures = recorded(junit, "test_both_scores_are_reported[clip_tiny]")
    assert re.match(r"0\.\d+ \[0\.\d+, 0\.\d+\] n=30", figures["trace spearman"])
    claim = recorded(junit, "test_claims[clip_tiny-trace_more_reliable_than_angular]")
    assert float(claim["low"]) < float(claim["value"]) < float(claim["high"])
    assert claim["n"] == "30"
    of_the_run = {str(each.get("name")): each.get("value") for each in junit.iterfind("./testsuite/properties/*")}
    assert {"models", "images", "protocol", "seed", "mcdo", "python", "time"} <= of_the_run.keys()
    assert of_the_run["protocol"] == "quick"


def test_junit_says_what_was_run_by_workers(suite: Path) -> None:
    (suite / "test_nothing.py").write_text("def test_nothing(session) -> None:\n    pass\n")
    asked = ("--seed=7", f"--reports={suite / 'reports'}", f"--junitxml={suite / 'junit.xml'}")
    assert run_pytest(*asked, "-n", "1", cwd=suite).returncode == 0
    properties = ET.parse(suite / "junit.xml").iterfind("./testsuite/properties/*")
    of_the_run = {str(each.get("name")): each.get("value") for each in properties}
    assert of_the_run["seed"] == "7"
    assert {"models", "images", "protocol", "mcdo", "python", "time", "commit"} <= of_the_run.keys()


def test_a_failure_reaches_github_as_one_line(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    (tmp_path / "conftest.py").write_text(
        'import os\npytest_plugins = ["mcdo.pytest_plugin"]\nos.environ["GITHUB_ACTIONS"] = "true"\n'
        f'os.environ["GITHUB_STEP_SUMMARY"] = {str(summary)!r}\n'
    )
    (tmp_path / "test_bad.py").write_text(
        'def test_bad(record_property: object) -> None:\n    raise AssertionError("a\\n::error::b 100%")\n'
    )
    done = run_pytest("test_bad.py", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("::error"))
    assert line.startswith("::error file=test_bad.py,line=1,title=test_bad.py%3A%3Atest_bad::")
    assert "test_bad.py::test_bad" in summary.read_text(encoding="utf-8")


def test_how_a_run_ended_is_kept_for_its_page(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["mcdo.pytest_plugin"]\n')
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n\n@pytest.fixture\ndef broken() -> None:\n    raise ValueError\n\n\n"
        "@pytest.mark.phase1\ndef test_unmeasured(broken: None) -> None:\n    pass\n\n\n"
        "@pytest.mark.phase1\ndef test_not_met() -> None:\n    assert False\n\n\n"
        "def test_other(broken: None) -> None:\n    pass\n\n\n"
        "@pytest.mark.phase1\ndef test_stopped() -> None:\n    raise KeyboardInterrupt\n"
    )
    (tmp_path / "reports").mkdir()

    said = []

    def ended(*select: str) -> dict[str, Any]:
        said.append(run_pytest("test_some.py", "--reports=reports", "--page=page.html", *select, cwd=tmp_path).stdout)
        found: dict[str, Any] = json.loads((tmp_path / "reports" / "run.json").read_text(encoding="utf-8"))
        return found

    first = ended()
    assert (first["interrupted"], first["errors"]) == (True, ["test_some.py::test_unmeasured"])
    assert "one is made by: mcdo report --reports=reports --out=page.html" in said[0]
    assert {"time", "mcdo", "python", "commit"} <= set(first["made"])
    assert ended("-k", "other") == first, "no experiment was asked for"
    whole = ended("-k", "not_met")
    assert (whole["interrupted"], whole["errors"]) == (False, [])
    assert ended("-k", "not_met or stopped", "--maxfail=1")["interrupted"], "not all were run"
    assert not ended("-k", "not_met", "--maxfail=1")["interrupted"]
    (tmp_path / "test_some.py").write_text(
        "import os\n\nimport pytest\n\n\n@pytest.mark.phase1\ndef test_killed() -> None:\n    os._exit(9)\n"
    )
    assert ended()["interrupted"]


def test_an_unreadable_image_is_named_before_any_pass(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 40), (60 * i, 90, 200)).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "cats" / "torn.png").write_bytes(b"")
    few = ["--models=clip_tiny", "--num-images=9", "--passes=4", "--trials=2"]
    select = ["tests/experiments/phase1/test_exp0_nested_mc.py", "-k", "contract", *few]
    done = run_pytest(*select, f"--images=folder:{tmp_path / 'images'}", f"--reports={tmp_path / 'r'}")
    assert done.returncode == 4
    assert "torn.png" in done.stdout
    assert "--skip-unreadable" in done.stdout
    run_pytest(*select, f"--images=folder:{tmp_path / 'images'}", f"--reports={tmp_path / 'r'}", "--skip-unreadable")
    manifest = json.loads((tmp_path / "r" / "phase1" / "manifest_all.json").read_text())
    assert manifest["num_images"] == 8
    assert [entry["path"] for entry in manifest["skipped"]] == ["cats/torn.png"]


def test_tracking_files_of_ones_own_are_reported_and_a_bad_frame_is_named(tmp_path: Path) -> None:
    frame = {
        "frame_id": 0,
        "tracks": [{"id": 1, "gt_id": 1}, {"id": 2, "gt_id": 2}],
        "detections": [{"id": 0, "gt_id": 1, "uncertainty": 0.1}, {"id": 1, "gt_id": 2, "uncertainty": 0.2}],
        "motion_cost": [[0.1, 0.9], [0.8, 0.2]],
        "appearance_cost": [[0.1, 0.9], [0.8, 0.2]],
    }
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        file.write_text(json.dumps([frame]), encoding="utf-8")
    select = ["tests/experiments/phase3", "-k", "ones_own", "--force", f"--reports={tmp_path / 'r'}"]
    done = run_pytest(*select, f"--tracking={files[0]},{files[1]}")
    assert done.returncode == 0, done.stdout
    held = json.loads((tmp_path / "r/phase3/exp9_mot_adaptive/own/exp9_summary.json").read_text())
    assert held["n_sequences"] == 2
    assert held["modes"]["adaptive"]["correct"] == held["modes"]["adaptive"]["labelled"] == 4
    files[1].write_text(json.dumps([frame, frame | {"motion_cost": [[0.1, 0.9]]}]), encoding="utf-8")
    refused = run_pytest(*select, f"--tracking={files[0]},{files[1]}")
    assert refused.returncode == 1
    assert re.search(r"two\.json.*frame 1", refused.stdout)
    without = run_pytest(*select, "-rs")
    assert without.returncode == 0
    assert "OwnTracking: no --tracking; exp9: JSON files" in without.stdout


def test_one_model_experiments_take_the_first_clip() -> None:
    assert first_model(("siglip_tiny", "clip_tiny")) == "clip_tiny"
    assert first_model(("siglip_tiny",)) == "siglip_tiny"


@pytest.mark.parametrize(("workers", "code"), [((), 4), (("-n", "2"), 2)], ids=["alone", "workers"])
def test_reports_that_cannot_be_written_are_noticed_before_measuring(
    workers: tuple[str, ...], code: int, suite: Path
) -> None:
    (suite / "file").touch()
    (suite / "test_measuring.py").write_text(
        "from pathlib import Path\n\ndef test_measuring(session) -> None:\n    Path('measured').touch()\n"
    )
    refused = run_pytest(f"--reports={suite / 'file' / 'reports'}", *workers, cwd=suite)
    assert refused.returncode == code, refused.stdout
    assert "reports cannot be written" in refused.stdout
    assert "--reports" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert not (suite / "measured").exists()
    (suite / "test_measuring.py").write_text("def test_nothing_measured() -> None:\n    assert True\n")
    assert run_pytest(f"--reports={suite / 'file' / 'reports'}", cwd=suite).returncode == 0


def test_of_all_warnings_only_doubts_about_a_number_fail(suite: Path) -> None:
    kinds = ("UserWarning", "FutureWarning", "ResourceWarning", "UnwrittenWarning", "StoreWarning", "McdoWarning")
    (suite / "test_warnings.py").write_text(
        "import warnings\nimport pytest\nfrom mcdo.errors import McdoWarning, UnwrittenWarning\n"
        "from mcdo.store import StoreWarning\n\n"
        f"@pytest.mark.parametrize('kind', [{', '.join(kinds)}])\n"
        "def test_warning(kind) -> None:\n    warnings.warn('said of something', kind)\n"
    )
    done = run_pytest("-rf", f"--reports={suite}", cwd=suite)
    failed = re.findall(r"FAILED test_warnings.py::test_warning\[(\w+)\]", done.stdout)
    assert failed == ["McdoWarning"], done.stdout
    assert "UnwrittenWarning: said of something" in done.stdout


GATES = """
import os
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.own_gate
HERE = Path(__file__).parent

def wait_for(name):
    deadline = time.monotonic() + 60
    while not (HERE / name).exists() and time.monotonic() < deadline:
        time.sleep(0.05)

def test_passes():
    pass

def test_dies_once():
    if os.environ["CASE"] == "died" and not (HERE / "died").exists():
        (HERE / "died").touch()
        os._exit(1)

def test_comes_late():
    if os.environ["CASE"] == "cut off":
        wait_for("interrupted")
        time.sleep(2)  # nobody listens any more
"""
DECISION = """
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcdo.harness.decision import Verdict

@pytest.fixture
def completed(session):
    settings = session.settings
    made = Verdict("GO", "because", "GO", (), (), (), ("a",), "digits", 500, "full", 0.01, "all", 42, settings.session)
    return SimpleNamespace(result=made, inputs=SimpleNamespace(settings=settings))

def test_go(verdict, settings):
    there = (settings.reports / "phase1" / "verdict.json").exists()
    assert there == ("PYTEST_XDIST_WORKER" not in os.environ), "a run that is killed leaves no verdict"

def test_is_interrupted():
    if os.environ["CASE"] == "cut off":
        (Path(__file__).parent / "interrupted").touch()
        os.kill(os.getppid(), signal.SIGINT)
"""


LOSE = """
import os

import pytest

@pytest.mark.decision
def test_is_lost(verdict, settings, record_property):
    record_property("decision", verdict.decision)
    for each in (settings.reports / "phase1").glob("*verdict*"):
        each.unlink()
"""


@pytest.mark.parametrize(
    ("workers", "said"),
    [((), ("GO: because", "The verdict above is not in")), (("-n", "1"), ("There is no verdict: it is not in",))],
    ids=["alone", "workers"],
)
def test_a_verdict_that_is_not_where_it_was_written_is_missed(
    workers: tuple[str, ...], said: tuple[str, ...], suite: Path
) -> None:
    """As where the disk was full, or another run in the folder began."""
    (suite / "test_1_gate.py").write_text(
        "import pytest\n\n@pytest.mark.own_gate\ndef test_passes() -> None:\n    pass\n"
    )
    (suite / "test_2_decision.py").write_text(DECISION.partition("def test_go")[0] + LOSE)
    done = run_pytest(f"--reports={suite / 'reports'}", *workers, cwd=suite)
    assert done.returncode == 0, done.stdout
    assert all(each in done.stdout for each in said), done.stdout


@pytest.mark.parametrize(
    ("case", "workers", "decision", "said"),
    [
        ("whole", (), "GO", "3 passed, 0 failed, 0 skipped."),
        ("whole", ("-n", "2"), "GO", "3 passed, 0 failed, 0 skipped."),
        ("died", ("-n", "2"), "UNDECIDED", "1 of the harness's own gates failed (test_dies_once)"),
        ("cut off", ("-n", "2"), "UNDECIDED", "of the harness's own gates did not run to their end"),
    ],
)
def test_there_is_no_go_before_every_gate_of_every_worker_has_passed(
    case: str, workers: tuple[str, ...], decision: str, said: str, suite: Path
) -> None:
    """A worker that dies reports its test without marks; one that is stopped reports nothing."""
    with (suite / "conftest.py").open("a") as conftest:
        conftest.write(f"import os\nos.environ['CASE'] = {case!r}\n")  # processes are forked from a server
    (suite / "test_1_gates.py").write_text(GATES)
    (suite / "test_2_decision.py").write_text(DECISION)
    done = run_pytest(f"--reports={suite / 'reports'}", *workers, cwd=suite)
    assert said in done.stdout, done.stdout
    found = json.loads((suite / "reports/phase1/verdict.json").read_text())
    assert found["decision"] == decision


@pytest.mark.parametrize("order", ["--nf", "--ff"])
def test_the_verdict_comes_after_the_gates_whatever_else_orders_the_tests(order: str, suite: Path) -> None:
    """A verdict that failed once, or whose file is the newest, would come first and find that no gate has ended."""
    gates, decision = suite / "test_1_gate.py", suite / "test_2_decision.py"
    gates.write_text("import pytest\n\n@pytest.mark.own_gate\ndef test_passes() -> None:\n    pass\n")
    decision.write_text(DECISION.partition("def test_is_interrupted")[0])
    os.utime(gates, (1, 1))
    cached = ("-p", "cacheprovider", "-o", "cache_dir=cache", f"--reports={suite / 'reports'}")
    (suite / "cache/v/cache").mkdir(parents=True)
    (suite / "cache/v/cache/lastfailed").write_text('{"test_2_decision.py::test_go": true}')
    done = run_pytest(*cached, order, cwd=suite)
    assert "\nGO: because" in done.stdout, done.stdout


GATES_OF_MODELS = """
import pytest

pytestmark = [pytest.mark.phase1, pytest.mark.own_gate]

def test_of_a_model(model):
    pass

def test_of_a_model_too(model):
    pass

def test_of_all():
    pass

@pytest.mark.cuda
def test_of_a_gpu():
    pass
"""


EACH_GATE_OF_A_MODEL, GATES_OF_ONE_MODEL = (
    (
        f"test_1_gate.py::test_of_a_model[{first}]",
        "test_1_gate.py::test_of_a_model_too[clip_tiny]",
        *("test_1_gate.py::test_of_all", "test_1_gate.py::test_of_a_gpu", "test_2_decision.py"),
    )
    for first in ("siglip_tiny", "clip_tiny")
)


@pytest.mark.parametrize(
    ("asked", "decision", "said"),
    [
        (("-m", "phase1 and clip"), "GO", "GO: because"),
        (("-m", "phase1 and cpu"), "GO", "GO: because"),
        (("-k", "not of_all"), "UNDECIDED", "1 of the harness's own gates did not run to their end (test_of_all)"),
        (("--deselect=test_1_gate.py::test_of_a_model[siglip_tiny]",), "UNDECIDED", "(test_of_a_model[siglip_tiny])"),
        (("test_1_gate.py::test_of_all", "test_2_decision.py"), "UNDECIDED", "(test_of_a_model, test_of_a_model_too"),
        (("--lf",), "UNDECIDED", "(test_of_a_model, test_of_a_model_too"),
        (EACH_GATE_OF_A_MODEL, "UNDECIDED", "(test_of_a_model[clip_tiny], test_of_a_model_too[siglip_tiny])"),
        (GATES_OF_ONE_MODEL, "GO", "GO: because"),
    ],
    ids=["a family", "a tier", "-k", "--deselect", "node ids", "--lf", "each of a model", "all of a model"],
)
def test_gates_that_options_leave_out_leave_no_go(
    asked: tuple[str, ...], decision: str, said: str, suite: Path
) -> None:
    """But for those of models and hardware that were not asked about."""
    (suite / "test_1_gate.py").write_text(GATES_OF_MODELS)
    made = DECISION.partition("def test_is_interrupted")[0]
    (suite / "test_2_decision.py").write_text(
        made.replace(
            "@pytest.fixture", "pytestmark = [pytest.mark.phase1, pytest.mark.clip, pytest.mark.cpu]\n\n@pytest.fixture"
        )
    )
    (suite / "cache/v/cache").mkdir(parents=True)
    failed = {"test_1_gate.py::test_of_all": True, "test_2_decision.py::test_go": True}
    (suite / "cache/v/cache/lastfailed").write_text(json.dumps(failed))
    cached = ("-p", "cacheprovider", "-o", "cache_dir=cache")
    done = run_pytest("--models=clip_tiny,siglip_tiny", f"--reports={suite / 'reports'}", *cached, *asked, cwd=suite)
    assert said in done.stdout, done.stdout
    assert json.loads((suite / "reports/phase1/verdict.json").read_text())["decision"] == decision


FLIPS = """
import pytest

tries = []

@pytest.mark.own_gate
def test_flips():
    tries.append(1)
    assert len(tries) > 1

@pytest.mark.own_gate
@pytest.mark.cuda
def test_of_a_gpu():
    pass

@pytest.mark.own_gate
def test_passes():
    pass
"""
OTHERS = {
    "run again, and the last try reported": """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for _ in range(2):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
""",
    "called by another name": """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    report = yield
    report.outcome = {"failed": "passed"}.get(report.outcome, report.outcome)
    return report
""",
    "expected": """
import pytest

def pytest_collection_modifyitems(items):
    items[0].add_marker(pytest.mark.xfail(reason="we know"))
""",
    "skipped": """
import pytest

def pytest_collection_modifyitems(items):
    items[0].add_marker(pytest.mark.skip(reason="we know"))
""",
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_gate_that_others_run_again_expect_to_fail_or_skip_leaves_no_go(what: str, suite: Path) -> None:
    """As pytest-rerunfailures, pytest-retry and flaky do, or a conftest: what a gate asks has one answer."""
    import torch

    with (suite / "conftest.py").open("a") as conftest:
        conftest.write(OTHERS[what])
    (suite / "test_1_gate.py").write_text(FLIPS)
    (suite / "test_2_decision.py").write_text(DECISION.partition("def test_is_interrupted")[0])
    done = run_pytest(f"--reports={suite / 'reports'}", cwd=suite)
    said = "did not run to their end" if what == "skipped" else "failed"
    assert f"UNDECIDED: 1 of the harness's own gates {said} (test_flips)" in done.stdout, done.stdout
    assert torch.cuda.is_available() or "skipped: test_of_a_gpu: needs cuda" in done.stdout
    assert done.returncode == 0, done.stdout


def test_assertions_that_are_left_out_are_refused(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """With python -O what pytest does not rewrite asserts nothing: some gates would pass whatever they find."""
    monkeypatch.setattr("mcdo.pytest_plugin.marks.sys.flags", SimpleNamespace(optimize=1))
    with pytest.raises(pytest.UsageError, match="leave out -O"):
        marks.pytest_configure(pytestconfig)


def test_names_of_models_reach_no_report_raw(suite: Path) -> None:
    model = suite / "\x1b[31m\u202e\u6a21"
    shutil.copytree(ROOT / "mcdo/data/models/clip_tiny", model)
    (suite / "test_model.py").write_text(
        "import pytest\nfrom mcdo.errors import McdoError\n\n"
        "def test_error(model, session) -> None:\n    raise McdoError(f'{model}: {session.encoder(model)}')\n\n"
        "def test_assertion(model, record_property) -> None:\n"
        "    record_property('m', model)\n    assert not model, model\n\n"
        "def test_skip(model) -> None:\n    pytest.skip(model)\n\n"
        "def test_other(model) -> None:\n    raise ValueError(model)\n"
    )
    done = run_pytest(
        f"--models=local-dir:{model}", f"--reports={suite}", "--junitxml=junit.xml", "-v", "-rA", cwd=suite
    )
    assert done.returncode == 1
    assert done.stdout.count("\\x1b[31m\\u202e\u6a21") >= 4
    written = (suite / "junit.xml").read_text(encoding="utf-8")
    ET.fromstring(written)
    for raw in ("\x1b[31m", "\u202e"):
        assert raw not in done.stdout
        assert raw not in written


def test_workers_are_told_nothing_that_is_no_utf8(suite: Path) -> None:
    (suite / "test_nothing.py").write_text("def test_nothing() -> None:\n    pass\n")
    images = f"--images=folder:{suite}/for\udceat"
    refused = run_pytest(images, "-n", "2", cwd=suite)
    assert refused.returncode == 4
    assert "for\\xeat is no UTF-8, which workers cannot be told: leave out -n" in refused.stdout
    assert run_pytest(images, cwd=suite).returncode == 0


def test_an_unmet_criterion_and_few_images_take_one_line_each(tmp_path: Path) -> None:
    """Of a verdict that cannot be had, and of an experiment that twelve images are too few for."""
    tiny = ("--num-images=12", "--passes=4", "--trials=2", "--models=clip_tiny", "--store=temporary")
    looks_at_all = ("-k", "go_or_no_go or permuted or norm_plus")
    run = run_pytest("tests/gates", "-m", "phase1", *looks_at_all, *tiny, f"--reports={tmp_path}")
    assert run.returncode == 1
    failures = run.stdout.partition("= FAILURES =")[2].partition("short test summary")[0]
    assert "\nUNDECIDED: 12 originals are too few" in failures
    assert "1 failed, 3 skipped" in run.stdout, "no other gate fails of so few"
    assert "mcdo/harness" not in failures
    assert "go_or_no_go[all_models] - UNDECIDED" in run.stdout
    recipe = ("tests/experiments/recipe", "-k", "contract", "--force", "-rs")
    few = run_pytest(*recipe, *tiny, f"--reports={tmp_path}")
    assert few.returncode == 0, few.stdout
    assert "12 originals make no recipe: give at least 20" in few.stdout


def test_what_needs_text_is_skipped_by_name_for_an_encoder_without(tmp_path: Path) -> None:
    run = run_pytest(
        *("tests/gates", "-m", "phase1", "-k", "collapsed", "-rs"),
        *("--models=python:textless:make", "--num-images=12", "--passes=4", "--trials=2", f"--reports={tmp_path}"),
    )
    assert "python:textless:make has no text tower, which prompts need" in run.stdout
    assert re.search(r"= \d+ skipped, \d+ deselected", run.stdout.splitlines()[-1])
    assert run.returncode == 0


def test_a_fault_does_not_pass_for_what_cannot_be_had_of_an_encoder(suite: Path) -> None:
    """Neither a test of no model, nor a gate that takes away a GO, nor the verdict is skipped by what it raises."""
    (suite / "test_cannot.py").write_text(
        "import pytest\nfrom mcdo.errors import NoTextTowerError, NotApplicableError\n\n"
        "def test_of_none() -> None:\n    raise NotApplicableError('of none')\n\n"
        "@pytest.mark.parametrize('model', ['theirs'])\n"
        "def test_of_theirs(model) -> None:\n    raise NotApplicableError(model)\n\n"
        "def test_of_a_model(model) -> None:\n    raise NotApplicableError(model)\n\n"
        "@pytest.mark.own_gate\ndef test_gate(model) -> None:\n    raise NotApplicableError(model)\n\n"
        "@pytest.mark.own_gate\ndef test_gate_of_text(model) -> None:\n    raise NoTextTowerError(model)\n\n"
        "@pytest.mark.decision\ndef test_decision(model) -> None:\n    raise NoTextTowerError(model)\n"
    )
    done = run_pytest("--models=clip_tiny", "-v", f"--reports={suite}", "test_cannot.py", cwd=suite)
    ends = dict(re.findall(r"test_cannot.py::(\w+)\S* (PASSED|FAILED|SKIPPED)", done.stdout))
    assert {name for name, end in ends.items() if end == "SKIPPED"} == {"test_of_a_model", "test_gate_of_text"}
    assert {name for name, end in ends.items() if end == "FAILED"} == {
        "test_of_none", "test_of_theirs", "test_gate", "test_decision",
    }  # fmt: skip


def test_a_store_that_was_filled_without_a_test_gives_the_whole_verdict_without_a_model(tmp_path: Path) -> None:
    """As from a cluster: mcdo measure, then judging alone."""
    asked = ("-m", "phase1", "--models=siglip_tiny", "--num-images=100", "--passes=4", "--trials=2")
    store = f"--store={tmp_path / 'store'}"
    measured = run_mcdo("measure", "tests/gates", *asked, store, "--assert=plain")
    assert measured.returncode == 0, measured.stdout
    judged = run_pytest("tests/gates", *asked, store, "--from-store", f"--reports={tmp_path / 'reports'}")
    (gates,) = (line for line in judged.stdout.splitlines() if line.startswith("The harness's own gates"))
    assert re.match(r"The harness's own gates: 1\d passed, 0 failed", gates), judged.stdout
    assert "--from-store loads no model" not in judged.stdout


def test_measuring_where_no_test_is_mcdo_s_says_what_to_do(tmp_path: Path) -> None:
    for further in ((), ("--protocol=quick",)):  # without an option of ours pytest has nothing to complain of
        refused = run_mcdo("measure", "-m", "phase1", *further, cwd=tmp_path)
        assert refused.returncode == 2
        assert "is mcdo's, so pytest knows none of its options: `mcdo init` writes some" in refused.stdout


@pytest.mark.parametrize(
    ("mistyped", "said"),
    [("--modells=clip_tiny", "unrecognized arguments: --modells"), ("-m phase11", "unknown mark 'phase11'")],
    ids=["option", "mark"],
)
def test_what_measuring_was_mistold_is_not_blamed_on_the_tests(mistyped: str, said: str, suite: Path) -> None:
    refused = run_mcdo("measure", *mistyped.split(), cwd=suite)
    assert refused.returncode == 4
    assert said in refused.stdout
    assert "no test in" not in refused.stdout
