"""Leases: who works on what, on any file system that machines share.

A lease is a file that one process alone can create, on a network file system as well. It names its owner (machine,
process, job), who touches it while it lives. Whose lease nobody touches is taken over: at once where the owner's
machine is this one and the process is gone, after ``SILENT_S`` seconds otherwise, by this process' own clock.

A lease saves work and guards nothing: what is kept is written whole under its name or not at all, and does not depend
on who measured it, so that an owner who was only slow and a process that took over from it do no more than the same
twice.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from mcdo.store.locks import check_place

BEAT_S = 5.0
"""Seconds between two signs of life of an owner."""
SILENT_S = 60.0
"""Seconds without one after which a lease is taken over; more than a network file system keeps what it knows of one."""
POLL_S = 0.2
"""Seconds between two tries of who waits."""
LEFT = ".part"
"""Suffix of what one process alone creates while it removes the lease of another."""
_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Owner:
    """Whose a lease is; every field is text.

    Attributes:
        host: name of the machine.
        pid: its process.
        job: of a scheduler, or "".
        since: when it was taken, as a local time.
        space: in which its pid means a process: the machine since it started, and a container's own processes.
        born: when the process began, where the system tells; a number that is given again is another process.
        token: one for each time that a lease is taken.

    """

    host: str = ""
    pid: str = ""
    job: str = ""
    since: str = ""
    space: str = ""
    born: str = ""
    token: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"process {self.pid} on {self.host}{self.job and f' (job {self.job})'} since {self.since}"

    @staticmethod
    def new() -> Owner:
        """Of a lease that is taken now, by this process."""
        job = next(filter(None, map(os.environ.get, _JOBS)), "")
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return Owner(
            platform.node(),
            str(os.getpid()),
            job + (f", task {task}" if task else ""),
            time.strftime("%Y-%m-%d %H:%M"),
            _space(),
            _born(os.getpid()),
            secrets.token_hex(16),
        )

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine, so that it is known whether it still runs."""
        return self.space == _space() and self.pid.isdecimal()

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended."""
        return self.here and not _runs(int(self.pid), self.born)


@cache
def _space() -> str:
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _status(pid: int) -> list[str]:
    """State, parent, … of a process, as Linux tells them; nothing elsewhere, and for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _born(pid: int) -> str:
    status = _status(pid)
    return status[19] if len(status) > 19 else ""


def _runs(pid: int, born: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    status = _status(pid)
    ended = bool(status) and status[0] in "ZX"  # and nobody has asked how
    return not ended and (not born or _born(pid) in ("", born))


_SEEN: dict[Path, tuple[object, float]] = {}
"""Files of others: how each was found, and since when that has been so by this process' clock."""


def _unchanged(path: Path, found: object) -> float:
    """Seconds for which this process has found a file of another like this; the other's clock may say anything."""
    now = time.monotonic()
    seen, since = _SEEN.get(path, (found, now))
    since = since if seen == found else now
    _SEEN[path] = found, since
    return now - since


def _now(folder: Path) -> float:
    """Seconds since 1970 by the clock that dates the files of a folder, which may be another machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".", suffix=LEFT) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


class Leases:
    """The leases of one process, touched in a thread for as long as they are held.

    Args:
        tell: is told what people should know: whose lease was taken over, and where there can be none.

    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._held: dict[Path, str] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._heart: threading.Thread | None = None
        self._without = False

    def __enter__(self) -> Leases:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._heart is not None:
            self._heart.join()
        for path in list(self._held):
            self.drop(path)

    def take(self, path: Path) -> bool:
        """Whether the lease is this process' now, or can be nobody's: then work goes on without, and that is told.

        Raises:
            McdoError: if in its place lies something that is no lease.

        """
        try:
            return self._made(path) or (self._abandoned(path) and self._made(path))
        except OSError as error:
            if not self._without:
                self._without = True
                why = error.strerror or error
                self._tell(f"{path.parent} takes no locks ({why}), so another process may measure the same")
            return True

    def drop(self, path: Path) -> None:
        """Give a lease back; one that was taken over meanwhile is left."""
        with self._lock:
            token = self._held.pop(path, None)
        if token is not None and token == owner(path).token:
            with suppress(OSError):
                os.unlink(path)

    def _made(self, path: Path) -> bool:
        mine = Owner.new()
        try:
            descriptor = _created(path)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(asdict(mine)).encode())
        except OSError:
            os.unlink(path)
            raise
        with self._lock:
            self._held[path] = mine.token
            if self._heart is None:
                self._heart = threading.Thread(target=self._beat, daemon=True)
                self._heart.start()
        return True

    def _abandoned(self, path: Path) -> bool:
        """Whether a lease was its owner's no more, and is gone now."""
        check_place(path)
        whose, touched = _looked_at(path)
        if _unchanged(path, (whose.token, touched)) < SILENT_S and not whose.gone:
            return False
        if not self._removed(path, whose, touched):
            return False
        _SEEN.pop(path, None)
        if not whose.gone:
            self._tell(f"{whose} has given no sign of life for {SILENT_S:.0f} s: this process takes over")
        return True

    def _removed(self, path: Path, whose: Owner, touched: int) -> bool:
        """Whether an abandoned lease was removed by this process, and by it alone: a new one is never touched."""
        guard = path.with_name(f".{path.stem}.{sha256(whose.token.encode()).hexdigest()[:32]}{LEFT}")
        try:
            os.close(os.open(guard, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:  # another is at it; or was, and ended in these few system calls
            with suppress(FileNotFoundError):
                if _unchanged(guard, guard.lstat().st_mtime_ns) > 10 * SILENT_S:
                    os.unlink(guard)
                    _SEEN.pop(guard, None)
            return False
        try:
            if _looked_at(path) != (whose, touched):  # another was faster, or the owner is awake again
                return False
            with suppress(FileNotFoundError):  # given back meanwhile
                os.unlink(path)
        finally:
            os.unlink(guard)
        return True

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            for path, token in list(self._held.items()):
                with suppress(OSError):
                    self._touch(path, token)

    def _touch(self, path: Path, token: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            if _read(descriptor).token == token:
                os.utime(descriptor if os.utime in os.supports_fd else path)
        finally:
            os.close(descriptor)


def _created(path: Path) -> int:
    """Descriptor of a new file. Raises FileExistsError where there is one."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:  # the folder of parts goes when a measurement is whole, at any moment
            path.parent.mkdir(parents=True, exist_ok=True)


def owner(path: Path) -> Owner:
    """Whose a lease is, as far as its file says."""
    return _looked_at(path)[0]


def _looked_at(path: Path) -> tuple[Owner, int]:
    """Owner, and when the lease was touched last; opened, because a network file system looks anew for that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return Owner(), 0
    try:
        return _read(descriptor), os.fstat(descriptor).st_mtime_ns
    except OSError:
        return Owner(), 0
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Owner:
    try:
        said = json.loads(os.read(descriptor, _MOST_BYTES))
        return Owner(**{field.name: str(said[field.name]) for field in fields(Owner)})
    except (ValueError, TypeError, KeyError, RecursionError):
        return Owner()


@contextmanager
def held(path: Path, tell: Callable[[str], None], *, waits: bool = True) -> Iterator[bool]:
    """Hold a lease inside; gives whether it is held, which it is unless ``waits`` is off and another process has it.

    Args:
        path: of the lease.
        tell: is told whom this process waits for, from whom it takes over, and where there are no leases.
        waits: wait until no other process holds it.

    Raises:
        McdoError: if in its place lies something that is no lease.

    """
    with Leases(tell) as leases:
        told = False
        while not (mine := leases.take(path)) and waits:
            if not told:
                told = True
                tell(f"{path.stem[:8]} is being measured by {owner(path)}; waiting for it")
            time.sleep(POLL_S)
        yield mine


def idle(path: Path) -> bool:
    """Whether nobody holds a lease: of an owner elsewhere that is known by its silence."""
    try:
        touched = path.lstat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return True
    whose = owner(path)
    return whose.gone if whose.here else _now(path.parent) - touched > 10 * SILENT_S
