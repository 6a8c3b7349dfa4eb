"""Images from a local directory of the datasets library: Arrow files as ``save_to_disk`` writes them, or Parquet.

Read with pyarrow alone: no code of a data set runs, nothing is fetched and nothing is copied. A picture must be in the
file; a row that merely names a path is refused. The names of classes come from the features that the library writes
beside the rows. The id is the row's number, in the order of the files' names. Of files that are named after several
splits, those of one are read.
"""

from __future__ import annotations

import json
import reprlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mcdo.errors import McdoError, refused_as
from mcdo.images.arrow_message import packed
from mcdo.images.class_names import class_names
from mcdo.images.decode import LARGEST_FILE, UnreadableImageError, WholeFiles
from mcdo.images.labels import check_columns, named
from mcdo.images.listing import Listing
from mcdo.images.splits import files_of_split, parted, several
from mcdo.names import from_path
from mcdo.schema import LIST_LIMIT, MOST_ROWS, OpenRecord, check_regular, read_json

LABELS = ("label", "labels", "fine_label")
ORIGIN = "origin"
_MAGIC = b"ARROW1\0\0"
_OPEN = 4
"""Pieces that are kept open: Arrow files are mapped, of Parquet a group of rows is read."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file: the piece of it, and the place therein."""

    file: Path
    piece: int
    at: int


@dataclass(frozen=True, eq=False)
class ArrowSource(WholeFiles):
    """Pictures in a column of Arrow or Parquet files, by id."""

    rows: dict[str, Row]
    column: str
    _open: OrderedDict[tuple[Any, ...], Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def signature(self, image_id: str) -> Hashable:
        """Of the file."""
        row = self.rows[image_id]
        stat = row.file.stat()
        return str(row.file), stat.st_ino, stat.st_size, stat.st_mtime_ns, row.piece, row.at

    def _read(self, image_id: str) -> bytes:
        if image_id not in self.rows:
            raise UnreadableImageError(image_id, "there is no such row any more")
        row = self.rows[image_id]
        with refused_as(f"{row.file} cannot be read"):
            cell = self._piece(row)[row.at].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes) or not content:
            raise UnreadableImageError(
                self._named(image_id), "the row holds no picture; one that only names a path is not followed"
            )
        if len(content) > LARGEST_FILE:
            raise UnreadableImageError(
                self._named(image_id), f"{len(content)} bytes, more than the limit of {LARGEST_FILE}"
            )
        return content

    def _named(self, image_id: str) -> str:
        return f"{self.rows[image_id].file}, row {image_id}"

    def _piece(self, row: Row) -> Any:
        """The pictures of a piece, opened once for all threads."""
        key = (row.file, row.file.stat().st_mtime_ns, row.piece)
        with self._lock:
            if key not in self._open:
                while len(self._open) >= _OPEN:
                    self._open.popitem(last=False)
                self._open[key] = _pictures(row.file, row.piece, self.column)
            self._open.move_to_end(key)
            return self._open[key]


def listed(spec: str) -> Listing:
    """What a directory holds, nothing decoded yet; of several splits, one is named: ``hf-dataset:FOLDER@SPLIT``.

    Raises:
        McdoError: for a directory without rows, without a column of pictures, and for labels without names.

    """
    root, split = _root(spec)
    files = files_of_split(root, _files(root), split, f"hf-dataset:{root}")
    rows: dict[str, Row] = {}
    labels: list[Any] = []
    origins: list[Any] = []
    with refused_as(f"{files[0]} cannot be read"):
        schema = _schema(files[0])
        features = _features(schema)
        column = _picture_column(root, schema, features)
    label = next((name for name in LABELS if name in schema.names), None)
    lacking = [name for name in (LABELS[0], ORIGIN) if name not in (label or LABELS[0], *schema.names)]
    check_columns(files[0], schema.names, lacking)
    wanted = [name for name in (label, ORIGIN) if name is not None and name in schema.names]
    for file in files:
        with refused_as(f"{file} cannot be read"):
            pieces, table = _table(file, wanted, column, MOST_ROWS - len(rows))
            said = features if file is files[0] else _features(_schema(file))
        if label is not None and said.get(label) != features.get(label):
            raise McdoError(f"{file} names the classes of {label} otherwise than {files[0]}; read each on its own")
        for piece, count in enumerate(pieces):
            for at in range(count):
                rows[f"{len(rows):08d}"] = Row(file, piece, at)
        labels += table.get(label, []) if label is not None else []
        origins += table.get(ORIGIN, [])
    ids = tuple(rows)
    _check_cells(root, origins, "origin", ids)
    known, names = _labels(root, labels, features.get(label or "", {}), ids)
    return Listing(
        name=f"hf-dataset:{from_path(spec)}",
        where=str(root),
        ids=ids,
        labels=known,
        class_names=names,
        source=ArrowSource(rows, column),
        origins=tuple(map(str, origins)),
    )


def _root(spec: str) -> tuple[Path, str | None]:
    """The directory of the files, and the split that is named behind it where it is no directory itself."""
    root, split = parted(spec)
    if split is not None and (root / split).is_dir():
        root, split = root / split, None
    if not root.is_dir():
        raise McdoError(f"{root} is no directory; name one that save_to_disk of datasets wrote, or of Parquet")
    splits = sorted(each.name for each in root.iterdir() if each.is_dir() and _holds_rows(each))
    if splits and not _holds_rows(root):
        if len(splits) > 1:
            raise several(root, splits, f"hf-dataset:{root}")
        return root / splits[0], split
    return root, split


def _holds_rows(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.arrow", "*.parquet"))


class _State(OpenRecord, frozen=True):
    """``state.json``, which save_to_disk writes."""

    data_files: list[dict[str, Any]] = msgspec.field(name="_data_files")
    indices: Any = msgspec.field(name="_indices_data_files", default=None)


def _files(root: Path) -> list[Path]:
    """The files of rows, in the order of their names.

    The library keeps what it computes beside them (``cache-*.arrow``): other rows, or these again.
    """
    files = sorted(each for each in root.glob("*.arrow") if not each.name.startswith("cache-"))
    state = root / "state.json"
    if state.is_file():
        held: _State = read_json(state, _State)
        if held.indices:
            raise McdoError(f"{state}: the data set is a selection of its rows; save it anew, after flatten_indices()")
        listed_there = {str(each.get("filename")) for each in held.data_files}
        lacking = sorted(listed_there - {each.name for each in files})
        if lacking:
            raise McdoError(f"{state} names {lacking[0]}, which is not beside it; copy the whole directory")
        files = [each for each in files if each.name in listed_there]
    files = files or sorted(root.glob("*.parquet"))
    if not files:
        raise McdoError(f"{root} holds neither *.arrow nor *.parquet; save the data set there with save_to_disk")
    return files


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise McdoError("hf-dataset: needs pyarrow, which pip install 'mcdo[frames]' brings") from error
    return pyarrow


def _open(file: Path, once: Sequence[str] = ()) -> Any:
    """A table that is mapped, not read; of Parquet the open file."""
    pyarrow = _pyarrow()
    check_regular(file)
    if file.suffix == ".parquet":
        return pyarrow.parquet.ParquetFile(file, memory_map=True, read_dictionary=list(once))
    mapped = pyarrow.memory_map(str(file))
    if mapped.read(len(_MAGIC)) != _MAGIC:
        mapped.seek(0)  # else the stream begins behind it, and is followed by an index that nothing here needs
    start = mapped.tell()
    _check_packed(pyarrow.ipc.MessageReader.open_stream(mapped))
    mapped.seek(start)
    return pyarrow.ipc.open_stream(mapped).read_all()


def _check_packed(messages: Iterable[Any]) -> None:
    """Raise ValueError where batches say that they unpack to more than is read, before any of them is unpacked."""
    total = 0
    for message in messages:
        body = message.body
        for start in packed(message.metadata.to_pybytes()):
            size = int.from_bytes(body[start : start + 8].to_pybytes(), "little", signed=True)
            total += max(size, 0)  # -1 for what is held as it is
    if total > LIST_LIMIT:
        raise ValueError(f"it unpacks to {total} bytes, more than {LIST_LIMIT}: save it without compression")


def _schema(file: Path) -> Any:
    opened = _open(file)
    return opened.schema_arrow if file.suffix == ".parquet" else opened.schema


def _table(file: Path, columns: Sequence[str], picture: str, most: int) -> tuple[list[int], dict[str, list[Any]]]:
    """Rows of each piece, and the cells of the columns.

    Raises:
        ValueError: for more than ``most`` rows, and groups of rows or columns that unpack to more than is read.

    """
    opened = _open(file)
    if picture not in (opened.schema_arrow if file.suffix == ".parquet" else opened.schema).names:
        raise McdoError(f"{file} has no column {picture}, as the others have")
    if file.suffix == ".parquet":
        groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
        pieces = [group.num_rows for group in groups]
        largest = max((group.total_byte_size for group in groups), default=0)
        if largest > 2 * LIST_LIMIT:
            raise ValueError(f"a group of rows unpacks to {largest} bytes; at most {2 * LIST_LIMIT} are read")
    else:
        pieces = [opened.num_rows]
    if sum(pieces) > most:
        raise ValueError(f"the data set has more than {MOST_ROWS} rows")
    read = opened.read(columns=list(columns)) if file.suffix == ".parquet" else opened.select([*columns, picture])
    if file.suffix != ".parquet":
        read.validate(full=True)  # Arrow trusts the places of cells that a file names
    if columns and read.num_rows != sum(pieces):  # else labels would stand beside other pictures
        raise ValueError(f"its columns have {read.num_rows} rows, and its head says {sum(pieces)}")
    return pieces, {name: read.column(name).to_pylist() for name in columns}


def _pictures(file: Path, piece: int, name: str) -> Any:
    """A column of pictures, mapped; of Parquet a group of rows is read, in which equal pictures are held once."""
    opened = _open(file)
    if file.suffix != ".parquet":
        return opened.column(name)
    leaves = [opened.schema.column(i) for i in range(len(opened.schema))]
    once = [leaf.path for leaf in leaves if leaf.path.split(".")[0] == name and leaf.physical_type == "BYTE_ARRAY"]
    return _open(file, once).read_row_group(piece, columns=[name]).column(name)


def _check_cells(root: Path, cells: Sequence[Any], what: str, ids: Sequence[str]) -> None:
    """Raise McdoError for a cell that is no name and no whole number."""
    for cell, image_id in zip(cells, ids, strict=bool(cells)):
        if cell is None:
            raise McdoError(f"{root}: row {image_id} has no {what}, but others have one; give it, or leave out all")
        if not isinstance(cell, (str, int)):
            raise McdoError(f"{root}: row {image_id}, {what}: {reprlib.repr(cell)} is no name and no whole number")


def _features(schema: Any) -> dict[str, Any]:
    """What the library says of columns, {} where nothing."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
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
    if all(type(label) in (int, type(None)) for label in labels):
        labels = [None if label is None or label < 0 else label for label in labels]  # as the library writes it
    _check_cells(root, labels, "label", ids)
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list) or not all(type(n) is str for n in names):
        return named(str(root), [str(label) for label in labels], [f"row {each}" for each in ids], root)
    for label, image_id in zip(labels, ids, strict=True):
        if type(label) is not int or label >= len(names):
            raise McdoError(f"{root}: row {image_id} has the label {label!r:.40}, none of the {len(names)} class names")
    return np.array(labels, dtype=np.int64), class_names(root, names)
