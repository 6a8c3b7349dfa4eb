"""Locks between processes, on file systems that have none as well.

The lock is the kernel's (flock), so that of a killed process is free at once. Network file systems often lack it; there
work goes on without, because what it keeps apart is written whole or not at all. Who holds a lock touches its file now
and then, so that who waits can tell a process that works from one that is stopped.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from mcdo.errors import McdoError

BEAT_S = 5.0
"""Seconds between two signs of life of a process that holds a lock."""
SILENT_S = 60.0
"""Seconds without one after which who waits says so."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def file_lock(path: Path) -> BaseFileLock:
    """The lock of a file, not yet acquired."""
    try:
        # A file in place of a lock would outlive a killed process, and filelock warns of it.
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # filelock before it had a fallback
        return FileLock(path)


def acquired(lock: BaseFileLock, timeout: float = -1) -> bool:
    """Whether the lock is held now; False where the file system has no locks.

    Args:
        lock: from :func:`file_lock`.
        timeout: seconds to wait for another process; negative waits as long as it takes.

    Raises:
        filelock.Timeout: if another process holds it.
        OSError: if its file cannot be made.
        McdoError: if in its place lies something else: opening a FIFO waits for ever, and what has a second name or is
            a link would be emptied elsewhere.

    """
    _check_place(Path(lock.lock_file))
    try:
        lock.acquire(timeout=timeout, poll_interval=0.1)
    except NotImplementedError:  # what older versions of filelock make of ENOSYS
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _check_place(path: Path) -> None:
    try:
        found = path.lstat()
    except OSError:
        return
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISLNK, "a link"), (lambda mode: not stat.S_ISREG(mode), "no file"))
    what = next((what for test, what in kinds if test(found.st_mode)), "a file of several names")
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise McdoError(f"{path} is {what}, where a lock should be; remove it")


@contextmanager
def held(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process holds the lock at ``path``, and hold it; without where there are no locks.

    Args:
        path: of the lock's file.
        tell: is told whom this process waits for, whether that one still works, and where there are no locks.

    Raises:
        OSError: if its file cannot be made.
        McdoError: as :func:`acquired`.

    """
    lock = file_lock(path)
    if not _waited(lock, path, tell):
        tell(f"{path.parent} has no locks, so another process may measure the same beside this one")
        yield
        return
    with suppress(OSError):
        said = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M')}"
        path.write_text(said, encoding="utf-8", errors="replace")
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, done), daemon=True)
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        with suppress(OSError):  # a process that waits for a file that is gone opens the next one
            os.unlink(path)
        lock.release()


def _waited(lock: BaseFileLock, path: Path, tell: Callable[[str], None]) -> bool:
    try:
        return acquired(lock, timeout=0)
    except Timeout:
        tell(f"{path.stem[:8]} is being measured by {_owner(path)}; waiting for it")
    beat, since, told = _beaten(path), time.monotonic(), False
    while True:
        with suppress(Timeout):
            return acquired(lock, timeout=min(BEAT_S, SILENT_S) / 2)
        if _beaten(path) != beat:
            beat, since, told = _beaten(path), time.monotonic(), False
        elif not told and time.monotonic() - since >= SILENT_S:
            told = True
            tell(
                f"{_owner(path)} has given no sign of life for {SILENT_S:.0f} s: it may be stopped. Let it go on, or "
                "end it, and this process takes over what it has kept"
            )


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)


def _beaten(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"


def free(path: Path) -> BaseFileLock | None:
    """The lock at ``path``, held from now on, or None if another process holds it or the file system has no locks."""
    lock = file_lock(path)
    try:
        return lock if acquired(lock, timeout=0) else None
    except (Timeout, OSError, McdoError):
        return None
