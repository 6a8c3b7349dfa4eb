from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytest_child import collected, run_pytest

from mcdo.errors import McdoError
from mcdo.pytest_plugin import benchmark


class FakeTime:
    """A clock that moves by what is slept."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_round_is_timed_without_its_reference_and_has_one_before_and_one_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time, takes = FakeTime(), iter([1.0, 3.0, 5.0, 5.0])
    monkeypatch.setattr(benchmark, "time", time)

    def reference() -> int:
        time.sleep(next(takes))
        return 10

    clock = benchmark.PairedClock(reference, torch.device("cpu"))
    rounds = []
    time.sleep(3.0)  # the first reading takes no time, whatever went before: the plug-in waits a second for it
    for seconds in (2.0, 4.0):  # the second round begins just now, so it shares the reference between them
        began = clock()
        time.sleep(seconds)
        rounds.append(clock() - began)
    assert rounds == pytest.approx([2.0, 4.0])
    assert clock.references(2) == pytest.approx([0.2, 0.4])  # means of 1 and 3, and of 3 and 5, over ten passes
    time.sleep(2 * benchmark.JUST_NOW_S)
    clock()
    assert next(takes, None) is None


def timed(median: float, forwards: float | None, noise: float = 0.01) -> Any:
    ratios = {} if forwards is None else {"median": forwards, "q1": forwards - noise, "q3": forwards + noise}
    extra = {benchmark.FORWARDS: ratios} if ratios else {}
    return SimpleNamespace(name="test_it", fullname="tests/test_it", stats={"median": median}, extra_info=extra)


def regression(now: Any, before: Any, *checks: str) -> str:
    from pytest_benchmark.utils import parse_compare_fail

    saved = {Path("0001_before.json"): {before.fullname: vars(before)}}
    plugin = SimpleNamespace(compared_mapping=saved)
    manager = SimpleNamespace(getplugin=lambda name: plugin)
    config = SimpleNamespace(pluginmanager=manager, stash=pytest.Stash())
    config.stash[benchmark.CHECKS] = [parse_compare_fail(check) for check in checks]
    try:
        benchmark._check_regression(config, now)  # type: ignore[arg-type]
    except McdoError as error:
        return str(error)
    return ""


def test_a_regression_is_one_of_ratios_where_there_are_any() -> None:
    assert not regression(timed(2.0, 1.04), timed(1.0, 1.0), "median:5%")  # a busy machine, the same code
    assert regression(timed(1.0, 1.06), timed(1.0, 1.0), "median:5%") == (
        "test_it has regressed: median 1.06 forwards, 1 in 0001_before.json"
    )
    assert regression(timed(1.0, 1.06), timed(1.0, 1.0), "median:10%", "median:0.05")
    assert not regression(timed(1.0, 1.06), timed(1.0, 1.0), "median:10%", "median:0.07")
    assert not regression(timed(1.0, 1.06, noise=0.05), timed(1.0, 1.0), "median:5%")  # quartiles overlap
    assert "median 2 s, 1 in" in regression(timed(2.0, None), timed(1.0, None), "median:50%")
    assert "median 2 s, 1 in" in regression(timed(2.0, 1.0), timed(1.0, None), "median:50%")  # saved without ratios
    other = timed(1.0, 1.0)
    other.fullname = "tests/test_other"
    assert not regression(timed(1.0, 9.0), other, "median:5%")


def test_options_of_the_plug_in_are_no_abbreviations_of_ours() -> None:
    options = ("--benchmark-save=a", "--benchmark-json=a.json", "--benchmark-columns=min")
    nodes = collected("tests/perf", "tests/gates", *options)
    assert nodes
    assert not any("tests/perf" in node for node in nodes)


def test_what_is_missing_for_a_comparison_is_said_before_anything_is_timed(tmp_path: Path) -> None:
    where = (f"--reports={tmp_path}", f"--benchmark-storage={tmp_path}")
    done = run_pytest("tests/perf", "--benchmark", "--benchmark-compare-fail=median:5%", *where)
    assert done.returncode == 4
    assert "--benchmark-compare-fail needs --benchmark-compare" in done.stdout
    done = run_pytest("tests/perf", "--benchmark", "-p", "no:benchmark", f"--reports={tmp_path}")
    assert done.returncode == 4
    assert "--benchmark needs pytest-benchmark" in done.stdout


def test_a_run_leaves_ratios_and_facts_of_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "new" / "timed.json"
    done = run_pytest(
        "tests/perf/test_perf_passes.py", "-ktest_time and deterministic", "--benchmark", "--models=clip_tiny",
        "--benchmark-min-rounds=2", "--benchmark-max-time=0.1", f"--benchmark-json={file}", f"--reports={tmp_path}",
    )  # fmt: skip
    assert "Forward equivalents of an image-pass" in done.stdout
    (found,) = json.loads(file.read_text())["benchmarks"]
    extra = found["extra_info"]
    assert extra["forwards"]["rounds"] == found["stats"]["rounds"] >= 2
    assert 0.2 < extra["forwards"]["median"] < 5  # the deterministic pass in itself, on a machine that may be busy
    assert extra["machine"]["device"] == "cpu"
    assert extra["seconds_of_one"] == pytest.approx(found["stats"]["median"] / extra["image_passes"])
