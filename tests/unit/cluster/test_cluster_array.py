"""Arrays of jobs: rounds until nothing is missing; SLURM itself is in tests/cluster."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_child import alone, bits, toy_share, work
from pytest_child import run_mcdo

from mcdo.cli import main
from mcdo.cli.measure import minutes, plan_name
from mcdo.cluster.array import MOST_FRUITLESS, Array, Resources, ShareJob, _once, progress, said_missing
from mcdo.cluster.work import PLANS
from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.store import Store


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcdo.harness.session.load_encoder", cache(load_encoder))
        yield


class Here(Array):
    """Jobs that run when they are submitted; ``spoil`` says which of them are lost, by number and round."""

    def __init__(
        self, store: Path, shares: int, spoil: Callable[[int, int], bool] = lambda number, rounds: False
    ) -> None:
        function = partial(toy_share, store)
        super().__init__(function, shares, Store(store), store / PLANS / "plan.json", Resources("debug"))
        self.rounds: list[list[int]] = []
        self.spoil = spoil

    def submit(self, numbers: Sequence[int]) -> list[Any]:
        self.rounds.append(list(numbers))
        for number in numbers:
            if not self.spoil(number, len(self.rounds)):
                toy_share(self._store.root, number, self._shares)
        return []


def test_what_was_lost_is_submitted_again_and_then_what_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = Here(tmp_path / "store", 3, spoil=lambda number, rounds: number == 2 and rounds == 1)
    assert array.complete() == 0
    assert array.rounds[:2] == [[1, 2, 3], [2]]
    said = capsys.readouterr().err
    assert "missing: shares 2 of 3" in said
    alone(tmp_path / "alone")
    assert bits(tmp_path / "store") == bits(tmp_path / "alone")


def test_an_array_in_which_nothing_more_comes_in_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = Here(tmp_path / "store", 2, spoil=lambda number, rounds: number == 1)
    assert array.complete() == 1
    assert array.rounds == [[1, 2], [1]]
    assert "nothing more comes in: shares 1 of 2" in capsys.readouterr().err


@pytest.mark.parametrize("left", [False, True], ids=["no-plan", "an-older-plan"])
def test_an_array_none_of_whose_jobs_began_says_where_to_look(left: bool, tmp_path: Path) -> None:
    if left:
        for number in (1, 2):
            toy_share(tmp_path / "store", number, 2)
    with pytest.raises(McdoError, match="no job came so far as to make its plan; look at the logs in"):
        Here(tmp_path / "store", 2, spoil=lambda number, rounds: True).complete()


def test_an_array_that_is_started_a_second_time_by_mistake_does_not_end_the_first(tmp_path: Path) -> None:
    store = tmp_path / "store"

    class First(Here):
        def submit(self, numbers: Sequence[int]) -> list[Any]:
            jobs = super().submit(numbers)
            if len(self.rounds) == 1:
                with pytest.raises(McdoError, match="no job came so far"):
                    Here(store, 2, spoil=lambda number, rounds: True).complete()
            return jobs

    assert First(store, 2).complete() == 0


def test_who_looks_on_is_told_how_far_the_whole_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = store / PLANS / "plan.json"
    assert progress(plan, Store(store)) == "no plan yet"
    toy_share(store, 1, 2)
    said = progress(plan, Store(store))
    missing = "missing: shares 2 of 2 (21 images or measurements)"
    assert said == f"59% of 880 passes, and what follows from them; {missing}", "half of 640, and 200 products"
    assert said_missing({0: 3, 4: 2}, 6) == "shares 1, 5 of 6 (5 images or measurements)"


@pytest.mark.slow
def test_processes_of_this_machine_are_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
    store = tmp_path / "store"
    array = Array(partial(toy_share, store), 2, Store(store), store / PLANS / "plan.json", Resources("local"))
    assert array.complete() == 0
    found = work(store)
    found.first()
    assert found.left == ()


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm")
def test_a_job_that_fails_says_so(tmp_path: Path) -> None:
    assert ShareJob(lambda number, of: 0, tmp_path)(1, 2) == 0
    with pytest.raises(McdoError, match="share 1/2 ended with status 3"):
        ShareJob(lambda number, of: 3, tmp_path)(1, 2)


def out_of_time(store: Path, *does: Callable[[], object]) -> None:
    """Jobs of a share, one after the other, each of which submitit queues again when it has done something."""
    again: list[Any] = []
    job = ShareJob(partial(toy_share, store), store)
    for what in does:

        def measure(number: int, of: int, job: ShareJob = job, what: Callable[[], object] = what) -> int:
            what()
            try:
                again.append(job.checkpoint(number, of))  # in a signal's handler, on top of whatever is done
            except McdoError:
                pytest.fail("a measurement would take it for its own")
            raise SystemExit(-1)

        job.function = measure
        with suppress(SystemExit):
            job(2, 6)
        job = again.pop().function


@pytest.mark.usefixtures("sigterm")
def test_a_share_that_gets_nowhere_is_not_queued_again_for_ever(tmp_path: Path) -> None:
    store, values = Store(tmp_path), count()

    def some() -> None:
        store.unfinished("a" * 64).keep(0, {"x": np.full(2, next(values))}, {})

    def none() -> None:
        (tmp_path / "encoders").mkdir(exist_ok=True)
        (tmp_path / "encoders" / "a.json").write_text(str(next(values)))

    few = [none] * (MOST_FRUITLESS - 1)
    out_of_time(tmp_path, *few, some, *few, some)
    said = "share 2/6 ran out of its time 3 times in a row and nothing came into the store: .* Give it a longer --time"
    with pytest.raises(McdoError, match=said):
        out_of_time(tmp_path, some, *few, none)


def test_what_is_saved_as_a_job_ends_is_no_fruitless_job(tmp_path: Path) -> None:
    """The passes so far of a block are kept after submitit has asked what the next job is."""
    job, block = ShareJob(partial(toy_share, tmp_path), tmp_path), Store(tmp_path).unfinished("a" * 64)
    for passes in range(2 * MOST_FRUITLESS):
        job = job.checkpoint(1, 2).function
        block.keep(0, {"x": np.full(2, passes)}, {})


def test_resources_are_what_submitit_takes() -> None:
    asked = Resources("slurm", "gpu", 270, 1, 8, "16GB", 4)
    assert asked.parameters() == {
        "timeout_min": 270, "slurm_partition": "gpu", "slurm_gpus_per_task": 1, "slurm_cpus_per_task": 8,
        "slurm_mem": "16GB", "slurm_array_parallelism": 4,
    }  # fmt: skip
    assert Resources("slurm").parameters() == {"timeout_min": 60}
    assert (minutes("90"), minutes("4:30"), minutes(None)) == (90, 270, None)
    assert (minutes("04:00:00"), minutes("1:00:30")) == (240, 61), "as SLURM writes it"
    for wrong in ("", "4:90", "1:2:3", "x", "-5", "1:2", "1:00:00:00", "1-00:00"):
        with pytest.raises(McdoError, match="write minutes, or hours and minutes"):
            minutes(wrong)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cluster=slrum", "--shards=2"], "there is no cluster 'slrum'; the nearest: slurm"),
        (["--cluster=slurm", "--shards=2", "--time=2"], "give it 5 minutes at least"),
        (["--cluster=local"], "--shards=N: say how many jobs share the work"),
        (["--missing"], "--shards=N: say how many"),
        (["--shard=1/2", "--workers=2"], "--shard and --workers are two ways of sharing the work"),
        (["--shard=3/2"], "write it as i/n"),
        (["--workers=0"], "at least one process"),
    ],
)
def test_what_cannot_be_meant_is_a_message(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", *arguments, f"--store={tmp_path / 'store'}", "-m", "phase1"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "phase1", "--models=clip_tyni"], "clip_tiny"),
        (["-m", "phase1", "-k", "nothing_of_that_name"], "no experiment was selected: look at -m and -k"),
    ],
)
def test_what_no_job_could_do_is_refused_before_there_is_one(arguments: list[str], said: str, tmp_path: Path) -> None:
    what = ["tests/experiments/phase1/test_exp0_nested_mc.py", f"--store={tmp_path / 'store'}", *arguments]
    done = run_mcdo("measure", "--cluster=debug", "--shards=2", "--assert=plain", *what)
    assert done.returncode != 0
    assert said in done.stdout
    assert not (tmp_path / "store" / "jobs").exists()


def test_what_is_missing_is_asked_for_with_the_same_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--store={tmp_path / 'store'}", "-m", "phase1"]
    toy_share(tmp_path / "store", 1, 2)
    plans = tmp_path / "store" / PLANS
    (plans / "plan.json").rename(plans / plan_name(arguments, 2))
    assert main(["measure", "--missing", "--shards=2", *arguments]) == 0
    assert "missing: shares 2 of 2" in capsys.readouterr().out


def test_a_job_is_queued_again_once_where_its_step_is_signalled_as_well() -> None:
    """submitit saves itself at each signal, and fails where it meets what the first is saving."""
    seen = list[int]()

    def save(*_: object) -> None:
        seen.append(1)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, save)
    try:
        _once(signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [1]
