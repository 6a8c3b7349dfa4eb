from __future__ import annotations

import errno
import fcntl
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import Timeout

from mcdo.errors import McdoError
from mcdo.store import Store, locks
from mcdo.store.locks import acquired, file_lock
from mcdo.store.upkeep import waste

KEY = "0" * 64


def test_a_lock_keeps_another_out_until_it_is_released(tmp_path: Path) -> None:
    one, other = file_lock(tmp_path / "lock"), file_lock(tmp_path / "lock")
    assert acquired(one, timeout=0)
    with pytest.raises(Timeout):
        acquired(other, timeout=0)
    one.release()
    assert acquired(other, timeout=0)
    other.release()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_costs_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    store, said = Store(tmp_path), list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not acquired(file_lock(tmp_path / "lock"))
        store.check_writable()
        with store.unfinished(KEY).held(said.append):
            store.put(KEY, {"a": np.zeros(2)}, {})
        assert not waste(tmp_path, days=0)
    found = store.get(KEY)
    assert found is not None
    assert said == [f"{tmp_path / '00'} has no locks, so another process may measure the same beside this one"]


def test_a_folder_that_cannot_be_written_is_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        acquired(file_lock(tmp_path / "file" / "lock"))


@pytest.mark.parametrize("kind", ["a FIFO", "a link", "a file of several names", "no file"])
def test_what_is_no_lock_is_refused_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    other, lock = tmp_path / "other", tmp_path / "lock"
    other.write_text("weights")
    kinds: dict[str, Callable[[], object]] = {
        "a FIFO": lambda: os.mkfifo(lock),
        "a link": lambda: lock.symlink_to(other),
        "a file of several names": lambda: os.link(other, lock),
        "no file": lock.mkdir,
    }
    kinds[kind]()
    with pytest.raises(McdoError, match=f"lock is {kind}, where a lock should be; remove it"):
        acquired(file_lock(lock), timeout=0)
    assert other.read_text() == "weights"


def test_a_holder_that_gives_no_sign_of_life_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENT_S", 0.2)
    lock, said = file_lock(tmp_path / "lock"), list[str]()
    assert acquired(lock)
    (tmp_path / "lock").write_text("process 7 on host since then")

    def notify(line: str) -> None:
        said.append(line)
        if "sign of life" in line:
            lock.release()

    with locks.held(tmp_path / "lock", notify):
        pass
    assert said[0] == "lock is being measured by process 7 on host since then; waiting for it"
    assert said[1].startswith("process 7 on host since then has given no sign of life for 0 s")


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    with locks.held(tmp_path / "lock", print):
        os.utime(tmp_path / "lock", (1, 1))
        deadline = time.monotonic() + 20
        while (tmp_path / "lock").stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert not (tmp_path / "lock").exists()
