"""``mcdo measure``: what pytest with the same arguments would need measured, without a test.

The tests are collected by pytest, so options, plan and keys are theirs; ``pytest … --from-store`` judges afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdo.errors import McdoError
from mcdo.names import columns, say, words
from mcdo.store import digest

if TYPE_CHECKING:
    import pytest

    from mcdo.cluster.work import Work
    from mcdo.pytest_plugin.state import LooksAt

WHATEVER = (
    "All other arguments are pytest's, such as -m phase1 --models=clip_tiny --images=digits --store=DIR; afterwards "
    "pytest with the same and --from-store judges in seconds."
)

ALREADY_IMPORTED = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # by the command line


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser(
        "measure",
        help="measure what tests need, on several devices or machines, without judging",
        description=f"Measure what tests need, without judging. {WHATEVER}",
        usage="mcdo measure [--list | --missing] [--shard I/N | --workers N | --devices A,B | "
        "--cluster WHERE --shards N …] PYTEST'S ARGUMENTS",
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="print the plan: measurements, passes, time and size")
    parser.add_argument("--shard", metavar="I/N", help="share I of N, which follows from the plan alone")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on this machine, the cores divided")
    parser.add_argument("--devices", metavar="A,B", help="one process for each, such as cuda:0,cuda:1")
    parser.add_argument("--cluster", metavar="WHERE", help="an array of jobs, a share each: on slurm, local or debug")
    parser.add_argument("--shards", type=int, metavar="N", help="jobs of the array")
    parser.add_argument("--partition", help="of SLURM")
    parser.add_argument("--time", metavar="[H:]MM[:SS]", help="limit of a job, which is queued again at its end")
    parser.add_argument("--gpus-per-task", type=int, metavar="N")
    parser.add_argument("--cpus-per-task", type=int, metavar="N")
    parser.add_argument("--mem", help="of a job, such as 8GB")
    parser.add_argument("--max-parallel", type=int, metavar="N", help="most jobs at once")
    parser.add_argument("--no-wait", action="store_true", help="return when the jobs are submitted")
    parser.add_argument("--missing", action="store_true", help="say which of --shards are missing, and end")
    parser.add_argument("--when-told", action="store_true", help=argparse.SUPPRESS)  # for who is begun by --workers
    parser.set_defaults(run=run, passes_on=True)


def run(asked: argparse.Namespace) -> int:
    """Measure; the exit status is 0 when all is whole, 1 when something is left, and pytest's for its own errors."""
    chosen = [name for name in ("shard", "workers", "devices", "cluster") if getattr(asked, name)]
    if len(chosen) > 1:
        raise McdoError(f"--{chosen[0]} and --{chosen[1]} are two ways of sharing the work: leave one out")
    arguments = list(asked.rest)
    if asked.cluster or asked.missing:
        return _array(asked, arguments)
    if asked.list:
        return _in_pytest(arguments, _list, "nothing")
    if asked.when_told:
        return _when_told(arguments)
    if asked.shard:
        from mcdo.cluster.shares import Share

        share = Share.parse(asked.shard)
        return _in_pytest(arguments, lambda work: measure_share(work, share, plan_name(arguments, share.of)))
    if asked.workers is not None or asked.devices:
        from mcdo.cluster import workers

        devices = words(asked.devices or "")
        own, others = workers.commands(arguments, asked.workers, devices)
        with workers.Beside(others) as beside:
            status = _in_pytest(own, lambda work: _all(work, beside.begin))
        for line in beside.failed:
            say(line, sys.stderr)
        return status
    return _in_pytest(arguments, _all)


def _when_told(arguments: list[str]) -> int:
    """Measure beside a process that looks at what is in the way, and says when there is nothing."""
    from mcdo.cluster.workers import BEGIN

    with os.fdopen(os.dup(0), "rb") as word:  # pytest takes the place of standard input

        def wait() -> None:
            if word.readline() != BEGIN:
                raise SystemExit(1)  # that process is gone

        return _in_pytest(arguments, lambda work: _all(work, wait), "nothing")


def _array(asked: argparse.Namespace, arguments: list[str]) -> int:
    from mcdo.cluster.array import Array, Resources, progress
    from mcdo.cluster.work import PLANS
    from mcdo.store import Store

    if asked.shards is None or asked.shards < 1:
        raise McdoError("--shards=N: say how many jobs share the work")
    store = Store(_store(arguments))
    plan = store.root / PLANS / plan_name(arguments, asked.shards)
    if asked.missing:
        say(progress(plan, store))
        return 0
    store.check_writable()
    resources = Resources(
        asked.cluster, asked.partition, minutes(asked.time), asked.gpus_per_task, asked.cpus_per_task, asked.mem,
        asked.max_parallel,
    )  # fmt: skip
    array = Array(partial(run_share, arguments), asked.shards, store, plan, resources)
    if refused := _in_pytest(arguments, _selects, "no encoder"):  # what no job could do
        return refused
    if asked.no_wait:
        array.submit(range(1, asked.shards + 1))
        say(
            f"to see how far they are: mcdo measure --missing --shards={asked.shards} and the same arguments",
            sys.stderr,
        )
        return 0
    return array.complete()


def run_share(arguments: list[str], number: int, of: int) -> int:
    """What a job does."""
    from mcdo.cluster.array import threads_of_job
    from mcdo.cluster.shares import Share

    threads_of_job()
    share = Share(number, of)
    return _in_pytest(arguments, lambda work: measure_share(work, share, plan_name(arguments, of)), "nothing")


def minutes(text: str | None) -> int | None:
    """Of ``MM``, ``H:MM`` or, as SLURM has it, ``H:MM:SS``. Raises McdoError for anything else."""
    if text is None:
        return None
    parts = text.split(":")
    rest = parts[1:]
    if len(parts) > 3 or not all(map(str.isdecimal, parts)) or any(len(part) != 2 or int(part) > 59 for part in rest):
        raise McdoError(f"--time={text}: write minutes, or hours and minutes as 4:30")
    if not rest:
        return int(text)
    hours, mins, seconds = (int(part) for part in (*parts, "0")[:3])
    return 60 * hours + mins + (seconds > 0)


def _store(arguments: Sequence[str]) -> Path:
    """The store of pytest's arguments: who submits loads nothing that could tell."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--store", default="store")
    return Path(parser.parse_known_args(list(arguments))[0].store)


def plan_name(arguments: Sequence[str], shares: int) -> str:
    """Name of the file that says who measures what."""
    return f"{digest([list(arguments), shares])[:16]}.json"


def _in_pytest(arguments: Sequence[str], do: Callable[[Work], int], looks_at: LooksAt = "everything") -> int:
    """Collect tests as pytest would, and do something with what they need in place of running them.

    Args:
        arguments: pytest's.
        do: is given the work.
        looks_at: what of all that may be in the way of it; the work itself names what it cannot measure, and goes on.

    """
    import pytest

    plugin = _Measuring(do, looks_at)
    quiet = ["-qq", "-p", "no:cacheprovider", "-p", "no:benchmark", "-W", ALREADY_IMPORTED]
    code = pytest.main([*arguments, *quiet], plugins=[plugin])
    if plugin.error is not None:
        raise plugin.error
    if code == pytest.ExitCode.USAGE_ERROR and not plugin.loaded:
        raise McdoError(
            f"no test in {Path.cwd()} is mcdo's, so pytest knows none of its options: `mcdo init` writes some, "
            "or go where pytest finds them"
        )
    return plugin.status if plugin.status is not None else int(code)


class _Measuring:
    """Takes the place of the run of the tests."""

    def __init__(self, do: Callable[[Work], int], looks_at: LooksAt) -> None:
        self.do, self.looks_at = do, looks_at
        self.status: int | None = None
        self.error: McdoError | SystemExit | None = None
        self.loaded = False

    def pytest_plugin_registered(self, plugin_name: str) -> None:
        self.loaded |= plugin_name == "mcdo.pytest_plugin"

    def pytest_configure(self, config: pytest.Config) -> None:
        import pytest

        from mcdo.pytest_plugin.state import MEASURING

        config.stash[MEASURING] = self.looks_at
        if config.getoption("--store", None) is None:
            raise pytest.UsageError("mcdo's plug-in is not loaded")
        if config.getoption("--store") in ("none", "temporary") or config.getoption("--from-store"):
            raise pytest.UsageError("mcdo measure fills a store, which pytest --from-store reads: name its folder")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from mcdo.cluster.work import Work
        from mcdo.pytest_plugin.state import RUNNER

        if session.testsfailed:
            return False
        capture = session.config.pluginmanager.getplugin("capturemanager")
        runner = session.config.stash[RUNNER]
        try:
            with capture.global_and_fixture_disabled():
                self.status = self.do(Work(runner, tuple(_selected(session))))
        except (McdoError, SystemExit) as error:  # submitit ends a job that is queued again by the latter
            self.error = error
        return True


def _selected(session: pytest.Session) -> Iterator[Any]:
    from mcdo.pytest_plugin.collection import selected

    return selected(session)


# ---- what is done with the work


def _all(work: Work, before: Callable[[], None] = lambda: None) -> int:
    """Measure; ``before`` is called when all is planned and loaded."""
    work.session.store.check_writable()  # type: ignore[union-attr]
    began = time.monotonic()
    work.first()
    before()
    work.measure()
    if not work.left and work.follows:
        work.later()
        work.measure()
    status = _ended(work)
    say(f"measuring took {time.monotonic() - began:.0f} s")
    return status


def measure_share(work: Work, share: Any, name: str) -> int:
    """Measure a share, and say what is missing of the others."""
    from mcdo.cluster.array import said_missing
    from mcdo.cluster.work import PLANS, Plan

    store = work.session.store
    assert store is not None
    store.check_writable()
    path = store.root / PLANS / name
    work.first()
    owners = work.divided(share.of)
    work.write(path, owners, share.of)
    _share(work, share, owners, path)
    if not work.left and work.follows:
        work.later()
        owners = {request: by for request, by in work.divided(share.of).items() if request not in owners} | owners
        work.write(path, owners, share.of)
        _share(work, share, owners, path)
    missing = Plan.read(path).missing(store)
    if set(missing) - {share.number - 1}:
        say(f"share {share} is through; missing: {said_missing(missing, share.of)}", sys.stderr)
        return int(share.number - 1 in missing or bool(work.refused.errors))
    return _ended(work)


def _share(work: Work, share: Any, owners: Any, path: Path) -> None:
    from mcdo.cluster.work import Plan

    work.measure(share, owners)
    if work.left and not any(Plan.read(path).missing(work.session.store).values()):  # type: ignore[arg-type]
        work.measure(share, owners)  # others have ended at the same time: what all have kept is put together


def _ended(work: Work) -> int:
    from mcdo.cluster.array import say_refused

    say_refused("skipped", work.refused.skipped)
    say_refused("not measured", work.refused.errors)
    say(f"{len(work.whole)} measurements are whole" + (f", {len(work.left)} are not" if work.left else ""))
    return _selects(work) or int(bool(work.refused.errors) or bool(work.left))


def _selects(work: Work) -> int:
    if not work.selected:
        say("no experiment was selected: look at -m and -k", sys.stderr)
    return int(not work.selected)


def _list(work: Work) -> int:
    from mcdo.cluster.estimate import Estimates
    from mcdo.harness.remaining import duration

    began = time.monotonic()
    work.first()
    if not work.left and work.follows:
        work.later()
    beginning = time.monotonic() - began
    estimates = Estimates(work)
    rows = [("measurement", "passes", "state", "time", "size")]
    for request in work.session.planned:
        row = estimates.of(request)
        rows.append((row.what, f"{row.passes:,}" if row.passes else "-", row.state, row.said_time, row.said_size))
    for line in columns(rows, sys.stdout.encoding):
        say(line)
    left = f"about {duration(estimates.seconds)} left" if work.left else "nothing left"
    say(f"{len(rows) - 1} measurements, {left} on this machine, and {duration(beginning)} to begin")
    if work.follows:
        say(f"what follows from these is named when they are whole: {', '.join(work.follows)}")
    return 0
