"""Scores that were made elsewhere: a CSV, npz or Parquet file of scores by image id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError, refused_as
from mcdo.report.files import read_npz
from mcdo.schema import LIST_LIMIT, MOST_ROWS, check_regular, numbers_of, read_columns, tied_whole_numbers

Array = NDArray[np.float64]
ID_COLUMNS = ("id", "path", "image", "image_id")
MOST_NAMED = 5
_NO_SCORES = "USMm"
"""Kinds of numpy that nobody takes for a score: text and dates."""
_NAMELESS = re.compile(r"\s*|Unnamed: .*|__index_level_\d+__")
"""As pandas names its index in CSV, when it reads that again, and in Parquet."""


def read_scores(path: Path, ids: tuple[str, ...]) -> dict[str, Array]:
    """Scores [K, N] by name, in the order of ``ids``.

    A CSV or Parquet file has one row for each image: a column ``id`` (or path, image, image_id), and one column for
    each score (:func:`may_hold_scores`); one without any number is none. An npz has ``ids`` [N], and an array [N] or
    [K, N] for each score; text and dates are none. Rows of other images are left out. Where every name begins with one
    folder, as paths do, that may be left out to make an id of it.

    Raises:
        McdoError: for a file that cannot be read so, images without a score (named), an id that occurs twice, numbers
            that are not finite, and by name for what may be meant as a score and is of another type than numbers.

    """
    check_scores(path)
    with refused_as(f"{path} cannot be read as scores by image"):
        names, columns = _READERS[path.suffix](path)
    scores = {name: values for name, values in columns.items() if may_hold_scores(name)}
    return _ordered(path, _without_folder(names, ids), scores, ids)


def may_hold_scores(name: str) -> bool:
    """Whether a column of this name may: other ids do not, nor does the index of pandas, which has no name."""
    return name not in ID_COLUMNS and not _NAMELESS.fullmatch(name)


def check_scores(path: Path) -> None:
    """Raise McdoError for a file of scores that is not there, or of another kind."""
    if path.suffix not in _READERS:
        raise McdoError(f"{path}: scores are read from {', '.join(_READERS)}")
    if not path.exists():
        raise McdoError(f"{path}: there is no such file of scores")


def without_copies(scores: Array) -> Array:
    """Scores [K, N], of which one trial is kept where all are the same: such a score has no noise to measure."""
    return scores[:1] if (scores == scores[0]).all() else scores


def _without_folder(names: list[str], ids: tuple[str, ...]) -> list[str]:
    """Names, without the folder in which all lie if what is left are ids."""
    if not names or not ids or ids[0] in names:
        return names
    folders = {name.removesuffix(ids[0]) for name in names if name.endswith(f"/{ids[0]}")}
    if len(folders) != 1:
        return names
    (folder,) = folders
    return [name.removeprefix(folder) for name in names] if all(name.startswith(folder) for name in names) else names


def _ordered(path: Path, names: list[str], columns: dict[str, Array], ids: tuple[str, ...]) -> dict[str, Array]:
    place: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in place:
            raise McdoError(f"{path}: the id {name!r} occurs twice")
        place[name] = i
    absent = [name for name in ids if name not in place]
    if absent:
        said = ", ".join(map(repr, absent[:MOST_NAMED]))
        near = f"; the file's ids look like {names[0]!r}" if names else ""
        raise McdoError(f"{path}: no score for {len(absent)} of {len(ids)} images, such as {said}{near}")
    if not columns:
        raise McdoError(f"{path}: no column of numbers beside the ids")
    chosen = [place[name] for name in ids]
    found = {score: np.atleast_2d(values)[:, chosen] for score, values in columns.items()}
    for score, values in found.items():
        bad = ~np.isfinite(values).all(axis=0)
        if bad.any():
            said = f"{path}: {score} of {ids[int(bad.argmax())]!r} is not a finite number"
            raise McdoError(f"{said}; give it, or leave the column out")
    return found


def _from_csv(path: Path) -> tuple[list[str], dict[str, Array]]:
    held = read_columns(path)
    names = list(held.pop(_id_column(list(held))).values())
    columns = {name: np.array(numbers_of(cells)) for name, cells in held.items()}
    for name in filter(may_hold_scores, held):
        _refuse_ties(name, tied_whole_numbers(held[name].values()))
    return names, {name: values for name, values in columns.items() if len(values)}


def _from_npz(path: Path) -> tuple[list[str], dict[str, Array]]:
    held = read_npz(path, "it is no archive of plain arrays")
    if "ids" not in held:
        raise ValueError(f"no array ids among {', '.join(held) or 'none'}")
    ids = held.pop("ids")
    if ids.ndim != 1 or len(ids) > MOST_ROWS:
        raise ValueError(f"its ids have shape {ids.shape}, not [N] with N up to {MOST_ROWS}")
    names = (np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids.astype(str)).tolist()
    scores = {key: each for key, each in held.items() if may_hold_scores(key) and each.dtype.kind not in _NO_SCORES}
    for key, each in scores.items():
        if each.dtype.kind not in "fiu":
            raise _of_another_type(key, each.dtype)
        if each.shape[-1:] != ids.shape or each.ndim > 2 or not len(each):
            raise ValueError(f"its {key} has shape {each.shape}, not [N] or [K, N] with N = {len(ids)}")
        _refuse_ties(key, _tied(each))
    return names, {key: each.astype(np.float64) for key, each in scores.items()}


def _of_another_type(name: str, found: object) -> ValueError:
    """bfloat16, of which an npz holds the bytes alone, complex numbers, flags, lists."""
    return ValueError(f"its {name} is of type {found}; write scores as float64, and leave out what is none")


def _tied(values: NDArray[Any]) -> tuple[str, str] | None:
    long = values[(values > 2**53) | (values < -(2**53))] if values.dtype.kind in "iu" else values[:0]
    return tied_whole_numbers(map(str, long.ravel().tolist()))


def _refuse_ties(name: str, tied: tuple[str, str] | None) -> None:
    if tied is not None:
        said = f"its {name} has {' and '.join(tied)}, which are one number in float64"
        raise ValueError(f"{said}; are they ids or hashes? Leave the column out")


def _from_parquet(path: Path) -> tuple[list[str], dict[str, Array]]:
    try:
        from pyarrow import parquet, types
    except ImportError as error:
        raise McdoError('Parquet needs pyarrow: pip install "mcdo[frames]"') from error
    check_regular(path)
    schema = parquet.read_schema(path)
    key = _id_column(schema.names)
    words = [key] if types.is_string(schema.field(key).type) or types.is_large_string(schema.field(key).type) else []
    file = parquet.ParquetFile(path, read_dictionary=words)
    kinds = (types.is_integer, types.is_floating, types.is_decimal)
    numbers = [each.name for each in schema if any(of(each.type) for of in kinds)]
    for each in schema:
        if (types.is_boolean(each.type) or types.is_nested(each.type)) and may_hold_scores(each.name):
            raise _of_another_type(each.name, each.type)
    rows, most = file.metadata.num_rows, min(MOST_ROWS, LIST_LIMIT // (8 * (1 + len(numbers))))
    if rows > most:
        raise ValueError(f"it has {rows} rows of {len(numbers)} numbers; at most {most} are read")
    table = file.read(columns=[key, *numbers])
    names: list[str] = []
    for chunk in table.column(key).chunks:
        known = chunk.dictionary.to_pylist() if words else chunk.to_pylist()
        at = chunk.indices.to_pylist() if words else range(len(chunk))
        names += [str(known[i]) for i in at if i is not None and known[i] is not None]
    if len(names) < table.num_rows:
        raise ValueError(f"{table.num_rows - len(names)} rows have no {key}")
    columns = {name: table.column(name).to_numpy() for name in numbers if name != key}
    for name in filter(may_hold_scores, columns):
        _refuse_ties(name, _tied(columns[name]))
    return names, {name: values.astype(np.float64) for name, values in columns.items()}


def _id_column(header: list[str]) -> str:
    found = next((name for name in ID_COLUMNS if name in header), None)
    if found is None:
        raise ValueError(f"no column {', '.join(ID_COLUMNS)} among {', '.join(header) or 'none'}")
    return found


_READERS = {".csv": _from_csv, ".npz": _from_npz, ".parquet": _from_parquet}
