"""Images from a local directory of the datasets library: Arrow files as ``save_to_disk`` writes them, or Parquet.

Read with pyarrow alone: no code of a data set runs, nothing is fetched and nothing is copied. A picture must be in the
file; a row that merely names a path is refused. The names of classes come from the features that the library writes
beside the rows. The id is the row's number, in the order of the files' names.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mcdo.errors import McdoError, refused_as
from mcdo.images.class_names import class_names
from mcdo.images.decode import LARGEST_FILE, UnreadableImageError, WholeFiles
from mcdo.images.labels import named
from mcdo.images.listing import Listing
from mcdo.names import from_path, to_path

LABELS = ("label", "labels", "fine_label")
ORIGIN = "origin"


@dataclass(frozen=True)
class Row:
    """A row of a file."""

    file: Path
    at: int


@dataclass(frozen=True, eq=False)
class ArrowSource(WholeFiles):
    """Pictures in a column of Arrow or Parquet files, by id."""

    rows: dict[str, Row]
    column: str

    def signature(self, image_id: str) -> Hashable:
        """Of the file."""
        row = self.rows[image_id]
        stat = row.file.stat()
        return str(row.file), stat.st_ino, stat.st_size, stat.st_mtime_ns, row.at

    def _read(self, image_id: str) -> bytes:
        if image_id not in self.rows:
            raise UnreadableImageError(image_id, "there is no such row any more")
        row = self.rows[image_id]
        with refused_as(f"{row.file} cannot be read"):
            cell = _column(row.file, row.file.stat().st_mtime_ns, self.column)[row.at].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes) or not content:
            raise UnreadableImageError(image_id, "the row holds no picture; one that only names a path is not followed")
        if len(content) > LARGEST_FILE:
            raise UnreadableImageError(image_id, f"{len(content)} bytes, more than the limit of {LARGEST_FILE}")
        return content


def listed(spec: str) -> Listing:
    """What a directory holds, nothing decoded yet; of several splits, one is named: ``hf-dataset:FOLDER@SPLIT``.

    Raises:
        McdoError: for a directory without rows, without a column of pictures, and for labels without names.

    """
    root = _root(spec)
    files = sorted(root.glob("*.arrow")) or sorted(root.glob("*.parquet"))
    if not files:
        raise McdoError(f"{root} holds neither *.arrow nor *.parquet; save the data set there with save_to_disk")
    rows: dict[str, Row] = {}
    labels: list[Any] = []
    origins: list[str] = []
    schema = _schema(files[0])
    features = _features(schema)
    column = _picture_column(root, schema, features)
    label = next((name for name in LABELS if name in schema.names), None)
    wanted = [name for name in (label, ORIGIN) if name is not None and name in schema.names]
    for file in files:
        with refused_as(f"{file} cannot be read"):
            table = _table(file, wanted, column)
        for at in range(table["count"]):
            rows[f"{len(rows):08d}"] = Row(file, at)
        labels += table.get(label, []) if label is not None else []
        origins += map(str, table.get(ORIGIN, []))
    ids = tuple(rows)
    known, names = _labels(root, labels, features.get(label or "", {}), ids)
    return Listing(
        name=f"hf-dataset:{from_path(spec)}",
        where=str(root),
        ids=ids,
        labels=known,
        class_names=names,
        source=ArrowSource(rows, column),
        origins=tuple(origins),
    )


def _root(spec: str) -> Path:
    whole = Path(to_path(spec)).expanduser()
    before, at, split = spec.rpartition("@")
    root = Path(to_path(before)).expanduser() / split if at and not whole.exists() else whole
    if not root.is_dir():
        raise McdoError(f"{root} is no directory; name one that save_to_disk of datasets wrote, or of Parquet")
    splits = sorted(each.name for each in root.iterdir() if each.is_dir() and any(each.glob("*.arrow")))
    if splits and not any(root.glob("*.arrow")):
        if len(splits) > 1:
            raise McdoError(f"{root} has the splits {', '.join(splits)}: name one, hf-dataset:{root}@{splits[-1]}")
        return root / splits[0]
    return root


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise McdoError("hf-dataset: needs pyarrow, which pip install 'mcdo[frames]' brings") from error
    return pyarrow


def _open(file: Path) -> Any:
    """A table that is mapped, not read; of Parquet the open file."""
    pyarrow = _pyarrow()
    with refused_as(f"{file} cannot be read"):
        if file.suffix == ".parquet":
            return pyarrow.parquet.ParquetFile(file, memory_map=True)
        mapped = pyarrow.memory_map(str(file))
        try:
            return pyarrow.ipc.open_stream(mapped).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(mapped).read_all()


def _schema(file: Path) -> Any:
    opened = _open(file)
    return opened.schema_arrow if file.suffix == ".parquet" else opened.schema


def _table(file: Path, columns: Sequence[str], picture: str) -> dict[str, Any]:
    opened = _open(file)
    if picture not in (opened.schema_arrow if file.suffix == ".parquet" else opened.schema).names:
        raise McdoError(f"{file} has no column {picture}, as the others have")
    read = opened.read(columns=list(columns)) if file.suffix == ".parquet" else opened.select(list(columns))
    count = opened.metadata.num_rows if file.suffix == ".parquet" else opened.num_rows
    return {"count": count, **{name: read.column(name).to_pylist() for name in columns}}


@lru_cache(maxsize=64)
def _column(file: Path, changed: int, name: str) -> Any:
    """A column of pictures, mapped; of Parquet it is read, a file at a time."""
    opened = _open(file)
    return opened.read(columns=[name]).column(name) if file.suffix == ".parquet" else opened.column(name)


def _features(schema: Any) -> dict[str, Any]:
    """What the library says of columns, {} where nothing."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: each for name, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}


def _picture_column(root: Path, schema: Any, features: dict[str, Any]) -> str:
    said = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    shaped = [name for name in schema.names if {"bytes", "path"} <= {each.name for each in _fields(schema, name)}]
    found = said or shaped
    if len(found) != 1:
        have = ", ".join(found) or "none"
        raise McdoError(f"{root}: one column must hold pictures; {have} of {', '.join(schema.names)} do")
    return str(found[0])


def _fields(schema: Any, name: str) -> list[Any]:
    kind = schema.field(name).type
    return [kind.field(i) for i in range(kind.num_fields)]


def _labels(root: Path, labels: list[Any], feature: dict[str, Any], ids: Sequence[str]) -> Any:
    if not any(label is not None for label in labels):
        return None, ()
    for label, image_id in zip(labels, ids, strict=True):
        if label is None or (isinstance(label, int) and label < 0):
            raise McdoError(f"{root}: row {image_id} has no label, but others have one; give it, or leave out all")
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return named(str(root), [str(label) for label in labels], [f"row {each}" for each in ids], root)
    outside = next((each for label, each in zip(labels, ids, strict=True) if not 0 <= label < len(names)), None)
    if outside is not None:
        raise McdoError(f"{root}: row {outside} has a label outside the {len(names)} class names")
    return np.array(labels, dtype=np.int64), class_names(root, [str(name) for name in names])
