"""How much memory there is to use, in a container or a job of a cluster too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")
"""Where the system's files are looked for."""


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that can be used without swapping, where the system says so: the least of the machine's and its limits'."""
    return min((*_of_machine(root), *_of_limits(root)), default=None)


def _of_machine(root: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        yield int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
        return
    with suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_limits(root: Path) -> Iterator[int]:
    """What is left below each limit that a container or job sets, in control groups of version 2 or 1."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            names = ("memory.max", "memory.current")
            if controllers:
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            own = mount / group.lstrip("/")
            for place in (own, *own.parents):
                if not place.is_relative_to(mount):
                    break
                with suppress(OSError, ValueError):  # no limit is "max", and a container may not see its own group
                    limit, used = (int((place / name).read_text(encoding="ascii")) for name in names)
                    yield max(0, limit - used + _reclaimable(place))


def _reclaimable(place: Path) -> int:
    """Bytes of files that the system only holds as long as nobody wants the room."""
    fields = dict(line.split() for line in (place / "memory.stat").read_text(encoding="ascii").splitlines())
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
