"""An array of jobs, a share each, through submitit: on SLURM, as processes of this machine, or in this process.

What is missing is read from the store and not from the jobs, so a job that was killed, drained or preempted is what it
left undone. Rounds of jobs for the missing shares follow each other until nothing is missing, or nothing comes in any
more. Who submits loads no model and needs no device.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mcdo.cluster.look import held
from mcdo.cluster.work import Plan
from mcdo.errors import McdoError, nearest
from mcdo.names import say, say_text
from mcdo.store import Store

CLUSTERS = ("slurm", "local", "debug")
NO_PLAN = "no plan yet"
LOOK_S = 2.0
SAY_S = 30.0
_TIMEOUTS = 10_000
"""How often a job may run out of its time and be queued again."""
_LEAST_MINUTES = 5
"""A job is told 90 s before its end, by SLURM's clock up to 60 s earlier: one of less time would never begin."""
MOST_FRUITLESS = 3
"""So many times in a row a share may run out of its time with nothing new in the store."""


class _FruitlessError(SystemExit):
    """A share that is not queued again; no error, because what it interrupts would take that for its own."""


def _once(number: signal.Signals) -> None:
    """Ignore a signal from its first time on: SLURM may send it to a job and to its step, and submitit queues once."""
    handler = signal.getsignal(number)
    if callable(handler):

        def handle(signum: int, frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_IGN)
            handler(signum, frame)

        signal.signal(number, handle)


@dataclass
class ShareJob:
    """A job: ``function(number, of)`` measures a share.

    SIGTERM saves as it does anywhere. On SIGUSR2, which SLURM sends ahead of a time limit, submitit asks for
    :meth:`checkpoint`, queues the job again and ends the process, which saves the block in flight.

    Attributes:
        function: measures share ``number`` of ``of``.
        store: where everything goes.
        found: what the store held when the job before this one ran out of its time.
        fruitless: jobs in a row until then in which nothing came into it.

    """

    function: Callable[[int, int], int]
    store: Path
    found: str = ""
    fruitless: int = 0

    def __call__(self, number: int, of: int) -> int:
        """Measure it. Raises McdoError where that fails: the job's state says so then."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _once(signal.SIGUSR2)
        self.found = self.found or held(self.store)
        try:
            status = self.function(number, of)
        except _FruitlessError as ended:
            raise McdoError(str(ended)) from ended
        if status:
            raise McdoError(f"share {number}/{of} ended with status {status}, and its log says why")
        return status

    def checkpoint(self, number: int, of: int) -> Any:
        """The same again: what is done is in the store. Ends this process for good where nothing comes in any more."""
        import submitit

        found = held(self.store)
        fruitless = self.fruitless + 1 if found == self.found else 0
        if fruitless == MOST_FRUITLESS:
            raise _FruitlessError(
                f"share {number}/{of} ran out of its time {fruitless} times in a row and nothing came into the store: "
                "what a job cannot keep, such as loading the encoder, has to fit into one. Give it a longer --time, "
                "or more --cpus-per-task"
            )
        return submitit.helpers.DelayedSubmission(ShareJob(self.function, self.store, found, fruitless), number, of)


@dataclass(frozen=True)
class Resources:
    """What a job is given; None leaves it to the cluster.

    Attributes:
        cluster: "slurm", "local" or "debug".
        partition: of SLURM.
        minutes: time limit of a job, after which it is queued again.
        gpus: of a job.
        cpus: of a job.
        mem: such as "8GB".
        at_once: most jobs at once.

    """

    cluster: str
    partition: str | None = None
    minutes: int | None = None
    gpus: int | None = None
    cpus: int | None = None
    mem: str | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        """Raise McdoError for a cluster that there is not, and for a time in which no job gets anywhere."""
        if self.cluster not in CLUSTERS:
            near = nearest(self.cluster, CLUSTERS)
            raise McdoError(f"there is no cluster {self.cluster!r}; the nearest: {near}")
        if self.cluster == "slurm" and self.minutes is not None and self.minutes < _LEAST_MINUTES:
            raise McdoError(
                f"a job of {self.minutes} min is told to end before it has begun, and queued again and again: "
                f"give it {_LEAST_MINUTES} minutes at least"
            )

    def parameters(self) -> dict[str, Any]:
        """As submitit takes them."""
        if self.cluster != "slurm":
            return {"timeout_min": self.minutes or 60 * 24 * 365}
        named = {
            "timeout_min": self.minutes or 60,
            "slurm_partition": self.partition,
            "slurm_gpus_per_task": self.gpus,
            "slurm_cpus_per_task": self.cpus,
            "slurm_mem": self.mem,
            "slurm_array_parallelism": self.at_once,
        }
        return {name: value for name, value in named.items() if value is not None}


class Array:
    """Jobs for shares of a plan.

    Args:
        function: measures share ``number`` of ``of``; named at the top of a module, since jobs import it.
        shares: how many there are.
        store: where everything goes.
        plan: the file in which jobs say who measures what.
        resources: what a job is given.

    """

    def __init__(
        self, function: Callable[[int, int], int], shares: int, store: Store, plan: Path, resources: Resources
    ) -> None:
        self._function, self._shares, self._store, self._plan = function, shares, store, plan
        self._resources, self._logs = resources, store.root / "jobs"
        self._older: int | None = None

    def submit(self, numbers: Sequence[int]) -> list[Any]:
        """Jobs for some shares. Raises McdoError where there is no such cluster, or it refuses."""
        try:
            import submitit
        except ImportError as error:
            raise McdoError('--cluster needs submitit: pip install "mcdo[cluster]"') from error
        timeouts: Mapping[str, Any] = {"slurm_max_num_timeout": _TIMEOUTS} if self._resources.cluster == "slurm" else {}
        try:
            executor = submitit.AutoExecutor(folder=self._logs / "%j", cluster=self._resources.cluster, **timeouts)
            executor.update_parameters(name="mcdo-measure", **self._resources.parameters())
            jobs: list[Any] = executor.map_array(
                ShareJob(self._function, self._store.root), numbers, [self._shares] * len(numbers)
            )
        except (RuntimeError, NameError, TypeError, ValueError, submitit.core.utils.FailedJobError) as error:
            raise McdoError(
                f"submitit: {error}. Without SLURM, --cluster=local or --workers measure on this machine"
            ) from error
        named = {job.job_id.split("_")[0] for job in jobs}
        say(
            f"{len(jobs)} jobs on {self._resources.cluster}: {', '.join(sorted(named))}; logs in {self._logs}",
            sys.stderr,
        )
        return jobs

    def complete(self) -> int:
        """Submit all, wait, and submit what is missing again while something comes in; 1 if that ends early."""
        self._older = self._written()
        numbers, before = list(range(1, self._shares + 1)), None
        while True:
            self._wait(self.submit(numbers))
            if not self._made():
                raise McdoError(f"no job came so far as to make its plan; look at the logs in {self._logs}")
            plan = Plan.read(self._plan)
            missing = plan.missing(self._store)
            if not missing and plan.final:
                return self._ended(plan)
            if (missing, plan.final) == before:
                say(f"nothing more comes in: {said_missing(missing, self._shares)}; logs in {self._logs}", sys.stderr)
                self._ended(plan)
                return 1
            before = missing, plan.final
            numbers = [number + 1 for number in sorted(missing)] or numbers
            if missing:
                say(f"missing: {said_missing(missing, self._shares)}; submitting again", sys.stderr)
            else:
                numbers = list(range(1, self._shares + 1))
                say("the first stage is whole; submitting what follows from it", sys.stderr)

    def _written(self) -> int | None:
        """When the plan on file was, if any: an earlier one may be of other code, or that of an array beside."""
        return self._plan.stat().st_mtime_ns if self._plan.exists() else None

    def _made(self) -> bool:
        """Whether a job has made the plan since these were submitted."""
        return self._written() not in (None, self._older)

    def _ended(self, plan: Plan) -> int:
        say_refused("not measured", plan.errors)
        say(f"{len(plan.tasks)} measurements" + ("" if plan.missing(self._store) else " are whole"))
        return int(bool(plan.errors))

    def _wait(self, jobs: Sequence[Any]) -> None:
        """Until no job waits or runs, saying now and then how far the whole is."""
        said = time.monotonic()
        while (left := self._left(jobs)) > 0:
            time.sleep(LOOK_S)
            if time.monotonic() - said >= SAY_S:
                said = time.monotonic()
                far = progress(self._plan, self._store) if self._made() else NO_PLAN
                say(f"{left} of {len(jobs)} jobs wait or run; {far}", sys.stderr)
        for job in jobs:
            told = self._resources.cluster != "slurm" or job.paths.result_pickle.exists()  # not by one that was killed
            if told and (error := job.exception()) is not None:
                say(f"job {job.job_id}: {_raised(str(error))}: {job.paths.stderr}", sys.stderr)

    def _left(self, jobs: Sequence[Any]) -> int:
        """Jobs that wait or run. SLURM's queue is asked: many have no accounting, by which submitit would know."""
        if self._resources.cluster != "slurm":
            return sum(not job.done() for job in jobs)
        squeue, array = shutil.which("squeue"), jobs[0].job_id.split("_")[0]
        assert squeue is not None
        command = [squeue, "--noheader", "--array", f"--jobs={array}", "--format=%T"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if asked.returncode and "Invalid job id" not in asked.stderr:
            return len(jobs)  # the controller is away for a moment
        ended = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE"}
        return sum(state not in ended for state in asked.stdout.split())


def _raised(said: str) -> str:
    """The error of a job, of all that submitit says about it."""
    lines = said.strip().splitlines()
    return next((line for line in reversed(lines) if "Error: " in line), lines[0])


def say_refused(what: str, reasons: Mapping[str, str]) -> None:
    """Say what was refused, all of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        say_text(f"{what}: {'; '.join(names)}: {why}", sys.stderr)


def progress(plan: Path, store: Store) -> str:
    """How far the whole is, for people."""
    try:
        found = Plan.read(plan)
    except McdoError:
        return NO_PLAN
    done, total = found.done(store)
    what = f"{done / max(total, 1):.0%} of {total:,} passes" + ("" if found.final else ", and what follows from them")
    missing = found.missing(store)
    return what + (f"; missing: {said_missing(missing, found.shares)}" if missing else "")


def said_missing(missing: Mapping[int, int], of: int) -> str:
    """Shares, told from 1, and what they lack."""
    numbers = ", ".join(str(number + 1) for number in sorted(missing))
    return f"shares {numbers} of {of} ({sum(missing.values())} images or measurements)"


def threads_of_job() -> None:
    """Give torch, before it is imported, the cores that SLURM gave this job."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if cpus.isdecimal():
        os.environ["OMP_NUM_THREADS"] = cpus
