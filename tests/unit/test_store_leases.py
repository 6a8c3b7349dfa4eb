from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.store import NotWholeError, Part, Store, leases
from mcdo.store.leases import Leases, held, idle, owner

KEY = "0" * 64


def quiet(line: str) -> None:
    raise AssertionError(line)


def left_by(path: Path, **other: str) -> Path:
    """A lease of somebody else's."""
    said = {"host": "node7", "pid": "7", "job": "", "since": "then", "space": "node7", "born": "", "token": "t"}
    path.write_text(json.dumps({**said, **other}))
    return path


def test_a_lease_is_one_process_and_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with Leases(quiet) as one, Leases(quiet) as other:
        assert one.take(path)
        assert not other.take(path)
        assert not idle(path)
        one.drop(path)
        assert other.take(path)
    assert idle(path)
    assert not list(tmp_path.iterdir())


def test_an_owner_is_named_with_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with Leases(quiet) as mine:
        mine.take(tmp_path / "a.lock")
        said = str(owner(tmp_path / "a.lock"))
    assert said.startswith(f"process {os.getpid()} on {os.uname().nodename} (job 12, task 3) since 20")


def test_an_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.01)
    with Leases(quiet) as mine:
        mine.take(tmp_path / "a.lock")
        os.utime(tmp_path / "a.lock", (1, 1))
        deadline = time.monotonic() + 20
        while (tmp_path / "a.lock").stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_silent_owner_elsewhere_is_taken_over_by_this_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the other machine's clock says."""
    monkeypatch.setattr(leases, "SILENT_S", 0.2)
    path, said = left_by(tmp_path / "a.lock"), list[str]()
    os.utime(path, (time.time() + 1e6, time.time() + 1e6))
    began = time.monotonic()
    with held(path, said.append) as mine:
        assert mine
        assert time.monotonic() - began >= 0.2
    assert said == [
        "a is being measured by process 7 on node7 since then; waiting for it",
        "process 7 on node7 since then has given no sign of life for 0 s: this process takes over",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ahead", [-1e6, 1e6])
def test_whether_a_lease_is_held_does_not_depend_on_this_clock(
    ahead: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days before or behind that of the file system, which dates the signs of life of all machines."""
    fresh, old = left_by(tmp_path / "a.lock"), left_by(tmp_path / "b.lock")
    long_ago = time.time() - 20 * leases.SILENT_S
    os.utime(old, (long_ago, long_ago))
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + ahead)
    assert not idle(fresh)
    assert idle(old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "b.lock"]
    with Leases(quiet) as mine:
        assert not mine.take(fresh)
        assert not mine.take(old), "of an owner elsewhere it is known after a while of looking"


def test_an_owner_elsewhere_that_gives_signs_of_life_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SILENT_S", 0.1)
    path = left_by(tmp_path / "a.lock")
    with Leases(quiet) as mine:
        for beat in range(1, 15):
            os.utime(path, (beat, beat))
            assert not mine.take(path)
            time.sleep(0.02)


def test_a_process_of_this_machine_that_has_ended_is_taken_over_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = f"from mcdo.store.leases import Leases; Leases(print).take(__import__('pathlib').Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", f"{code}; import os; os._exit(0)"], check=True)
    assert path.exists()
    assert idle(path)
    with Leases(quiet) as mine:
        assert mine.take(path)


@pytest.mark.skipif(sys.platform != "linux", reason="when a process began is not told")
def test_a_number_that_was_given_to_another_process_is_no_sign_of_life(tmp_path: Path) -> None:
    with Leases(quiet) as other:
        other.take(tmp_path / "a.lock")
        said = json.loads((tmp_path / "a.lock").read_text())
    left_by(tmp_path / "a.lock", **{**said, "born": "1"})
    with Leases(quiet) as mine:
        assert mine.take(tmp_path / "a.lock")


def test_a_frozen_owner_that_goes_on_leaves_the_lease_to_who_took_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SILENT_S", 0.2)
    path, said = tmp_path / "a.lock", list[str]()
    code = (
        "import sys, pathlib; from mcdo.store import leases; leases.BEAT_S = 0.02\n"
        "with leases.Leases(print) as mine:\n"
        f"    print(mine.take(pathlib.Path({str(path)!r})), flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    other.send_signal(signal.SIGSTOP)
    with Leases(said.append) as mine:
        deadline = time.monotonic() + 20
        while not mine.take(path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        other.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        os.utime(path, (1, 1))
        time.sleep(0.1)
        assert path.stat().st_mtime == 1, "the former owner touches it"
        assert other.communicate("")[0] == ""
        assert other.returncode == 0
        assert owner(path).pid == str(os.getpid())
    assert len(said) == 1
    assert not list(tmp_path.iterdir())


def test_of_many_that_take_over_at_once_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease of a process that is gone; each who gets it holds it until all have tried."""
    path = tmp_path / "a.lock"
    code = f"from mcdo.store.leases import Leases; Leases(print).take(__import__('pathlib').Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", f"{code}; import os; os._exit(0)"], check=True)
    dead = path.read_bytes()
    monkeypatch.setattr(leases, "_SEEN", {})
    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(60):
            path.write_bytes(dead)
            every = [Leases(quiet) for _ in range(8)]
            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(lambda each: each.take(path), every)) == 1
            for each in every:
                each.__exit__(None, None, None)
            assert not list(tmp_path.iterdir())
    finally:
        sys.setswitchinterval(switches)


def test_one_who_ended_while_it_took_over_stops_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SILENT_S", 0.02)
    path, guard = tmp_path / "a.lock", tmp_path / f".a.{hashlib.sha256(b'').hexdigest()[:32]}.part"
    path.write_text("")
    guard.write_text("")
    said = list[str]()
    with held(path, said.append):
        assert owner(path).pid == str(os.getpid())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{}", "[1]", "process 7 on host since then", "{" * 5000])
def test_a_lease_that_says_nothing_is_another_process(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SILENT_S", 0.1)
    (tmp_path / "a.lock").write_text(content)
    said = list[str]()
    with held(tmp_path / "a.lock", said.append):
        pass
    assert said[0] == "a is being measured by another process; waiting for it"


def test_what_is_no_lease_is_refused_and_left(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "a.lock"
    other.write_text("weights")
    path.symlink_to(other)
    with Leases(quiet) as mine, pytest.raises(McdoError, match="lock is a link, where a lock should be; remove it"):
        mine.take(path)
    assert other.read_text() == "weights"


def test_where_no_file_can_be_made_work_goes_on_and_that_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    said = list[str]()
    with Leases(said.append) as mine, monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        assert mine.take(tmp_path / "a.lock")
        assert mine.take(tmp_path / "b.lock")
    assert said == [f"{tmp_path} takes no locks (No space left on device), so another process may measure the same"]


# ---- what a store makes of them


def test_blocks_are_claimed_by_one_and_by_its_share(tmp_path: Path) -> None:
    one, other = Store(tmp_path).unfinished(KEY), Store(tmp_path, Part(owns=lambda block: block >= 4)).unfinished(KEY)
    with one.shared(quiet), other.shared(quiet):
        assert one.claim(4)
        assert not other.claim(0), "of another share"
        assert not other.claim(4)
        assert other.claim(8)
        assert not one.claim(8)
        one.release(4)
        assert other.claim(4)


def test_who_does_not_wait_is_told_what_is_missing(tmp_path: Path) -> None:
    one, other = Store(tmp_path).unfinished(KEY), Store(tmp_path, Part(waits=False)).unfinished(KEY)
    said = f"00000000 is being measured by process {os.getpid()}"
    with one.held(quiet), pytest.raises(NotWholeError, match=said), other.held(quiet):
        pass
    with other.held(quiet):
        Store(tmp_path).put(KEY, {"x": np.zeros(2)}, {})


def test_of_many_that_make_the_folder_at_once_one_has_the_lease(tmp_path: Path) -> None:
    for i in range(20):
        every = [Leases(quiet) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(lambda each, path=tmp_path / str(i) / "a.lock": each.take(path), every)) == 1
