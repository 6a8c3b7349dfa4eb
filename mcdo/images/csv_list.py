"""Images from a CSV: a row each, with the columns path and, where wanted, label, origin and split.

Paths are relative to the file's folder unless absolute, and are the ids. ``origin`` names the unit that was sampled (a
patient, a scene); without it, copies of one file have one origin, as in a folder. Where there are several splits, one
is named behind the file: ``csv:FILE.csv@val``.
"""

from __future__ import annotations

from pathlib import Path

from mcdo.errors import McdoError, nearest
from mcdo.images.folder import FolderSource
from mcdo.images.labels import check_columns, named
from mcdo.images.listing import Listing
from mcdo.images.splits import of_split, parted
from mcdo.names import from_path
from mcdo.schema import read_columns

COLUMNS = frozenset({"path", "label", "origin", "split"})


def listed(spec: str) -> Listing:
    """What a CSV holds, nothing decoded yet.

    Raises:
        McdoError: naming the file, the line and the column.

    """
    place, split = parted(spec, Path.is_file)
    columns = read_columns(place, "expected the columns path, label, origin, split")
    if "path" not in columns:
        raise McdoError(f"{place}, line 1: the column path is missing; the nearest there: {nearest('path', columns)}")
    check_columns(f"{place}, line 1", columns.keys() - COLUMNS, COLUMNS - columns.keys())
    rows = list(columns["path"])
    if split is not None or "split" in columns:
        splits = {at: cell.strip() for at, cell in columns.get("split", {}).items()}
        rows = of_split(place, splits, split, f"csv:{place}", lambda at: f"rows of none, such as line {at}")
    paths = {at: columns["path"][at].strip() for at in rows}
    first: dict[str, int] = {}
    for at, path in paths.items():
        if not path:
            raise McdoError(f"{place}, line {at}: the path is empty")
        if first.setdefault(path, at) != at:
            raise McdoError(f"{place}, line {at}: {path} stands in line {first[path]} already")
    rows = sorted(rows, key=paths.__getitem__)
    labels, names = None, tuple[str, ...]()
    given = {at: columns["label"][at].strip() for at in rows} if "label" in columns else {}
    if any(given.values()):
        labels, names = named(str(place), [given[at] for at in rows], [f"line {at}" for at in rows], place.parent)
    return Listing(
        name=f"csv:{from_path(spec)}",
        where=str(place),
        ids=tuple(paths[at] for at in rows),
        labels=labels,
        class_names=names,
        source=FolderSource(place.resolve().parent),
        origins=_origins(place, columns.get("origin", {}), rows),
        lines=first,
    )


def source(spec: str) -> FolderSource:
    """Where the images lie."""
    return FolderSource(parted(spec, Path.is_file)[0].resolve().parent)


def _origins(place: Path, cells: dict[int, str], rows: list[int]) -> tuple[str, ...]:
    if not any(cells.get(at, "").strip() for at in rows):
        return ()
    for at in rows:
        if not cells[at].strip():
            raise McdoError(f"{place}, line {at}: there is no origin, but other images have one; give it, or none")
    return tuple(cells[at].strip() for at in rows)
