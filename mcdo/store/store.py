"""The folder of results: looking one up, keeping one, and the parts of one that is under way."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout
from numpy.typing import NDArray

from mcdo.errors import McdoError, UnwrittenWarning
from mcdo.store.files import DAMAGE, UNWRITTEN, Arrays, canonical_json, checksum, read, read_facts, write
from mcdo.store.locks import acquired, file_lock

RESULT, PARTS, LOCK, ASIDE = ".safetensors", ".parts", ".lock", ".damaged"
_HALF = 32
_ROOM = 2**16


class StoreWarning(UnwrittenWarning):
    """Something is wrong with the store, and the measurement goes on."""


class DamagedResultWarning(StoreWarning):
    """A stored result was damaged and has been set aside."""


class UnsavedResultWarning(StoreWarning):
    """Something that was measured could not be kept."""


class Store:
    """A folder of measurements."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @staticmethod
    def key(family: Mapping[str, Any], member: Mapping[str, Any] | None = None) -> str:
        """The name of a measurement, 64 hexadecimal digits: one half from each SHA-256 of canonical JSON.

        Args:
            family: what results must have in common for one to be part of another, such as weights and seed.
            member: what else decides the numbers, such as how many images.

        """
        halves = (hashlib.sha256(canonical_json(part or {}).encode()).hexdigest() for part in (family, member))
        return "".join(half[:_HALF] for half in halves)

    def path(self, key: str) -> Path:
        """Where the measurement lies."""
        return self.root / key[:2] / f"{key}{RESULT}"

    def get(self, key: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Arrays and facts of a measurement, or None if it is not here (or was damaged: then it is set aside).

        Raises:
            McdoError: if the file is there and may not be read.

        """
        return _get(self.path(key))

    def family(self, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and facts of the other results of the key's family. Facts are unverified until :meth:`get`."""
        for path in sorted(self.path(key).parent.glob(f"{key[:_HALF]}*{RESULT}")):
            with suppress(OSError, *DAMAGE):
                if path.stem != key:
                    yield path.stem, read_facts(path)

    def check_writable(self) -> None:
        """Raise McdoError unless a file can be written here: to be asked before a measurement is paid for."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root, prefix=".", suffix=UNWRITTEN) as file:
                file.write(bytes(_ROOM))
        except OSError as error:
            raise _unwritable(self.root, error) from error

    def put(self, key: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Keep a measurement.

        Args:
            key: from :meth:`key`.
            arrays: the numbers.
            facts: where they come from, for :meth:`get`. For people, ``label`` says encoder, images and protocol;
                ``provenance`` holds the ``versions`` that the key depends on.

        Raises:
            McdoError: if the folder cannot be written.

        """
        try:
            write(self.path(key), arrays, facts)
        except OSError as error:
            raise _unwritable(self.root, error) from error

    def unfinished(self, key: str) -> Unfinished:
        """The parts of a measurement that is not whole yet."""
        return Unfinished(self.path(key))


class Unfinished:
    """A measurement that is under way: its parts, and the lock that lets one process at a time work on it.

    The lock is the kernel's, so that of a killed process is free at once.
    """

    def __init__(self, result: Path) -> None:
        self._result, self._folder = result, result.with_suffix(PARTS)
        self._lock = file_lock(result.with_suffix(LOCK))

    @contextmanager
    def held(self, notify: Callable[[str], None]) -> Iterator[None]:
        """Wait until no other process works on this measurement, and keep others away meanwhile.

        Args:
            notify: is told whom this process waits for.

        Raises:
            McdoError: if the folder cannot be written.

        """
        try:
            self._acquire(notify)
        except OSError as error:
            raise _unwritable(self._result.parent, error) from error
        try:
            yield
        finally:
            with suppress(OSError):  # a process that waits for a file that is gone opens the next one
                os.unlink(self._lock.lock_file)
            self._lock.release()

    def _acquire(self, notify: Callable[[str], None]) -> None:
        path = Path(self._lock.lock_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not acquired(self._lock, timeout=0):  # both measure, and the results are equal
                return
        except Timeout:
            notify(f"{path.stem[:8]} is being measured by {_text(path) or 'another process'}; waiting for it")
            self._lock.acquire(poll_interval=0.1)
        with suppress(OSError):
            said = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M')}"
            path.write_text(said, encoding="utf-8", errors="replace")

    def parts(self) -> Iterator[dict[str, NDArray[Any]]]:
        """The parts that are here; damaged ones are set aside."""
        for path in sorted(self._folder.glob(f"*{RESULT}")):
            found = _get(path)
            if found is not None:
                yield found[0]

    def add(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Keep a part. Raises McdoError if it cannot be written."""
        name = checksum(arrays, canonical_json(facts))[:_HALF]
        try:
            write(self._folder / f"{name}{RESULT}", arrays, facts)
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def remove(self) -> None:
        """Forget the parts, and what a killed process left of the whole: the measurement is kept, or not wanted."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for left in self._result.parent.glob(f".{self._result.stem}.*{UNWRITTEN}"):
            left.unlink(missing_ok=True)


def _get(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        _set_aside(path, error)
        return None
    except OSError as error:
        raise McdoError(f"{path} cannot be read: {error}. Name another folder for the store") from error


def _set_aside(path: Path, damage: Exception) -> None:
    aside = path.with_suffix(ASIDE)
    try:
        os.replace(path, aside)
        done = f"set aside as {aside.name}"
    except OSError as error:  # another process was faster, or the store is read-only
        done = f"not set aside ({error.strerror})"
    warnings.warn(f"{path} is damaged ({damage}); {done}; measuring again", DamagedResultWarning, stacklevel=4)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _unwritable(folder: Path, error: OSError) -> McdoError:
    return McdoError(f"the store {folder} cannot be written: {error}. Name another folder for the store")


def open_store(store: Store | Path | str | None) -> Store | None:
    """A store from whatever the caller has."""
    return store if store is None or isinstance(store, Store) else Store(store)
