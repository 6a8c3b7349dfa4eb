"""One result, one safetensors file: written whole or not at all, and never read back other than it was written."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from mcdo.names import utf8_path

Arrays = Mapping[str, NDArray[Any]]

DAMAGE = (safetensors.SafetensorError, KeyError, TypeError, ValueError, EOFError)
"""What reading a damaged file raises."""

UNWRITTEN = ".part"
"""Suffix of a file that is being written."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write arrays and facts under a temporary name, flush and rename. Raises OSError."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    stated = canonical_json(facts)
    data = save(whole, metadata={"checksum": checksum(whole, stated), "facts": stated})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}.", suffix=UNWRITTEN, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts. Raises one of DAMAGE if they are not what was written, or OSError."""
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    if metadata["checksum"] != checksum(arrays, metadata["facts"]):
        raise ValueError("its checksum is wrong")
    return arrays, json.loads(metadata["facts"])


def read_facts(path: Path) -> dict[str, Any]:
    """Facts alone, from the file's head and unverified. Raises as :func:`read` does."""
    with _opened(path) as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
    return facts


def _opened(path: Path) -> Any:
    return safetensors.safe_open(utf8_path(path.parent) / path.name, framework="numpy")


def checksum(arrays: Arrays, facts: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the arrays, and over the facts."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
