"""Real processes on one store: killed, at once, on a full disk, on a read-only one."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import begin
from store_child import BLOCK, N, child, measure

PATIENCE_S = 60
BLOCKS = list(range(0, N, BLOCK))
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def expected() -> Arrays:
    return measure(None, progress=False).arrays()


def begun(log: Path) -> list[str]:
    return log.read_text().split("\n")[:-1] if log.exists() else []


def blocks_begun(log: Path, n: int) -> bool:
    return len(begun(log)) >= n


def begun_or_ended(process: BaseProcess, log: Path) -> bool:
    """Two blocks were begun, or the one block that was left is done."""
    return blocks_begun(log, 2) or not process.is_alive()


def wait_until(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


def ended(process: BaseProcess) -> int | None:
    process.join(PATIENCE_S)
    return process.exitcode


def same(found: Path, expected: Arrays) -> bool:
    with np.load(found) as arrays:
        return set(arrays) == set(expected) and all(np.array_equal(arrays[name], expected[name]) for name in expected)


def suffixes(store: Path) -> list[str]:
    return sorted(path.suffix for path in store.rglob("*.*"))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_that_is_killed_again_and_again_loses_a_block_of_each_thread_and_no_bit(
    threads: int, expected: Arrays, tmp_path: Path
) -> None:
    rng = np.random.default_rng(threads)
    store, logs = tmp_path / "store", [tmp_path / f"{i}.log" for i in range(4)]
    for i, log in enumerate(logs[:-1]):
        process = begin(child, store, log, threads=1 + (threads + i) % 2 if threads == 2 else 1)
        wait_until(partial(begun_or_ended, process, log))
        time.sleep(rng.uniform(0, 0.08))  # anywhere between two blocks, or in the writing of one
        process.kill()
        assert ended(process) in ((-9,) if i == 0 else (-9, 0))
    assert ended(begin(child, store, logs[-1], threads=threads)) == 0
    assert same(logs[-1].with_suffix(".npz"), expected)
    assert suffixes(store) == [".safetensors"]
    attempts = [begun(log) for log in logs]
    assert all(len(set(attempt)) == len(attempt) for attempt in attempts)
    assert {int(block) for attempt in attempts for block in attempt} == set(BLOCKS)
    for i, attempt in enumerate(attempts[:-1]):
        again = set(attempt) & {block for later in attempts[i + 1 :] for block in later}
        assert len(again) <= threads, (attempt, again)


def test_processes_that_want_the_same_run_share_its_blocks(expected: Arrays, tmp_path: Path) -> None:
    store, logs = tmp_path / "store", [tmp_path / f"{i}.log" for i in range(3)]
    processes = [begin(child, store, log) for log in logs]
    assert [ended(process) for process in processes] == [0, 0, 0]
    assert sorted(int(block) for log in logs for block in begun(log)) == BLOCKS
    assert all(same(log.with_suffix(".npz"), expected) for log in logs)
    assert suffixes(store) == [".safetensors"]


def test_the_blocks_of_a_process_that_is_killed_are_taken_over_at_once(expected: Arrays, tmp_path: Path) -> None:
    store, first, second = tmp_path / "store", tmp_path / "first.log", tmp_path / "second.log"
    one = begin(child, store, first)
    wait_until(partial(blocks_begun, first, 2))
    two = begin(child, store, second)
    wait_until(partial(blocks_begun, second, 1))
    one.kill()
    assert ended(one) == -9
    assert ended(two) == 0
    assert same(second.with_suffix(".npz"), expected)
    assert len(set(begun(first)) & set(begun(second))) <= 1
    assert Counter(begun(first) + begun(second)).keys() == {str(block) for block in BLOCKS}
    assert suffixes(store) == [".safetensors"]


def test_a_process_that_is_frozen_loses_its_block_and_may_go_on_to_the_same_bits(
    expected: Arrays, tmp_path: Path
) -> None:
    store, first, second = tmp_path / "store", tmp_path / "first.log", tmp_path / "second.log"
    one = begin(child, store, first)
    wait_until(partial(blocks_begun, first, 2))
    assert one.pid is not None
    os.kill(one.pid, signal.SIGSTOP)
    try:
        two = begin(child, store, second, silent_s=1.0)
        assert ended(two) == 0
    finally:
        os.kill(one.pid, signal.SIGCONT)
    assert ended(one) == 0
    said = second.with_suffix(".said").read_text()
    assert f"process {one.pid} on {platform.node()}" in said
    assert "has given no sign of life for 1 s: this process takes over" in said
    assert all(same(log.with_suffix(".npz"), expected) for log in (first, second))
    assert suffixes(store) == [".safetensors"]


def test_two_mount_points_of_one_folder_are_one_store(expected: Arrays, tmp_path: Path) -> None:
    """As on two machines of a cluster; which of a process' own paths leads there does not matter."""
    store, logs = tmp_path / "store", [tmp_path / "one.log", tmp_path / "two.log"]
    store.mkdir()
    places = [tmp_path / "a", tmp_path / "b"]
    processes = [begin(child, place, log, bind=store) for place, log in zip(places, logs, strict=True)]
    assert [ended(process) for process in processes] == [0, 0]
    for log in logs:
        if log.with_suffix(".skip").exists():
            pytest.skip(f"needs root, to mount a folder twice: {log.with_suffix('.skip').read_text()}")
    assert sorted(int(block) for log in logs for block in begun(log)) == BLOCKS
    assert all(same(log.with_suffix(".npz"), expected) for log in logs)
    assert suffixes(store) == [".safetensors"]
    assert not any(any(place.iterdir()) for place in places), "what was mounted there is private to the process"


def test_a_file_that_cannot_grow_costs_no_measurement_and_leaves_nothing(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "a.log"
    largest = 2**16  # what is asked for before any pass is spent; a part fits in, the whole does not
    assert ended(begin(child, store, log, largest_file=largest, script="bounded_files")) == 0
    said = log.with_suffix(".said").read_text()
    assert said.count("UnsavedResultWarning: the run is not kept") == 1
    assert "File too large" in said
    assert "equal True" in said
    assert set(suffixes(store)) == {".parts", ".safetensors"}


def on_a_disk(folder: Path, size: int, taken: int, script: str) -> Path:
    log = folder / "a.log"
    process = begin(child, folder / "store", log, disk=(size, taken), script=script)
    assert ended(process) == 0
    if log.with_suffix(".skip").exists():
        pytest.skip(f"needs a small disk of its own: {log.with_suffix('.skip').read_text()}")
    return log


def test_a_disk_that_is_full_is_an_error_before_any_pass(tmp_path: Path) -> None:
    log = on_a_disk(tmp_path, 256, 248, "full_at_once")
    said = log.with_suffix(".said").read_text()
    assert said.startswith("McdoError the store ")
    assert "cannot be written: [Errno 28] No space left on device. Name another folder" in said
    assert begun(log) == []


def test_a_disk_that_fills_up_costs_no_measurement_and_no_part(expected: Arrays, tmp_path: Path) -> None:
    log = on_a_disk(tmp_path, 1024, 1024 - 100, "full_then_room")
    said = log.with_suffix(".said").read_text()
    assert same(log.with_suffix(".npz"), expected)
    assert said.count("UnsavedResultWarning: parts of the run are not kept") == 1
    assert said.count("UnsavedResultWarning: the run is not kept") == 1
    kept = said.partition("on the full disk: ")[2].split("\n")[0]
    parts = kept.count(".safetensors")
    assert 0 < parts < len(BLOCKS)
    assert kept == str([".parts"] + [".safetensors"] * parts)
    first, again = " ".join(begun(log)).split("room")
    assert len(first.split()) == len(BLOCKS)
    assert len(again.split()) == len(BLOCKS) - parts
    assert said.endswith("equal True\nwith room: ['.safetensors']\n")


def test_a_read_only_store_gives_what_it_has_and_refuses_the_rest_before_any_pass(tmp_path: Path) -> None:
    log = on_a_disk(tmp_path, 4096, 0, "read_only")
    said = log.with_suffix(".said").read_text()
    assert said.startswith("equal True\npart (1, 48)\nMcdoError the store ")
    assert "cannot be written: [Errno 30] Read-only file system" in said
    assert begun(log) == [*map(str, BLOCKS), "read only"]
