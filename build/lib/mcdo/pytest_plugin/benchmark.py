"""pytest-benchmark, with a deterministic pass timed beside every round.

Seconds of a shared machine mean little from one hour to the next, so a ratio is taken inside each round: the plug-in
calibrates, repeats, saves and compares, and ``extra_info`` holds the ratios. ``--benchmark-compare-fail`` looks at
these where a test has them, and at seconds elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from _pytest.terminal import TerminalReporter
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.harness import Session
from mcdo.report.terminal import Table, lines
from mcdo.threads import one_thread

if TYPE_CHECKING:
    import torch
    from pytest_benchmark.fixture import BenchmarkFixture
    from pytest_benchmark.session import BenchmarkSession

    from mcdo.experiments.cost.pass_cost import Way

FORWARDS = "forwards"
"""In ``extra_info``: forward equivalents of one image-pass over rounds, by the names of the plug-in's statistics."""
STATISTICS = ("min", "q1", "median", "q3", "max", "mean", "stddev", "iqr", "rounds")
JUST_NOW_S = 1e-3
CHECKS = pytest.StashKey[list[Any]]()


class PairedClock:
    """Seconds, without those of a reference that is timed at every reading: each round has one before and one after.

    A reading that follows another within ``JUST_NOW_S``, as the next round's does, shares its reference. So does the
    very first, which the plug-in takes to learn how fine the clock is, and gives up on after a second.
    """

    def __init__(self, reference: Way, device: torch.device) -> None:
        self._reference, self._device = reference, device
        self._ended, self._left_out = -math.inf, 0.0
        self._references: list[float] = []
        self()
        self._ended = math.inf

    def __call__(self) -> float:
        """The reading."""
        from mcdo.experiments.cost.pass_cost import synchronise

        synchronise(self._device)
        began = time.perf_counter()
        read = began - self._left_out
        if began - self._ended < JUST_NOW_S:
            self._references.append(self._references[-1])
            self._ended = min(self._ended, began)
            return read
        passes = self._reference()
        synchronise(self._device)
        self._ended = time.perf_counter()
        self._left_out += self._ended - began
        self._references.append((self._ended - began) / passes)
        return read

    def references(self, rounds: int) -> NDArray[np.float64]:
        """Seconds of one image-pass of the reference in each of the last ``rounds``: mean of before and after."""
        mean: NDArray[np.float64] = np.array(self._references[-2 * rounds :]).reshape(rounds, 2).mean(axis=1)
        return mean


@pytest.fixture
def paired_clock(request: pytest.FixtureRequest, session: Session, model: str) -> PairedClock:
    """The timer of this test's benchmark."""
    from mcdo.experiments.cost.pass_cost import DETERMINISTIC, ways

    encoder = session.encoder(model)
    clock = PairedClock(ways(encoder, session.settings.dropout.p, ())[DETERMINISTIC](), encoder.device)
    request.node.add_marker(pytest.mark.benchmark(timer=clock, group=model))
    return clock


@pytest.fixture
def in_forwards(
    paired_clock: PairedClock, benchmark: BenchmarkFixture, session: Session, model: str
) -> Iterator[Callable[[Way], Mapping[str, float]]]:
    """Times a way with the plug-in, and gives its cost in forward equivalents, which ``extra_info`` keeps."""
    from pytest_benchmark.stats import Stats

    from mcdo.experiments.cost.pass_cost import machine

    def measure(way: Way) -> Mapping[str, float]:
        passes = benchmark(way)
        if benchmark.stats is None:
            pytest.skip("--benchmark-disable: nothing was timed")
        seconds, ratios = np.array(benchmark.stats.stats.data) / passes, Stats()
        for ratio in seconds / paired_clock.references(len(seconds)):
            ratios.update(float(ratio))
        forwards = {name: getattr(ratios, name) for name in STATISTICS}
        benchmark.extra_info |= {
            FORWARDS: forwards,
            "image_passes": passes,
            "seconds_of_one": float(np.median(seconds)),
            "machine": {**machine(session.encoder(model).device), "threads": 1},
        }
        return forwards

    with one_thread():
        yield measure


# ---- a regression against a saved run


def pytest_sessionstart(session: pytest.Session) -> None:
    """Take the checks of --benchmark-compare-fail over from the plug-in, which knows seconds alone."""
    plugin = _plugin(session.config)
    if plugin is not None and plugin.json is not None:  # or the file would fail when all is measured
        plugin.json.parent.mkdir(parents=True, exist_ok=True)
    if plugin is None or not plugin.compare_fail:
        return
    if not plugin.compared_mapping:
        raise pytest.UsageError("--benchmark-compare-fail needs --benchmark-compare, and a saved run to compare with")
    session.config.stash[CHECKS], plugin.compare_fail = plugin.compare_fail, None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that has regressed, with what it cost and what it costs."""
    result = yield
    timed = getattr(item, "funcargs", {}).get("benchmark")
    if timed is not None and timed.stats is not None and CHECKS in item.config.stash:
        _check_regression(item.config, timed)
    return result


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Show the ratios, beside those of saved runs: the plug-in's own table knows seconds alone."""
    plugin = _plugin(config)
    timed = [] if plugin is None else [timing for timing in plugin.benchmarks if FORWARDS in timing.extra_info]
    if plugin is None or not timed:
        return
    saved = {path.stem: runs for path, runs in (plugin.compared_mapping or {}).items()}
    rows = []
    for timing in timed:
        before = (runs.get(timing.fullname, {}).get("extra_info", {}) for runs in saved.values())
        rows.append((timing.name, *map(_quartiles, (timing.extra_info, *before))))
    table = Table("Forward equivalents of an image-pass, median [quartiles]", ("test", "now", *saved), tuple(rows))
    for line in lines([table], (), getattr(terminalreporter._tw._file, "encoding", None)):
        terminalreporter.write_line(line)


def _quartiles(extra: Mapping[str, Any]) -> str:
    held = extra.get(FORWARDS)
    return "{median:.2f} [{q1:.2f}, {q3:.2f}]".format(**held) if held else "–"


def _plugin(config: pytest.Config) -> BenchmarkSession | None:
    found: BenchmarkSession | None = config.pluginmanager.getplugin("pytest-benchmark")
    return found


def _check_regression(config: pytest.Config, timed: BenchmarkFixture) -> None:
    """Ratios have regressed where a check fails and the quartiles of both runs lie apart: a busy machine is noisy."""
    plugin = _plugin(config)
    for path, saved in ({} if plugin is None else plugin.compared_mapping).items():
        before = saved.get(timed.fullname)
        if before is None:
            continue
        now, then, unit, apart = timed.stats, before["stats"], "s", True
        if FORWARDS in timed.extra_info and FORWARDS in before["extra_info"]:
            now, then, unit = timed.extra_info[FORWARDS], before["extra_info"][FORWARDS], FORWARDS
            apart = now["q1"] > then["q3"]
        for check in config.stash[CHECKS]:
            if apart and check.fails(now, then):
                field = check.field
                raise McdoError(
                    f"{timed.name} has regressed: {field} {now[field]:.4g} {unit}, {then[field]:.4g} in {path.name}"
                )
