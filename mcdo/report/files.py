"""The only writers of result files: whole or not at all, strict JSON, arrays without pickles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike

from mcdo.errors import McdoError


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as JSON to ``path``, whose folders are made; NaN and infinity are refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in ``path``.

    Raises:
        McdoError: if it cannot be read; the message ends in ``remedy``.

    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise McdoError(f"{path} cannot be read ({error}); {remedy}") from error
    return value


def write_npz(path: Path, **arrays: ArrayLike) -> Path:
    """Write ``arrays`` compressed to ``path``; text becomes fixed-width unicode, and objects are refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    plain = {name: np.asarray(value) for name, value in arrays.items()}
    if any(array.dtype == object for array in plain.values()):
        raise TypeError(f"{path.name}: an object array would be pickled")
    np.savez_compressed(part, **plain)  # type: ignore[arg-type]
    part.replace(path)
    return path


def add_to_json(path: Path, session: str, section: str, key: str, value: Any) -> Path:
    """Put ``value`` under ``section``/``key`` of a summary that several workers fill.

    What another session left there is dropped first, so a summary never mixes two runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if summary.get("session") != session:
            summary = {"session": session}
        summary.setdefault(section, {})[key] = value
        return write_json(path, summary)
