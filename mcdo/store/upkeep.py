"""Looking after a store: what is in it, what of it is damaged, and what is of no more use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from mcdo.errors import McdoError
from mcdo.store.files import DAMAGE, UNWRITTEN, read, read_facts
from mcdo.store.locks import acquired, file_lock
from mcdo.store.store import ASIDE, LOCK, PARTS, RESULT

DAY_S = 86400.0


@dataclass(frozen=True)
class Entry:
    """A result, or (with ``parts``) one that is not whole yet.

    Attributes:
        path: its file, or the folder of its parts.
        size: bytes.
        written: when it was last written, in seconds since 1970.
        parts: how many parts there are of an unfinished one; None for a whole result.
        facts: what :meth:`mcdo.Store.put` was given, unverified; None where it cannot be read.

    """

    path: Path
    size: int
    written: float
    parts: int | None = None
    facts: Mapping[str, Any] | None = None

    @property
    def label(self) -> Mapping[str, str]:
        """Encoder, images and protocol, for people."""
        label: Mapping[str, str] = (self.facts or {}).get("label", {})
        return label

    @property
    def age(self) -> float:
        """Days since it was last written."""
        return max(0.0, time.time() - self.written) / DAY_S


@dataclass(frozen=True)
class Waste:
    """What may be removed, and why."""

    path: Path
    size: int
    reason: str

    def remove(self) -> None:
        """Remove it. Raises McdoError if that cannot be done."""
        try:
            for path in _files(self.path):
                path.unlink(missing_ok=True)
            if self.path.is_dir():
                self.path.rmdir()
        except OSError as error:
            raise McdoError(f"{self.path} cannot be removed: {error}. Look at who owns the store") from error


def entries(root: Path) -> list[Entry]:
    """Results and unfinished results, oldest first.

    Raises:
        McdoError: if there is no such folder.

    """
    found = []
    for path in [*_existing(root).glob(f"*/*{RESULT}"), *root.glob(f"*/*{PARTS}")]:
        files = _files(path)
        results = [file for file in files if file.suffix == RESULT]
        parts = len(results) if path.suffix == PARTS else None
        size, written = _measures(files or [path])
        found.append(Entry(path, size, written, parts, _facts(results[0]) if results else {}))
    return sorted(found, key=lambda entry: entry.written)


def verified(root: Path) -> Iterator[tuple[Path, Exception | None]]:
    """Every file of results, and what is wrong with it (None: nothing). Raises McdoError as :func:`entries` does."""
    for path in sorted([*_existing(root).glob(f"*/*{RESULT}"), *root.glob(f"*/*{PARTS}/*{RESULT}")]):
        try:
            read(path)
        except FileNotFoundError:  # finished, or removed, meanwhile
            continue
        except (OSError, *DAMAGE) as error:
            yield path, error
        else:
            yield path, None


def waste(root: Path, days: float, versions: Mapping[str, str] | None = None) -> list[Waste]:
    """What is of no more use: damaged files, and what killed processes left behind ``days`` ago or earlier.

    Args:
        root: the store.
        days: age of what is left behind, such as parts of a run that nobody resumed. What a process works on stays.
        versions: if given, also results of that age that were measured with another version of one of these.

    Raises:
        McdoError: if there is no such folder.

    """
    outdated = [] if versions is None else _outdated(root, days, versions)
    reasons = {**dict(outdated), **dict(_left_behind(root, days)), **dict(_broken(root))}
    folders = {path for path in reasons if path.is_dir()}
    return [
        Waste(path, _measures(_files(path))[0], reason)
        for path, reason in sorted(reasons.items())
        if path.parent not in folders
    ]


def _broken(root: Path) -> Iterator[tuple[Path, str]]:
    for path, error in verified(root):
        if isinstance(error, DAMAGE):  # one that may not be read is not known to be damaged
            yield path, f"damaged: {error}"
    for path in root.rglob(f"*{ASIDE}"):
        yield path, "damaged, and set aside"


def _left_behind(root: Path, days: float) -> Iterator[tuple[Path, str]]:
    for path in root.rglob(f".*{UNWRITTEN}"):
        if _age(path) >= days:
            yield path, "left by a process that was killed while it wrote"
    for path in root.glob(f"*/*{PARTS}"):
        whole = path.with_suffix(RESULT).exists()
        if (whole or _age(path) >= days) and _free(path.with_suffix(LOCK)):
            yield path, "parts of a run that is whole" if whole else "parts of a run that nobody resumed"
    for path in root.glob(f"*/*{LOCK}"):
        if _age(path) >= days and _free(path):
            yield path, "lock of a process that was killed"


def _outdated(root: Path, days: float, versions: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    for entry in entries(root):
        then = (entry.facts or {}).get("provenance", {}).get("versions", {})
        other = [f"{name} {version}" for name, version in sorted(then.items()) if versions.get(name) != version]
        if other and entry.age >= days:
            yield entry.path, f"measured with {', '.join(other)}"


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise McdoError(f"there is no store at {root}. Name its folder with --store")
    return root


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _measures(files: list[Path]) -> tuple[int, float]:
    """Bytes of all, and when the last one was written; files may go meanwhile."""
    stats = []
    for file in files:
        with suppress(FileNotFoundError):
            stats.append(file.stat())
    return sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)


def _age(path: Path) -> float:
    return max(0.0, time.time() - _measures(_files(path) or [path])[1]) / DAY_S


def _facts(path: Path) -> dict[str, Any] | None:
    try:
        return read_facts(path)
    except (OSError, *DAMAGE):
        return None


def _free(lock: Path) -> bool:
    """Whether no process holds the lock."""
    if not lock.exists():
        return True
    held = file_lock(lock)
    try:
        acquired(held, timeout=0)
    except Timeout:
        return False
    except OSError:
        return True
    held.release()
    return True
