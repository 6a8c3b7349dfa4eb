"""Looking a measurement up, and no more: under which key it is, and whether it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.harness import Request, Session
from mcdo.store import Part, Store, Unfinished
from mcdo.store.store import RESULT, Fits, whatever


class _MissingError(Exception):
    """It is not whole."""


class _Looking(Store):
    """A store that says what is asked of it, and has nothing measured."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.keys: list[str] = []

    def get(self, key: str, fits: Fits = whatever) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        self.keys.append(key)
        return super().get(key, fits)

    def check_writable(self) -> None:
        return

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
        raise AssertionError("a look writes nothing")

    def unfinished(self, key: str) -> Unfinished:
        raise _MissingError


@dataclass(frozen=True)
class Found:
    """What the store has of a measurement: its ``key``, and whether it is ``whole`` there or in a larger one."""

    key: str
    whole: bool


def look(session: Session, request: Request[Any]) -> Found:
    """What there is of a planned request; if it is whole, the session knows its value from now on.

    Raises:
        McdoError: as measuring it would before the first pass.

    """
    store = session.store
    assert store is not None
    session.store = looking = _Looking(store.root)
    try:
        session.measure(request)
    except _MissingError:
        return Found(looking.keys[0], whole=False)
    finally:
        session.store = store
    return Found(looking.keys[0] if looking.keys else "", whole=True)


def measured(store: Store, key: str, n: int) -> NDArray[np.bool_]:
    """Bool ``[N]``: which images of an unfinished measurement are kept in parts."""
    done = np.zeros(n, dtype=bool)
    for part in Store(store.root, Part()).unfinished(key).parts():
        columns = part["columns"]
        done[columns[(columns >= 0) & (columns < n)]] = True
    return done


def held(root: Path) -> str:
    """A digest of what a store holds, whole and in parts: another once anything more is kept."""
    digest = hashlib.sha256()
    for path in sorted(root.glob(f"??/**/*{RESULT}")):
        with suppress(FileNotFoundError):  # parts go when their measurement is whole
            digest.update(f"{path} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()
