"""``tests_of`` in a repository elsewhere: the tests of the checkout, under the same names, with the same marks."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_child import plugin, run_pytest

from mcdo.errors import McdoError
from mcdo.experiments.phase1.exp5_subset_ambiguity import SubsetAmbiguity
from mcdo.harness import tests_of
from mcdo.harness.tests import check_drift, check_shuffled, check_spread
from mcdo.images.sampling import spread_order
from mcdo.stats import Estimate, Reliability, reliability

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
OURS = 'from mcdo.harness import tests_of\ntest_rivals = tests_of("rivals")\n'
PHASES = [each.parent.name for each in sorted(EXPERIMENTS.rglob("test_*.py"))]


def marks(output: str, behind: str) -> dict[str, set[str]]:
    """Marks of each test, by module and name."""
    lines = [line.removeprefix("MARKS ").rpartition(": ") for line in output.splitlines() if line.startswith("MARKS ")]
    return {name.rpartition(behind)[2].replace(".py::", "::"): set(found.split()) for name, _, found in lines}


def test_a_repository_elsewhere_collects_what_the_checkout_does(tmp_path: Path) -> None:
    lines = [f'test_of_{phase} = tests_of("{phase}")' for phase in dict.fromkeys(PHASES)]
    (tmp_path / "test_all.py").write_text("\n".join(("from mcdo.harness import tests_of", *lines)), encoding="utf-8")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["mcdo.pytest_plugin"]\n', encoding="utf-8")
    asked = ("--collect-only", "-q", "-p", "said_marks")
    there = run_pytest(*asked, cwd=tmp_path)
    here = run_pytest("tests/gates", "tests/experiments", *asked)
    assert there.returncode == here.returncode == 0, there.stdout
    found = {name.partition("::")[2]: held for name, held in marks(there.stdout, "test_all.py::").items()}
    assert len(found) > 100
    assert found == marks(here.stdout, "/")


def test_a_phase_that_nobody_knows_is_named() -> None:
    with pytest.raises(McdoError, match=r"no experiment of phase 'phase0'.*phase1"):
        tests_of("phase0")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({}, "goes by the key or the name of SubsetAmbiguity"),
        ({"key": "ours"}, "goes by the key or the name of SubsetAmbiguity"),
        ({"name": "ours"}, "goes by the key or the name of SubsetAmbiguity"),
        ({"key": "exp6", "name": "ours"}, "'exp6' is the key of one of mcdo's experiments"),
        ({"key": "ours", "name": "ours"}, ""),
    ],
    ids=["none", "key", "name", "another's", "both"],
)
def test_an_experiment_built_on_another_has_names_of_its_own(names: dict[str, str], said: str) -> None:
    """Or its claims are judged by what is known of the other's, and its reports take their place."""
    ours = type("Ours", (SubsetAmbiguity,), {**names, "__module__": "test_ours"})
    if not said:
        tests_of(ours)
        return
    with pytest.raises(McdoError, match=said):
        tests_of(ours)


def test_a_module_that_imports_it_by_another_is_refused_rather_than_passed_over(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text('from mcdo.harness import tests_of\nmade = tests_of("rivals")\n')
    (tmp_path / "conftest.py").write_text('def pytest_addoption(parser):\n    parser.addoption("--store")\n')
    (tmp_path / "test_ours.py").write_text("from ours import made as test_rivals\n")
    done = run_pytest(*plugin(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert "test_ours.py::test_rivals needs mcdo's plug-in" in done.stdout


def test_an_option_whose_value_has_a_space_is_no_place_of_tests(tmp_path: Path) -> None:
    """As it looks to pytest while it does not know the option."""
    (tmp_path / "test_ours.py").write_text(OURS)
    done = run_pytest(*plugin(), "--collect-only", "-q", "-m", "rivals", f"--store={tmp_path}/a b/store", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "test_ours.py::test_rivals" in done.stdout


@pytest.mark.parametrize(("place", "said"), [("repository/out", "test_rivals"), ("elsewhere", "write --reports=")])
def test_an_option_in_two_words_is_no_place_of_tests(tmp_path: Path, place: str, said: str) -> None:
    """One beside the configuration hides nothing, and one elsewhere is refused rather than run without it."""
    repository = tmp_path / "repository"
    for folder in (repository / "tests", tmp_path / place):
        folder.mkdir(parents=True)
    (repository / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    (repository / "tests" / "test_ours.py").write_text(OURS)
    done = run_pytest(
        *plugin(), "--collect-only", "-q", "-m", "rivals", "--reports", str(tmp_path / place), cwd=repository
    )
    assert said in done.stdout
    assert done.returncode == (0 if said == "test_rivals" else 4)


CROWDED = """
import pytest

pytest_plugins = ["mcdo.pytest_plugin"]
NAMES = ("model", "session", "runner", "settings", "result", "completed", "judge", "negatives", "verdict")

def pytest_addoption(parser):
    parser.addoption("--device", default="theirs")
    parser.addoption("--models", default="theirs")

for name in NAMES:
    globals()[name] = pytest.fixture(name=name)(lambda: "theirs")
"""
THEIRS = """
import pytest
from mcdo.harness import tests_of

check_phase1 = tests_of("phase1")

def check_of_theirs(request, model, session, settings, result):
    assert {model, session, settings, result, request.config.getoption("--device")} == {"theirs"}

@pytest.mark.parametrize("model, other", [("mine", 1)])
def check_parameters(model, other):
    assert model == "mine"
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CROWDED, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_functions = check_*\n")
    (tmp_path / "test_theirs.py").write_text(THEIRS, encoding="utf-8")
    return tmp_path


def test_options_and_fixtures_of_the_same_names_stay_theirs_and_ours(crowded: Path) -> None:
    select = ("-k", "check_of_theirs or check_parameters or exp4 or weights_are_trained", "-v")
    sizes = ("--num-images=12", "--passes=4", "--trials=2")
    ours = ("--mcdo-models=clip_tiny", "--mcdo-device=cpu", "--protocol=quick", "--reports=reports", *sizes)
    done = run_pytest(*select, *ours, "-W", "error", cwd=crowded)
    assert done.returncode == 0, done.stdout
    assert "check_phase1::test_harness::test_weights_are_trained[clip_tiny] PASSED" in done.stdout
    assert "check_phase1::test_exp4_subset_recipe::test_contract[clip_tiny] PASSED" in done.stdout
    for theirs in ("check_of_theirs", "check_parameters[mine-1]"):
        assert f"test_theirs.py::{theirs} PASSED" in done.stdout, done.stdout
    refused = run_pytest("--models=clip_tiny", "--mcdo-models=nothing", cwd=crowded)
    assert "unknown encoder 'nothing'" in refused.stdout


def test_a_session_of_theirs_alone_is_no_measurement(crowded: Path) -> None:
    (crowded / "file").touch()
    nowhere = (f"--reports={crowded / 'file' / 'reports'}", "--mcdo-models=clip_tiny")
    assert run_pytest("-k", "check_of_theirs", *nowhere, cwd=crowded).returncode == 0
    assert run_pytest("-k", "weights_are_trained", *nowhere, cwd=crowded).returncode == 4


@pytest.mark.parametrize("named", ["phase1", "phase1 and clip"])
def test_a_phase_that_no_module_collects_is_named_with_the_line_that_does(named: str, tmp_path: Path) -> None:
    (tmp_path / "test_ours.py").write_text(OURS)
    done = run_pytest(*plugin(), "-m", named, cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert 'No module here collects phase1. Add to a module of tests: test_phase1 = tests_of("phase1")' in done.stdout
    unknown = run_pytest(*plugin(), "-m", "rivals and not clip and not siglip", cwd=tmp_path)
    assert "No module here" not in unknown.stdout


def test_shuffled_trials_of_few_telling_images_are_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one image carries the variance, two trials that lay it onto each other have an SNR of .83 in place of 1/3.

    Twenty shuffles of three trials of a hundred images do so in about half of all cases.
    """
    scores = np.random.default_rng(0).normal(1.0, 0.01, (3, 100))
    scores[:, 0] = 100.0
    for seed in range(10):
        check_shuffled(scores, seed)

    def summed(shuffled: NDArray[np.float64], **how: Any) -> Reliability:
        r = reliability(shuffled, **how)
        return replace(r, snr=r.snr * len(shuffled))

    monkeypatch.setattr("mcdo.harness.tests.reliability", summed)
    with pytest.raises(AssertionError, match=r"SNR tends to 1/K = 0.333, and is 0.980"):
        check_shuffled(scores, 0)


def test_shuffled_trials_whose_signal_is_too_small_are_a_fault_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    none = SimpleNamespace(status="failed", spearman=0.0, snr=0.0)
    monkeypatch.setattr("mcdo.harness.tests.reliability", lambda *_, **__: none)
    with pytest.raises(AssertionError, match=r"SNR tends to 1/K = 0.333, and is 0.000"):
        check_shuffled(np.ones((3, 500)), 0)


@pytest.mark.parametrize(
    ("low", "high", "n", "ends"),
    [
        (-0.1, 0.1, 50, nullcontext()),
        (0.1, 0.3, 50, pytest.raises(AssertionError, match="drift from trial to trial")),
        (-0.3, -0.1, 50, pytest.raises(AssertionError, match="drift from trial to trial")),
        (-0.1, 0.6, 50, pytest.raises(pytest.skip.Exception, match="cannot tell stacked dropouts")),
        (0.1, 0.3, 20, pytest.raises(pytest.skip.Exception, match="of fewer than 30 originals")),
    ],
    ids=["none", "growing", "shrinking", "wide", "few"],
)
def test_trials_drift_where_the_interval_misses_zero(low: float, high: float, n: int, ends: Any) -> None:
    """Of three trials stacked dropouts grow by 0.5 a trial."""
    with ends:
        check_drift({"pre": Estimate(0.0, 0.0, 0.0, 50), "post": Estimate((low + high) / 2, low, high, n)}, 3)


@pytest.mark.parametrize("n", [40, 100, 160])
def test_a_sample_is_as_spread_as_its_classes_allow(n: int) -> None:
    """Of 14 classes one has most images: to show them all, or as many as were asked for, is no fault."""
    labels = np.repeat(np.arange(14), [147, *[1] * 13])
    there = np.bincount(labels)
    check_spread(np.bincount(labels[spread_order(labels, 0)[:n]], minlength=14), there)
    with pytest.raises(AssertionError, match="of another 0, of which more are left"):
        check_spread(np.array([n, 0]), np.array([n, n]))  # the first classes alone, as published
    with pytest.raises(AssertionError, match="more are left"):
        check_spread(np.array([12, 10, 12]), np.array([20, 20, 20]))
    check_spread(np.array([12, 10, 12]), np.array([20, 20, 20]), left_out=1)
