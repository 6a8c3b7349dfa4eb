"""The store: what was measured is never measured twice.

One safetensors file per measurement, named by a hash of all that decides its numbers. A file is written under a
temporary name, flushed and renamed, so a reader sees a whole file or none; its checksum is verified on reading, and a
damaged file is reported and set aside.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from mcdo.errors import McdoError

Arrays = Mapping[str, NDArray[Any]]


class StoreWarning(UserWarning):
    """Something is wrong with the store, and the measurement goes on."""


class DamagedResultWarning(StoreWarning):
    """A stored result was damaged and has been set aside."""


class UnsavedResultWarning(StoreWarning):
    """A finished measurement could not be kept."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Store:
    """A folder of measurements."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @staticmethod
    def key(identity: Mapping[str, Any]) -> str:
        """The name of a measurement: SHA-256 of the canonical JSON of all that decides its numbers."""
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def path(self, key: str) -> Path:
        """Where the measurement lies."""
        return self.root / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Arrays and facts of a measurement, or None if it is not here (or was damaged: then it is set aside).

        Raises:
            McdoError: if the file is there and may not be read.

        """
        path = self.path(key)
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, EOFError) as error:
            _set_aside(path, error)
            return None
        except OSError as error:
            raise McdoError(f"{path} cannot be read: {error}. Name another folder for the store") from error

    def check_writable(self) -> None:
        """Raise McdoError unless a file can be written here: to be asked before a measurement is paid for."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root, prefix=".", suffix=".part"):
                pass
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> McdoError:
        return McdoError(f"the store {self.root} cannot be written: {error}. Name another folder for the store")

    def put(self, key: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Keep a measurement.

        Raises:
            McdoError: if the folder cannot be written.

        """
        path = self.path(key)
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        stated = canonical_json(facts)
        data = save(whole, metadata={"checksum": _checksum(whole, stated), "facts": stated})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise self._unwritable(error) from error


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    if metadata["checksum"] != _checksum(arrays, metadata["facts"]):
        raise ValueError("its checksum is wrong")
    return arrays, json.loads(metadata["facts"])


def _set_aside(path: Path, damage: Exception) -> None:
    aside = path.with_suffix(".damaged")
    try:
        os.replace(path, aside)
        done = f"set aside as {aside.name}"
    except OSError as error:  # another process was faster, or the store is read-only
        done = f"not set aside ({error.strerror})"
    warnings.warn(f"{path} is damaged ({damage}); {done}; measuring again", DamagedResultWarning, stacklevel=3)


def _checksum(arrays: Arrays, facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def open_store(store: Store | Path | str | None) -> Store | None:
    """A store from whatever the caller has."""
    return store if store is None or isinstance(store, Store) else Store(store)
