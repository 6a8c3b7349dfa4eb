"""The folder of results: looking one up, keeping one, and the parts of one that is under way."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mcdo.errors import McdoError, UnwrittenWarning
from mcdo.store.files import DAMAGE, UNWRITTEN, Arrays, canonical_json, checksum, read, read_facts, write
from mcdo.store.locks import held

RESULT, PARTS, LOCK, ASIDE = ".safetensors", ".parts", ".lock", ".damaged"
MARKER = "mcdo-store"
"""Name of the file that makes a folder a store."""
PARTIAL = "partial-"
"""What begins the name of a file that holds some passes of a block."""
_HALF = 32
_ROOM = 2**16


Fits = Callable[[Arrays, Mapping[str, Any]], object]
"""Raises ValueError or KeyError if arrays and facts are not what was asked for."""


def whatever(arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Fits anything."""


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

    def get(self, key: str, fits: Fits = whatever) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Arrays and facts of a measurement, or None if it is not here (or was damaged: then it is set aside).

        Args:
            key: from :meth:`key`.
            fits: is given arrays and facts, and raises ValueError or KeyError if they are not what the key promises.

        Raises:
            McdoError: if the file is there and may not be read.

        """
        return _get(self.path(key), key, fits)

    def family(self, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and facts of the other results of the key's family. Facts are unverified until :meth:`get`."""
        for path in sorted(self.path(key).parent.glob(f"{key[:_HALF]}*{RESULT}")):
            with suppress(FileNotFoundError, *DAMAGE):
                try:
                    if path.stem != key:
                        yield path.stem, read_facts(path, path.stem)
                except PermissionError as error:
                    raise _unreadable(path, error) from error

    def check_writable(self) -> None:
        """Raise McdoError unless a file can be written here: to be asked before a measurement is paid for."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root, prefix=".", suffix=UNWRITTEN) as file:
                file.write(bytes(_ROOM))
            self._mark()
        except OSError as error:
            raise _unwritable(self.root, error) from error

    def _mark(self) -> None:
        """Say that this folder is a store: nothing is removed from one that is not."""
        marker = self.root / MARKER
        if not marker.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            marker.write_text("Results that mcdo measured: see mcdo store --help\n", encoding="utf-8")

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
            self._mark()
            write(self.path(key), key, arrays, facts)
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

    @contextmanager
    def held(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Wait until no other process works on this measurement, and keep others away meanwhile.

        Args:
            tell: is told whom this process waits for, and where there are no locks.

        Raises:
            McdoError: if the folder cannot be written.

        """
        with ExitStack() as stack:
            try:
                self._result.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self._result.with_suffix(LOCK), tell))
            except OSError as error:
                raise _unwritable(self._result.parent, error) from error
            yield

    def parts(self, fits: Fits = whatever) -> Iterator[dict[str, NDArray[Any]]]:
        """The parts that are here; damaged ones, and those that do not fit, are set aside."""
        yield from self._read(fits, partial=False)

    def partial(self, fits: Fits = whatever) -> Iterator[dict[str, NDArray[Any]]]:
        """What :meth:`keep` has kept of blocks that are not finished."""
        yield from self._read(fits, partial=True)

    def _read(self, fits: Fits, *, partial: bool) -> Iterator[dict[str, NDArray[Any]]]:
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(RESULT))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(self._folder, error) from error
        for name in names:
            if name.startswith(PARTIAL) is partial:
                found = _get(self._folder / name, self._result.stem, fits)
                if found is not None:
                    yield found[0]

    def add(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Keep a part. Raises McdoError if it cannot be written."""
        self._write(checksum(self._result.stem, arrays, canonical_json(facts))[:_HALF], arrays, facts)

    def keep(self, block: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Keep what there is of a block, in place of what was kept of it before. Raises McdoError as :meth:`add`."""
        self._write(f"{PARTIAL}{block}", arrays, facts)

    def drop(self, block: int) -> None:
        """Forget what was kept of a block: it is finished, and part of what :meth:`add` was given."""
        with suppress(OSError):
            (self._folder / f"{PARTIAL}{block}{RESULT}").unlink(missing_ok=True)

    def _write(self, name: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        try:
            write(self._folder / f"{name}{RESULT}", self._result.stem, arrays, facts)
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def remove(self) -> None:
        """Forget the parts, and what a killed process left of the whole: the measurement is kept, or not wanted."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for left in self._result.parent.glob(f".{self._result.stem}.*{UNWRITTEN}"):
            left.unlink(missing_ok=True)


def _get(path: Path, key: str, fits: Fits) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    try:
        found = read(path, key)
        fits(*found)
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (*DAMAGE, McdoError) as error:
        _set_aside(path, error)
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> McdoError:
    return McdoError(f"{path} cannot be read: {error}. Name another folder for the store")


def _set_aside(path: Path, damage: Exception) -> None:
    aside = path.with_suffix(ASIDE)
    try:
        os.replace(path, aside)
        done = f"set aside as {aside.name}"
    except OSError as error:  # another process was faster, or the store is read-only
        done = f"not set aside ({error.strerror})"
    warnings.warn(f"{path} is damaged ({damage}); {done}; measuring again", DamagedResultWarning, stacklevel=4)


def _unwritable(folder: Path, error: OSError) -> McdoError:
    return McdoError(f"the store {folder} cannot be written: {error}. Name another folder for the store")


def open_store(store: Store | Path | str | None) -> Store | None:
    """A store from whatever the caller has."""
    return store if store is None or isinstance(store, Store) else Store(store)
