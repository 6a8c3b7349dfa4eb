"""A real SLURM on this host: an array whose tasks are killed, queued again, preempted and drained, to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcdo.store.files import canonical_json, checksum, read

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("start-slurm.sh")
PATIENCE_S = 600
SHARDS = 6
WHAT = [
    *("tests/experiments/phase1/test_exp0_nested_mc.py", "tests/experiments/phase1/test_exp5_subset_ambiguity.py"),
    *("tests/experiments/phase1/test_convergence_sweep.py", "tests/gates/test_decision.py"),
    *("-m", "phase1", "--models=clip_tiny,siglip_tiny", "--device=cpu", "--protocol=quick", "--batch-size=128"),
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM of two nodes, n1 and n2."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode == 3:
        pytest.skip(f"no SLURM: {started.stderr.strip()}")
    assert started.returncode == 0, started.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
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


def running(node: str = "n1,n2") -> list[tuple[str, str]]:
    """Tasks of the array that run, with their nodes."""
    said = program("squeue", "-h", "-r", "-n", "mcdo-measure", "-t", "RUNNING", f"--nodelist={node}", "-o", "%i %N")
    return [(task, at) for task, at in map(str.split, said.splitlines())]


def at_work(store: Path, node: str = "n1,n2") -> Callable[[], list[str]]:
    """Tasks that run and hold a block."""

    def look() -> list[str]:
        jobs = {json.loads(path.read_text() or "{}").get("job", "") for path in there(store)}
        numbers = {job.rpartition("task ")[2] for job in jobs}
        return [task for task, _ in running(node) if task.rpartition("_")[2] in numbers]

    return look


def there(store: Path) -> list[Path]:
    return [path for path in store.rglob("block-*.lock") if path.exists()]


def restarts(task: str) -> int:
    said = program("scontrol", "show", "job", task)
    return int(said.partition("Restarts=")[2].split()[0]) if "Restarts=" in said else 0


def bits(store: Path) -> dict[str, str]:
    found = {}
    for path in store.glob("??/*.safetensors"):
        arrays, facts = read(path, path.stem)
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
        killed = until(at_work(store), array)[0]
        program("scancel", "--signal=KILL", killed)
        until(lambda: killed not in [task for task, _ in running()], array)

        ends_early = until(at_work(store), array)[0]
        program("scancel", "--signal=USR2", ends_early)  # as ahead of a time limit
        until(lambda: restarts(ends_early) >= 1, array)

        until(at_work(store, "n1"), array)
        before = [task for task, _ in running("n1")]
        urgent = program("sbatch", "--parsable", "-p", "urgent", "-w", "n1", "--exclusive", "-o", os.devnull,
                         "--wrap", "sleep 2").strip()  # fmt: skip
        until(lambda: "JobState=PENDING" not in program("scontrol", "show", "job", urgent), array)
        assert [task for task in before if restarts(task) >= 1], "a task was preempted"

        program("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
        said = array.communicate(timeout=PATIENCE_S)[0]
    finally:
        array.kill()
        program("scontrol", "update", "nodename=n2", "state=resume")
        program("scancel", "--name=mcdo-measure")
    print(said)
    assert array.returncode == 0, said
    assert "missing: shares" in said, "the task that was killed"
    assert "submitting again" in said
    assert bits(store) == bits(alone)
    assert not [path for path in store.rglob("*") if path.suffix in (".parts", ".lock", ".part")]
    assert verdict(store, tmp_path / "r") == verdict(alone, tmp_path / "alone")
