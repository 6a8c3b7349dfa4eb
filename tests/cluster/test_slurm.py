"""A real SLURM on this host: an array whose tasks are killed, queued again, preempted and drained, to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcdo.store.files import canonical_json, checksum, read

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("start-slurm.sh")
PATIENCE_S = 1200
SHARDS = 6
WHAT = [
    *("tests/experiments/phase1/test_exp0_nested_mc.py", "tests/experiments/phase1/test_exp5_subset_ambiguity.py"),
    *("tests/experiments/phase1/test_convergence_sweep.py", "tests/gates"),
    *("-m", "phase1", "--models=clip_tiny,siglip_tiny", "--device=cpu", "--protocol=quick", "--batch-size=128"),
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A SLURM of two nodes, n1 and n2, in a folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
        if started.returncode == 3:
            pytest.skip(f"no SLURM: {started.stderr.strip()}")
        assert started.returncode == 0, started.stderr
        patch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        patch.setenv("OMP_NUM_THREADS", "1")
        try:
            yield
        finally:
            subprocess.run([SCRIPT, "stop", folder], capture_output=True, check=False)


def program(name: str, *arguments: str) -> str:
    found = shutil.which(name)
    assert found is not None
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False).stdout


def mcdo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcdo", *arguments]


def until(what: Callable[[], Any], array: subprocess.Popen[str]) -> Any:
    """What it gives as soon as it is something; fails when the array has ended before."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert array.poll() is None, f"the array has ended: {array.communicate()[0]}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)
    return found


@dataclass(frozen=True)
class Task:
    """A task of the array: its job, its process, and the node that it is on."""

    job: str
    pid: int
    node: str

    @property
    def runs(self) -> bool:
        return program("squeue", "--noheader", f"--jobs={self.job}", "--format=%T").strip() == "RUNNING"

    @property
    def was_queued_again(self) -> bool:
        said = program("scontrol", "show", "job", self.job)
        return int(said.partition("Restarts=")[2].split()[0]) >= 1 if "Restarts=" in said else False


def stopped_at_work(count: int, array: subprocess.Popen[str], store: Path) -> list[Task]:
    """Tasks that hold a block and are stopped, so that an accident meets them at work on the fastest machine."""
    found: dict[str, Task] = {}

    def look() -> bool:
        for path in store.rglob("block-*.lock"):
            with suppress(OSError, ValueError):  # it is given back meanwhile
                whose = json.loads(path.read_text())
                job, pid = whose["job"].partition(",")[0], int(whose["pid"])
                if job in found or len(found) == count:
                    continue
                os.kill(pid, signal.SIGSTOP)
                if path.exists() and json.loads(path.read_text()) == whose:
                    found[job] = Task(job, pid, program("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip())
                else:
                    os.kill(pid, signal.SIGCONT)
        return len(found) == count

    until(look, array)
    return list(found.values())


def bits(store: Path) -> dict[str, str]:
    found = {}
    for path in store.glob("??/*.safetensors"):
        arrays, facts = read(path, path.stem)
        if set(arrays) != {"alive"}:  # looked at for the sites that a process wants first
            found[path.stem] = checksum(path.stem, arrays, canonical_json(facts))
    return found


def verdict(store: Path, reports: Path) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "pytest", "-q", *WHAT, "--from-store", f"--store={store}", f"--reports={reports}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout
    said = json.loads((reports / "phase1" / "verdict.json").read_text())
    for run in ("session", "made", "checksum"):
        said.pop(run, None)
    return done.returncode, said


@pytest.fixture(scope="module")
def alone(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process."""
    store = tmp_path_factory.mktemp("alone") / "store"
    subprocess.run(mcdo("measure", f"--store={store}", *WHAT), cwd=ROOT, check=True)
    return store


def test_an_array_with_every_accident_is_one_process(alone: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = mcdo("measure", "--cluster=slurm", f"--shards={SHARDS}", "--partition=main", "--time=30", "--mem=2GB")
    command += ["--cpus-per-task=1", "--max-parallel=4", f"--store={store}", *WHAT]
    array = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        killed, timed, preempted = stopped_at_work(3, array, store)
        program("scancel", "--signal=KILL", killed.job)
        until(lambda: not killed.runs, array)
        program("scancel", "--signal=USR2", timed.job)  # as at a time limit
        os.kill(timed.pid, signal.SIGCONT)
        until(lambda: timed.was_queued_again, array)
        urgent = ["--partition=urgent", "--exclusive", f"--output={os.devnull}", "--wrap=sleep 2"]
        program("sbatch", f"--nodelist={preempted.node}", *urgent)
        until(lambda: preempted.was_queued_again, array)
        other = {"n1": "n2", "n2": "n1"}[preempted.node]
        program("scontrol", "update", f"nodename={other}", "state=drain", "reason=test")
        assert program("sinfo", "--noheader", f"--nodes={other}", "--format=%T").split()[0].startswith("drain")
        said = array.communicate(timeout=PATIENCE_S)[0]
    finally:
        array.kill()
        program("scancel", "--name=mcdo-measure")
    print(said)
    assert array.returncode == 0, said
    assert "missing: shares" in said, "the task that was killed"
    assert "submitting again" in said
    assert bits(store) == bits(alone)
    assert not [path for path in store.rglob("*") if path.suffix in (".parts", ".lock", ".part")]
    code, found = verdict(store, tmp_path / "r")
    assert (code, found) == verdict(alone, tmp_path / "alone")
    assert set(found["own_gates"].values()) <= {"passed", "skipped"}, "judged without a model"
    assert found["decision"] == "GO"
