"""Splits of a data set, by the names of directories and files: training images are no validation images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.names import to_path

T = TypeVar("T")
VALIDATION = ("val", "validation", "valid", "dev")
SPLITS = frozenset({*VALIDATION, "train", "training", "test", "testing"})
"""Names that are no classes, where several stand together or one holds directories itself."""
_SHARD = re.compile(r"(?:.*-)?(\w+?)-\d+-of-\d+(?:-\w+)?")
"""A piece as the datasets library names it: ``train-00000-of-00002``, with the builder before or a digest behind."""


def parted(spec: str, is_there: Callable[[Path], bool] = Path.exists) -> tuple[Path, str | None]:
    """The path in ``PATH@SPLIT`` and the split, or None; a path that ``is_there`` as it stands names no split."""
    whole = arguments.path(to_path(spec))
    before, at, split = spec.rpartition("@")
    return (whole, None) if not at or is_there(whole) else (arguments.path(to_path(before)), split)


def files_of_split(place: Path, files: Sequence[Path], wanted: str | None, spec: str) -> list[Path]:
    """Those of one split, by their names; all, where their names tell of no several.

    Args:
        place: where they lie, for messages.
        files: of all splits.
        wanted: the split that was named, if one was.
        spec: how one is named, before its ``@``.

    Raises:
        McdoError: where there are several and none is named, or none of the name.

    """
    of = {file: _split(file.stem) for file in files}
    return of_split(place, of, wanted, spec, lambda file: f"files of none, such as {file.name}")


def of_split(place: Path, split: Mapping[T, str], wanted: str | None, spec: str, odd: Callable[[T], str]) -> list[T]:
    """As :func:`files_of_split`, of anything by its ``split``; ``odd`` says what is of none."""
    there = sorted(set(split.values()))
    if wanted is not None and wanted not in there:
        raise McdoError(f"{place} has no split {wanted!r}; there are: {', '.join(filter(None, there)) or 'none'}")
    if wanted is None and len(there) > 1:
        raise several(place, there, spec, next((f" and {odd(each)}" for each, name in split.items() if not name), ""))
    return [each for each, name in split.items() if wanted is None or name == wanted]


def several(place: Path, there: Sequence[str], spec: str, told: str = "") -> McdoError:
    """The error where one of several splits must be named; the one that it suggests is the last to be training's.

    Args:
        place: where they are.
        there: their names; "" for what is of none.
        spec: how one is named, before its ``@``.
        told: what else is to be said of them.

    """
    known = [name for name in there if name]
    likely = min(known, key=lambda name: (name not in VALIDATION, name.startswith("train")))
    return McdoError(f"{place} has the splits {', '.join(known)}{told}: name one, {spec}@{likely}")


def _split(stem: str) -> str:
    """What split a file is of; "" for what says nothing of it."""
    piece = _SHARD.fullmatch(stem)
    if piece is not None:
        return piece[1]
    return next((word for word in re.split(r"[^a-z]+", stem.lower()) if word in SPLITS), "")
