"""Locks between processes of one machine: the kernel's (flock), so that the lock of a killed process is free at once.

Network file systems often lack them; there work goes on without, because what they keep apart is written whole or not
at all. What machines share is divided by :mod:`mcdo.store.leases`.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from mcdo.errors import McdoError

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
    check_place(Path(lock.lock_file))
    try:
        lock.acquire(timeout=timeout, poll_interval=0.1)
    except NotImplementedError:  # what older versions of filelock make of ENOSYS
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def check_place(path: Path) -> None:
    """Raise McdoError if something lies here that is no lock, or has another name as well."""
    try:
        found = path.lstat()
    except OSError:
        return
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISLNK, "a link"), (lambda mode: not stat.S_ISREG(mode), "no file"))
    what = next((what for test, what in kinds if test(found.st_mode)), "a file of several names")
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise McdoError(f"{path} is {what}, where a lock should be; remove it")


def free(path: Path) -> BaseFileLock | None:
    """The lock at ``path``, held from now on, or None if another process holds it or the file system has no locks."""
    lock = file_lock(path)
    try:
        return lock if acquired(lock, timeout=0) else None
    except (Timeout, OSError, McdoError):
        return None
