from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import Timeout

from mcdo.errors import McdoError
from mcdo.store.locks import acquired, file_lock


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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not acquired(file_lock(tmp_path / "lock"))


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
