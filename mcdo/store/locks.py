"""Locks between processes, on file systems that have none as well.

The lock is the kernel's (flock), so that of a killed process is free at once. Network file systems often lack it; there
work goes on without, because what it keeps apart is written whole or not at all.
"""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock

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

    """
    try:
        lock.acquire(timeout=timeout)
    except NotImplementedError:  # what older versions of filelock make of ENOSYS
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
