"""The folder of results: looking one up, keeping one, and the parts of one that is under way."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mcdo import arguments
from mcdo.errors import McdoError, UnwrittenWarning
from mcdo.names import file_name
from mcdo.store.files import DAMAGE, UNWRITTEN, Arrays, canonical_json, checksum, digest, read, read_facts, write
from mcdo.store.leases import POLL_S, Leases, Owner, held, owner

RESULT, PARTS, LOCK, ASIDE = ".safetensors", ".parts", ".lock", ".damaged"
MARKER = "mcdo-store"
"""Name of the file that makes a folder a store."""
ENCODERS, USES = "encoders", "uses"
"""Folders of a store: what is known of encoders, and which experiments want what."""
PARTIAL = "partial-"
"""What begins the name of a file that holds some passes of a block."""
BLOCK = "block-"
"""What begins the name of the lease of a block."""
_HALF = 32
_ROOM = 2**16
_LOOKS_PER_S = 50
"""At most so many leases of others are looked at in a second: a network file system serves all."""


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


class NotWholeError(McdoError):
    """A measurement lacks what other processes measure, and this one does not wait for them."""


class FinishedElsewhereError(Exception):
    """A measurement has become whole while this process worked on it."""


@dataclass(frozen=True)
class Part:
    """What a process does of a measurement that several share.

    Attributes:
        owns: whether it measures the block that begins with this image; None for all that nobody else is at.
        waits: whether it waits for what others measure.

    """

    owns: Callable[[int], bool] | None = None
    waits: bool = True


class Store:
    """A folder of measurements.

    Args:
        root: the folder.
        part: what this process does of those that it wants and that are not whole.

    Attributes:
        asked: the key that was looked up, or kept, last.

    Raises:
        McdoError: for a root that is no path.

    """

    def __init__(self, root: Path | str, part: Part = Part()) -> None:
        self.root, self.part = arguments.path(root), part
        self.asked = ""

    @staticmethod
    def key(family: Mapping[str, Any], member: Mapping[str, Any] | None = None) -> str:
        """The name of a measurement, 64 hexadecimal digits: one half from each SHA-256 of canonical JSON.

        Args:
            family: what results must have in common for one to be part of another, such as weights and seed.
            member: what else decides the numbers, such as how many images.

        """
        halves = (digest(part or {}) for part in (family, member))
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
        self.asked = key
        return _get(self.path(key), key, fits)

    def used(self, experiment: str, key: str) -> None:
        """Note that an experiment wants a measurement; what cannot be noted is not."""
        place = self.root / USES / file_name(experiment) / key
        with suppress(OSError):
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()

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
        self.asked = key
        try:
            self._mark()
            write(self.path(key), key, arrays, facts)
        except OSError as error:
            raise _unwritable(self.root, error) from error

    def unfinished(self, key: str) -> Unfinished:
        """The parts of a measurement that is not whole yet."""
        return Unfinished(self.path(key), self.part)


class Unfinished:
    """A measurement that is under way: its parts, and the leases that keep processes from doing the same twice."""

    def __init__(self, result: Path, part: Part) -> None:
        self._result, self._folder, self._part = result, result.with_suffix(PARTS), part
        self._known: set[str] = set()
        self._leases: Leases | None = None
        self._tell: Callable[[str], None] = lambda line: None
        self._told = False

    @contextmanager
    def held(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Wait until no other process works on this measurement, and keep others away meanwhile.

        Args:
            tell: is told whom this process waits for, from whom it takes over, and where there are no leases.

        Raises:
            NotWholeError: if another does, and this process does not wait.

        """
        with held(self._whole_lock, tell, waits=self._part.waits) as mine:
            if not mine:
                raise NotWholeError(f"{self._result.stem[:8]} is being measured by {owner(self._whole_lock)}")
            yield

    @property
    def _whole_lock(self) -> Path:
        return self._result.with_suffix(LOCK)

    @contextmanager
    def shared(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Work on this measurement beside other processes, block by block: see :meth:`claim`."""
        self._tell = tell
        with Leases(tell) as leases:
            self._leases = leases
            try:
                yield
            finally:
                self._leases = None

    def claim(self, block: int) -> bool:
        """Whether the block that begins with this image is this process' to measure, from now on.

        What others have finished has to be looked at after this: they give a block back when its part is kept.
        """
        if self._leases is None:
            return True
        if self._part.owns is not None and not self._part.owns(block):
            return False
        return self._leases.take(self._lease(block))

    def release(self, block: int) -> None:
        """Give a claim back: the block is in a part that is kept, or not going to be measured."""
        if self._leases is not None:
            self._leases.drop(self._lease(block))

    def _lease(self, block: int) -> Path:
        return self._folder / f"{BLOCK}{block}{LOCK}"

    def check_unfinished(self) -> None:
        """Raise FinishedElsewhereError if the measurement has become whole."""
        if self._result.exists():
            raise FinishedElsewhereError

    def wait(self, blocks: Sequence[int]) -> None:
        """Wait a moment for what others measure.

        Raises:
            NotWholeError: if this process does not wait, or nobody can tell whether another ever measures them.

        """
        owns = self._part.owns
        if not self._part.waits or (owns is not None and not all(map(owns, blocks))):
            raise NotWholeError(f"{self._result.stem[:8]} lacks {len(blocks)} blocks that others measure")
        if not self._told:
            self._told = True
            whose = next(filter(lambda each: each.pid, map(owner, map(self._lease, blocks))), Owner())
            self._tell(f"{self._result.stem[:8]} is being measured by {whose} as well; waiting for it")
        time.sleep(max(POLL_S, len(blocks) / _LOOKS_PER_S))

    def parts(self, fits: Fits = whatever) -> Iterator[dict[str, NDArray[Any]]]:
        """The parts that this object has not given or kept yet; damaged ones, and those that do not fit, go aside."""
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(RESULT))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(self._folder, error) from error
        for name in names:
            if not name.startswith(PARTIAL) and name not in self._known:
                self._known.add(name)
                found = _get(self._folder / name, self._result.stem, fits)
                if found is not None:
                    yield found[0]

    def kept(self, block: int) -> dict[str, NDArray[Any]] | None:
        """What :meth:`keep` has kept of a block that is not finished."""
        found = _get(self._folder / f"{PARTIAL}{block}{RESULT}", self._result.stem, whatever)
        return None if found is None else found[0]

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
        self._known.add(f"{name}{RESULT}")

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
