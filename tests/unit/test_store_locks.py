from __future__ import annotations

import errno
import fcntl
import warnings
from pathlib import Path

import numpy as np
import pytest
from filelock import Timeout

from mcdo.store import Store
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
        with store.unfinished(KEY).held(said.append):
            store.put(KEY, {"a": np.zeros(2)}, {})
        assert not waste(tmp_path, days=0)
    found = store.get(KEY)
    assert found is not None
    assert not said


def test_a_folder_that_cannot_be_written_is_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        acquired(file_lock(tmp_path / "file" / "lock"))
