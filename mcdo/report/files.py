"""The only writers of result files: whole or not at all, strict JSON, arrays without pickles.

Where the folder of reports fails after the measurement, they write elsewhere and say so.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import platform
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import SoftFileLock, Timeout
from numpy.typing import ArrayLike, NDArray

from mcdo import schema
from mcdo.errors import McdoError, UnwrittenWarning
from mcdo.names import file_name
from mcdo.store.locks import acquired, file_lock, free

_SOFT_LOCK_S = 10.0


class UnwrittenReportWarning(UnwrittenWarning):
    """A report is not where it was asked for; the warning names where it is."""


def check_writable(folder: Path) -> None:
    """Raise McdoError unless reports can be written here: to be asked before a measurement is paid for."""
    _check_folder(folder, "reports cannot be written", "Name another folder with --reports")


def _check_folder(folder: Path, what: str, remedy: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".", suffix=".part"):
            pass
    except OSError as error:
        raise McdoError(f"{what}: {error}. {remedy}") from error


def check_file(path: Path) -> None:
    """Raise McdoError unless a file of this name can be written: to be asked before a measurement is paid for."""
    if path.is_dir():
        raise McdoError(f"{path} is a folder; name a file in it")
    _check_folder(path.absolute().parent, f"{path} cannot be written", "Name another file")


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Have ``write`` make a file, moved to ``path`` when it is whole; returns where the file is.

    Numbers that were measured outlive a folder that fails meanwhile: the file then goes to a temporary folder, and an
    UnwrittenReportWarning names it.

    Args:
        path: the file; its folders are made.
        write: writes to the path that it is given, which ends as ``path`` does.

    Raises:
        McdoError: if it can be written in neither place.

    """
    try:
        return _whole(path, write)
    except Exception as raised:
        error = _of_the_system(raised)
        if error is None:
            raise
        instead = _fallback().joinpath(*[part for part in path.parts[-4:] if part not in (path.anchor, "..")])
        try:
            _whole(instead, write)
        except OSError as second:
            raise McdoError(f"{path} cannot be written: {error}; nor can {instead}: {second}") from error
        warnings.warn(f"{path} cannot be written: {error}. It is {instead}", UnwrittenReportWarning, stacklevel=3)
        return instead


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The OSError that an error is, or that stands behind it: on a full disk matplotlib's PDF ends in another."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path


@cache
def _fallback() -> Path:
    return Path(tempfile.mkdtemp(prefix="mcdo-reports-"))


def write_text(path: Path, text: str) -> Path:
    """Write text as UTF-8; as :func:`written`."""
    return written(path, lambda part: part.write_bytes(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, value: Any) -> Path:
    """Write JSON, in which NaN and infinity are refused; as :func:`written`."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_npz(path: Path, **arrays: ArrayLike) -> Path:
    """Write arrays without pickles (text becomes fixed-width unicode); as :func:`written`."""
    plain = {name: np.asarray(value) for name, value in arrays.items()}
    if any(array.dtype == object for array in plain.values()):
        raise TypeError(f"{path.name}: an object array would be pickled")
    return written(path, lambda part: np.savez_compressed(part, **plain))  # type: ignore[arg-type]


def add_to_json(path: Path, session: str, section: str, key: str, value: Any) -> Path:
    """Put ``value`` under ``section``/``key`` of a summary that several workers fill; as :func:`written`.

    What an earlier session left there is dropped, so a summary never mixes two runs. What one wrote that still runs is
    left: ``others`` names it by section and key.
    """
    alive = _running(session, path.parent.absolute())
    with _alone(path):
        summary = _summary(path)
        before, others = summary.pop("session", None), summary.pop("others", {})
        sessions: dict[tuple[str, str], str] = {}
        for part, values in summary.items():
            for name in values:
                sessions[part, name] = others.get(part, {}).get(name, before)
        sessions[section, key] = session
        summary.setdefault(section, {})[key] = value
        kept: dict[str, Any] = {"session": session}
        for (part, name), of in sessions.items():
            if of == session or alive(of):
                kept.setdefault(part, {})[name] = summary[part][name]
                if of != session:
                    kept.setdefault("others", {}).setdefault(part, {})[name] = of
        return write_json(path, kept)


class _Running:
    """Holds a lock that says that a session still runs, for as long as this process lives."""

    def __init__(self, session: str, folder: Path) -> None:
        self._folder = folder
        self._mine = f".{file_name(platform.node())}-{os.getpid()}.running"
        self._lock = file_lock(folder / f".{file_name(session)}{self._mine}")
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            acquired(self._lock, timeout=0)
        atexit.register(self._end)

    def __call__(self, session: str | None) -> bool:
        """Whether another process still runs a session; what a killed one left is removed."""
        found = False
        for path in self._folder.glob(f".{file_name(str(session))}.*.running"):
            if path.name.endswith(self._mine):  # an earlier session of this process
                continue
            lock = free(path)
            if lock is None:
                found = True
            else:
                path.unlink(missing_ok=True)
                lock.release()
        return found

    def _end(self) -> None:
        with suppress(OSError):
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in ``path``.

    Raises:
        McdoError: if it cannot be read or is none; the message ends in ``remedy``.

    """
    value: dict[str, Any] = schema.read_json(path, dict[str, Any], remedy, limit=schema.LIST_LIMIT)
    return value


def read_npz(path: Path, remedy: str) -> dict[str, NDArray[Any]]:
    """The arrays that :func:`write_npz` wrote.

    Raises:
        McdoError: for what is none, would have to be unpickled, or claims more numbers than it holds, by the name of
            the array; the message ends in ``remedy``.

    """
    schema.check_regular(path, remedy)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > schema.LIST_LIMIT:
                raise ValueError(f"it unpacks to more than {schema.LIST_LIMIT} bytes")
            names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
            if len(set(names)) < len(names):
                raise ValueError("it holds several arrays of one name")
            for member in archive.infolist():
                with archive.open(member) as array:
                    _check_header(array, member)
        with np.load(path, allow_pickle=False) as held:
            return {key: held[key] for key in held.files}
    except Exception as error:  # damaged archives raise almost any type
        raise McdoError(f"{path} cannot be read ({error}); {remedy}") from error


def _check_header(array: IO[bytes], member: zipfile.ZipInfo) -> None:
    version = np.lib.format.read_magic(array)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(array)
    if dtype.hasobject or not dtype.itemsize or math.prod(shape) * dtype.itemsize != member.file_size - array.tell():
        raise ValueError(f"{member.filename} is no array of {shape} {dtype}, as its head says")


def _summary(path: Path) -> dict[str, Any]:
    """What is there and is a summary: a session, and values by key in each section."""
    try:
        found = read_json(path, "")
    except McdoError:  # not there yet, or no summary of ours
        return {}
    return {name: held for name, held in found.items() if isinstance(held, dict) or name == "session"}


_running = cache(_Running)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process changes the file inside; on a file system that has no locks, by a file in place of one."""
    lock = file_lock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not acquired(lock):
            lock = SoftFileLock(path.with_name(f".{path.name}.softlock"), timeout=_SOFT_LOCK_S)
            with suppress(Timeout):  # left by a process that was killed
                lock.acquire()
    except OSError:  # the folder cannot be written: the write itself will say so
        pass
    try:
        yield
    finally:
        lock.release()
