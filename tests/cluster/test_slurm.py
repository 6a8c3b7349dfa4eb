"""A real SLURM on this host: an array whose tasks are killed, queued again, preempted and drained, to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
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
    *("tests/experiments/phase1/test_convergence_sweep.py", "tests/gates"),
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


def running() -> dict[str, str]:
    """Nodes of the tasks of the array that run, by task."""
    said = program("squeue", "--noheader", "--array", "--name=mcdo-measure", "--states=RUNNING", "--format=%i %N")
    return dict(line.split() for line in said.splitlines())


def is_running(task: str) -> bool:
    return task in running()


def was_queued_again(task: str) -> bool:
    said = program("scontrol", "show", "job", task)
    return int(said.partition("Restarts=")[2].split()[0]) >= 1 if "Restarts=" in said else False


def at_work(store: Path) -> list[tuple[str, str]]:
    """Tasks that run and hold a block, with their nodes."""
    numbers = set()
    for path in store.rglob("block-*.lock"):
        with suppress(OSError, ValueError):
            numbers.add(json.loads(path.read_text())["job"].rpartition("task ")[2])
    return [(task, node) for task, node in running().items() if task.rpartition("_")[2] in numbers]


def hit(
    array: subprocess.Popen[str], store: Path, act: Callable[[str, str], object], felt: Callable[[str], bool]
) -> str:
    """Do something to a task at work and its node, to another where it has just ended; returns the node."""
    while True:
        found: list[tuple[str, str]] = until(lambda: at_work(store), array)
        task, node = found[0]
        act(task, node)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if felt(task):
                return node
            time.sleep(0.1)


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
        hit(array, store, lambda task, _: program("scancel", "--signal=KILL", task), lambda task: not is_running(task))
        hit(array, store, lambda task, _: program("scancel", "--signal=USR2", task), was_queued_again)  # a time limit
        urgent = ["--parsable", "--partition=urgent", "--exclusive", f"--output={os.devnull}", "--wrap=sleep 2"]
        node = hit(array, store, lambda _, at: program("sbatch", f"--nodelist={at}", *urgent), was_queued_again)
        other = {"n1": "n2", "n2": "n1"}[node]
        program("scontrol", "update", f"nodename={other}", "state=drain", "reason=test")
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
