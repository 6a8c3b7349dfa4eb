"""Looking after a store: what is in it, what of it is damaged, and what is of no more use."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.store.files import DAMAGE, UNWRITTEN, read, read_facts
from mcdo.store.leases import idle
from mcdo.store.store import ASIDE, BLOCK, LOCK, MARKER, PARTIAL, PARTS, RESULT, USES

DAY_S = 86400.0
_WRITING = 1 / 24
"""Days that a file under a temporary name stays whatever is asked for: somebody may be writing it."""
_FOLDER = re.compile("[0-9a-f]{2}")
_SUFFIXES = "|".join(map(re.escape, (RESULT, PARTS, LOCK, ASIDE)))
_OWN = re.compile(rf"\.?(?P<key>[0-9a-f]{{64}})(\.\w+)?(?P<suffix>{_SUFFIXES}|{re.escape(UNWRITTEN)})")
_PART = re.compile(rf"\.?([0-9a-f]{{32}}|{PARTIAL}\d+|{BLOCK}\d+)(\.\w+)?({_SUFFIXES}|{re.escape(UNWRITTEN)})")


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


def short(key: str) -> str:
    """Enough of a key to tell results apart: its family, and which of it."""
    return f"{key[:6]}-{key[-6:]}"


@dataclass(frozen=True)
class Waste:
    """What may be removed, and why.

    Attributes:
        path: a file, or the folder of the parts of a run.
        size: bytes.
        reason: why it is of no more use.
        lock: of the measurement that it belongs to.

    """

    path: Path
    size: int
    reason: str
    lock: Path

    def remove(self) -> bool:
        """Remove it, unless a process has begun to work on it meanwhile; returns whether it is gone.

        Raises:
            McdoError: if that cannot be done.

        """
        if not _idle(self.lock):
            return False
        try:
            for path in _files(self.path):
                path.unlink(missing_ok=True)
            if self.path.is_dir() and not any(self.path.iterdir()):  # or something of another's lies in it
                self.path.rmdir()
            self.lock.unlink(missing_ok=True)
        except OSError as error:
            raise McdoError(f"{self.path} cannot be removed: {error}. Look at who owns the store") from error
        return True


def entries(root: Path) -> list[Entry]:
    """Results and unfinished results, oldest first.

    Raises:
        McdoError: if there is no such folder.

    """
    found = []
    for path in _named(root, RESULT, PARTS):
        files = _files(path)
        results = [file for file in files if file.suffix == RESULT]
        parts = len(results) if path.suffix == PARTS else None
        size, written = _measures(files or [path])
        found.append(Entry(path, size, written, parts, _facts(results[0], path.stem) if results else {}))
    return sorted(found, key=lambda entry: entry.written)


def uses(root: Path) -> dict[str, set[str]]:
    """Keys that experiments wanted, by the name of the experiment."""
    return {
        folder.name: {path.name for path in folder.iterdir()}
        for folder in sorted((_existing(root) / USES).glob("*"))
        if folder.is_dir()
    }


def verified(root: Path) -> Iterator[tuple[Path, Exception | None]]:
    """Every file of results, and what is wrong with it (None: nothing). Raises McdoError as :func:`entries` does."""
    for entry in _named(root, RESULT, PARTS):
        for path in sorted(file for file in _files(entry) if file.suffix == RESULT):
            try:
                read(path, entry.stem)
            except FileNotFoundError:  # finished, or removed, meanwhile
                continue
            except (OSError, *DAMAGE) as error:
                yield path, error
            else:
                yield path, None


def waste(root: Path, days: float, versions: Mapping[str, str] | None = None) -> list[Waste]:
    """What is of no more use: damaged files, and what killed processes left behind ``days`` ago or earlier.

    Only what bears a name that a store gives is looked at, links are not followed, and what a process works on stays.

    Args:
        root: the store.
        days: age of what is left behind, such as parts of a run that nobody resumed.
        versions: if given, also results of that age that were measured with another version of one of these.

    Raises:
        McdoError: if there is no such folder, or it is no store.

    """
    if not (_existing(root) / MARKER).is_file():
        raise McdoError(
            f"{root} is not known to be a store (it has no file {MARKER}), so nothing in it is removed. A store of an "
            f"earlier version is marked by the next measurement that goes into it"
        )
    outdated = [] if versions is None else _outdated(root, days, versions)
    reasons = {**dict(outdated), **dict(_left_behind(root, days)), **dict(_broken(root))}
    folders = {path for path in reasons if path.is_dir()}
    return [
        Waste(path, _measures(_files(path))[0], reason, _lock(path))
        for path, reason in sorted(reasons.items())
        if path.parent not in folders and _idle(_lock(path))
    ]


def _broken(root: Path) -> Iterator[tuple[Path, str]]:
    for path, error in verified(root):
        if isinstance(error, DAMAGE):  # one that may not be read is not known to be damaged
            yield path, f"damaged: {error}"
    for path in _named(root, ASIDE):
        yield path, "damaged, and set aside"
    for folder in _named(root, PARTS):
        yield from ((path, "damaged, and set aside") for path in _files(folder) if path.suffix == ASIDE)


def _left_behind(root: Path, days: float) -> Iterator[tuple[Path, str]]:
    for path in _named(root, UNWRITTEN):
        if _age(path) >= max(days, _WRITING):
            yield path, "left by a process that was killed while it wrote"
    for folder in _named(root, PARTS):
        for path in _files(folder):
            if path.suffix == UNWRITTEN and _age(path) >= max(days, _WRITING):
                yield path, "left by a process that was killed while it wrote"
        whole = folder.with_suffix(RESULT).exists()
        if whole or _age(folder) >= days:
            yield folder, "parts of a run that is whole" if whole else "parts of a run that nobody resumed"
    for path in _named(root, LOCK):
        if _age(path) >= days:
            yield path, "lock of a process that was killed"


def _lock(path: Path) -> Path:
    """The lock of the measurement that a path of a store belongs to."""
    entry = path.parent if path.parent.suffix == PARTS else path
    return entry.with_name(f"{_OWN.fullmatch(entry.name)['key']}{LOCK}")  # type: ignore[index]


def _idle(lock: Path) -> bool:
    """Whether no process works on a measurement, whole or block by block."""
    return idle(lock) and all(idle(path) for path in _files(lock.with_suffix(PARTS)) if path.suffix == LOCK)


def _named(root: Path, *suffixes: str) -> Iterator[Path]:
    """Paths that bear the names of a store, and neither are links nor lie behind one."""
    for folder in sorted(_existing(root).iterdir()):
        if _FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            for path in sorted(folder.iterdir()):
                own = _OWN.fullmatch(path.name)
                ours = own is not None and own["key"].startswith(folder.name) and own["suffix"] in suffixes
                if ours and not path.is_symlink() and path.is_dir() == (path.suffix == PARTS):
                    yield path


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
    """The file itself, or those of the parts of a run that a store gives a name to."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if _PART.fullmatch(file.name) and not file.is_symlink())


def _measures(files: list[Path]) -> tuple[int, float]:
    """Bytes of all, and when the last one was written; files may go meanwhile."""
    stats = []
    for file in files:
        with suppress(FileNotFoundError):
            stats.append(file.stat())
    return sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)


def _age(path: Path) -> float:
    return max(0.0, time.time() - _measures(_files(path) or [path])[1]) / DAY_S


def _facts(path: Path, key: str) -> dict[str, Any] | None:
    try:
        return read_facts(path, key)
    except (OSError, *DAMAGE):
        return None
