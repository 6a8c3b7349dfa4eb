"""One result, one safetensors file: written whole or not at all, and never read back other than it was written.

A file says under its checksum which key it was written for, so that one that lies under another's name is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from mcdo.names import utf8_path

Arrays = Mapping[str, NDArray[Any]]

DAMAGE = (safetensors.SafetensorError, KeyError, TypeError, ValueError, EOFError, RecursionError)
"""What reading a damaged file raises."""

UNWRITTEN = ".part"
"""Suffix of a file that is being written."""

_BEYOND_UMASK = 0o666


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write(path: Path, key: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write arrays and facts of ``key`` under a temporary name, flush and rename. Raises OSError."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    stated = canonical_json(facts)
    data = save(whole, metadata={"key": key, "checksum": checksum(key, whole, stated), "facts": stated})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{UNWRITTEN}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _BEYOND_UMASK), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise


def read(path: Path, key: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts. Raises one of DAMAGE if they are not what was written for ``key``, or OSError."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        _check_key(metadata, key)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["checksum"] != checksum(key, arrays, metadata["facts"]):
        raise ValueError("its checksum is wrong")
    return arrays, _stated(metadata)


def read_facts(path: Path, key: str) -> dict[str, Any]:
    """Facts alone, from the file's head and unverified. Raises as :func:`read` does."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
    _check_key(metadata, key)
    return _stated(metadata)


def _stated(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a file, whoever wrote it: what every reader relies on is of the kind that it relies on."""
    facts: dict[str, Any] = json.loads(metadata["facts"])
    if not isinstance(facts, dict):
        raise ValueError("its facts are no object")
    for name in ("label", "provenance"):
        if not isinstance(facts.get(name, {}), dict):
            raise ValueError(f"its {name} is no object")
    if not isinstance(facts.get("provenance", {}).get("versions", {}), dict):
        raise ValueError("its versions are no object")
    if not all(isinstance(each, str) for each in facts.get("label", {}).values()):
        raise ValueError("its label is no text")
    return facts


def _check_key(metadata: Mapping[str, str], key: str) -> None:
    if "key" not in metadata and "checksum" in metadata:
        raise ValueError("it was written by an earlier version of the store, which nothing reads any more")
    if metadata["key"] != key:
        raise ValueError(f"it holds another measurement, {metadata['key'][:8]}")


def _opened(path: Path) -> Any:
    """Raises OSError with its reason, which the library has none of, and ValueError for what is no file."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a FIFO would wait for a writer
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("it is no file")
    return safetensors.safe_open(utf8_path(path.parent) / path.name, framework="numpy")


def check_shapes(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError or KeyError unless each named array is here with its shape."""
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"its {name} has shape {list(arrays[name].shape)} instead of {list(shape)}")


def checksum(key: str, arrays: Arrays, facts: str) -> str:
    """SHA-256 over the key, names, types, shapes and bytes of the arrays, and the facts."""
    digest = hashlib.sha256(f"{key}\n{facts}\n".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
