"""Files that people write, read against a schema: each mistake is a McdoError that names file and place.

A schema is a :class:`Record` (or a dataclass) whose fields state types and ranges; msgspec does the checking. An
unknown key is refused with the nearest known one. What no schema can say is refused for all files alike: another
encoding than UTF-8, a key that occurs twice, NaN and infinity, NUL and broken letters, aliases, more bytes or levels
than sense.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import reprlib
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from mcdo.errors import McdoError, nearest

T = TypeVar("T")

LIMIT = 2**22
"""Bytes of a file of settings."""
YAML_LIMIT = 2**16
"""Bytes of a file of YAML, whose parser takes seconds for a megabyte."""
LIST_LIMIT = 2**30
"""Bytes of a list of images, captions or the like."""
CSV_LIMIT = 2**28
"""Bytes of a table, of which every cell becomes an object."""
MOST_ROWS = 2**22
"""Rows of a table."""
_MOST_COLUMNS = 10_000

_HEAD = 2**12
_MARK = "\ufeff"
"""Which spreadsheets and some editors put before a text."""
_LEVELS = 100

Count = Annotated[int, Meta(ge=0, lt=2**31)]
Size = Annotated[int, Meta(ge=1, lt=2**31)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

# What is rare and may be wrong in JSON that the parser takes: only then is every value of a long list looked at.
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|NaN|Infinity|[0-9]{16}|[eE][+]?[0-9]{3}")
_SIGN, _GROUPED = r"[-+\u2212]?", r"\d{1,3}(?:[.,'\u2019\s]\d{3})+(?:[.,]\d+)?"
_OTHER_NUMBER = re.compile(rf"\s*{_SIGN}(?:{_GROUPED}|\d*[.,]?\d+)(?:[eE]{_SIGN}\d+)?\s*%?\s*")
_LONG_WHOLE = re.compile(r"[-+]?[0-9]{16,300}")
"""Whole numbers that float64 may round."""
_UNKNOWN = re.compile(r"Object contains unknown field `")
_STEP = re.compile(r"\[(\d+)\]|\.([^.\[]+)")
_BROKEN = re.compile("[\0\ud800-\udfff]")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object with exactly the keys that its fields name."""


class OpenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An object with at least the keys that its fields name."""


class _Twice:
    """Stands for the value of a key that occurs twice."""


def checked(value: Any, kind: Any, where: object, *, from_text: bool = False) -> Any:
    """``value`` as ``kind``.

    Args:
        value: what a parser gave: objects, lists, text, numbers.
        kind: a type that msgspec knows.
        where: the file, for the message.
        from_text: whether numbers are written as text, as in CSV.

    Raises:
        McdoError: naming ``where``, the place within it, and what is expected there.

    """
    try:
        _refuse_unknown(_info(kind), value, where)
    except RecursionError as error:
        raise McdoError(f"{where} is nested too deeply") from error
    try:
        found = msgspec.convert(value, kind, strict=not from_text)
    except RecursionError as error:
        raise McdoError(f"{where} is nested too deeply") from error
    except McdoError as error:  # of a dataclass that checks its fields together
        raise McdoError(f"{where}: {error}") from error
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at ")
        raise McdoError(_said(where, value, kind, place.strip("`"), expected)) from error
    return found


def plain(value: Any) -> Any:
    """A value that JSON can hold: what has ``as_dict`` by that, other dataclasses by their fields.

    What is no number becomes null; :func:`with_nan` is the inverse.
    """
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(value: Any, kind: Any) -> Any:
    """``value``, in which a null that stands for a number is NaN; ``kind`` says where numbers are."""
    return _with_nan(value, _info(kind))


def _with_nan(value: Any, info: inspect.Type | None) -> Any:
    if value is None and isinstance(info, inspect.FloatType):
        return math.nan
    if isinstance(value, dict):
        return {key: _with_nan(each, _inside(info, key)) for key, each in value.items()}
    return [_with_nan(each, _inside(info, "")) for each in value] if isinstance(value, list) else value


def read_json(path: Path, kind: Any, remedy: str = "", *, limit: int = LIMIT, any_name: bool = False) -> Any:
    """A JSON file as ``kind``; ``any_name`` lets lone surrogates pass: bytes of names that are no UTF-8.

    Raises:
        McdoError: naming file and place; where the file cannot be read, the message ends in ``remedy``.

    """
    return _parsed(path, kind, partial(parse_json, any_name=any_name), _read(path, remedy, limit), remedy)


def read_toml(path: Path, kind: Any, remedy: str = "") -> Any:
    """As :func:`read_json`, for TOML."""
    return _parsed(path, kind, _parse_toml, _read(path, remedy, LIMIT), remedy)


def read_yaml(path: Path, kind: Any, remedy: str = "") -> Any:
    """As :func:`read_json`, for YAML; an empty file is an empty object."""
    return _parsed(path, kind, parse_yaml, _read(path, remedy, YAML_LIMIT), remedy)


def read_csv(path: Path, kind: type[T], remedy: str = "") -> list[tuple[int, T]]:
    """The objects with the lines that they end on, under a head of their keys; an empty cell is null.

    Columns beside those of ``kind`` are passed over.

    Raises:
        McdoError: naming the file and the line.

    """
    known = [field.encode_name for field in inspect.type_info(kind).fields]  # type: ignore[attr-defined]
    found: list[tuple[int, T]] = []
    for at, row in _rows(path, remedy, known):
        where = f"{path}, line {at}"
        line = {name: cell if cell.strip() else None for name, cell in row.items() if name in known}
        found.append((at, checked(line, kind, where, from_text=True)))
        _refuse_odd(msgspec.to_builtins(found[-1][1]), where, any_name=False)
    return found


def read_columns(path: Path, remedy: str = "") -> dict[str, dict[int, str]]:
    """The cells of every column, by the lines that their rows end on.

    Raises:
        McdoError: naming the file and the line; and for a head without a row below it.

    """
    rows = dict(_rows(path, remedy))
    if not rows:
        raise McdoError(f"{path} has no row below its head{f'; {remedy}' if remedy else ''}")
    head = next(iter(rows.values()))
    return {name: {at: row[name] for at, row in rows.items()} for name in head}


def numbers_of(cells: Mapping[int, str]) -> list[float]:
    """The numbers in a column of :func:`read_columns`, [] for a column of words.

    A column is one of numbers where any cell is, in whatever way of writing them; a cell that is no plain number is NaN
    there, for the caller to refuse.
    """
    found = [_number(cell) for cell in cells.values()]
    return [] if all(each is None for each in found) else [math.nan if each is None else each for each in found]


def tied_whole_numbers(cells: Iterable[str]) -> tuple[str, str] | None:
    """The first two whole numbers that differ and are one number in float64, as ids and hashes of 64 bits are."""
    by_value: dict[float, str] = {}
    for cell in map(str.strip, cells):
        if _LONG_WHOLE.fullmatch(cell):
            first = by_value.setdefault(float(cell), cell)
            if int(first) != int(cell):
                return first, cell
    return None


def _number(cell: str) -> float | None:
    """None for a word; NaN for 0,5 and 1,5e-3 and 5 % and 1,234.5 and 1_000, which Python reads as 1000."""
    try:
        number = float(cell)
    except ValueError:
        return math.nan if _OTHER_NUMBER.fullmatch(cell) else None
    return math.nan if "_" in cell else number


def _rows(path: Path, remedy: str, known: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows by column, with the lines that they end on."""
    text = _read(path, remedy, CSV_LIMIT).removeprefix(_MARK)
    if text.count("\n") > MOST_ROWS:
        raise McdoError(f"{path} has {text.count(chr(10))} lines; at most {MOST_ROWS} are read")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(reader, [])
        _check_head(path, head, known)
        for row in reader:
            if not row:
                continue
            if len(row) != len(head):
                raise McdoError(f"{path}, line {reader.line_num} has {len(row)} cells under {len(head)} columns")
            yield reader.line_num, dict(zip(head, row, strict=True))
    except csv.Error as error:
        raise McdoError(f"{path}, line {reader.line_num} is not CSV: {error}") from error


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What spreadsheets write in the place of commas, some by the language of their user."""


def _check_head(path: Path, head: list[str], known: Sequence[str]) -> None:
    if len(head) > _MOST_COLUMNS:
        raise McdoError(f"{path}, line 1 has {len(head)} columns; at most {_MOST_COLUMNS} are read")
    other = next((mark for mark in _SEPARATORS if len(head) == 1 and mark in head[0]), "")
    if other:
        raise McdoError(f"{path}, line 1: columns are separated by {_SEPARATORS[other]}; save it with commas")
    twice = sorted(name for name, count in Counter(head).items() if count > 1)
    if twice:
        raise McdoError(f"{path}, line 1: the column {twice[0]!r} occurs twice")
    for name in known:
        if name not in head:
            found = nearest(name, head) if head else "no line at all"
            raise McdoError(f"{path}, line 1: the column {name} is missing; the nearest there: {found}")


def read_lines(path: Path, remedy: str = "", *, limit: int = LIMIT) -> list[str]:
    """The lines of a text file in UTF-8, as an editor counts them: a form feed ends none, nor does U+2028.

    Raises:
        McdoError: if it is none, or has more than ``limit`` bytes.

    """
    lines = re.split("\r\n|\r|\n", _read(path, remedy, limit).removeprefix(_MARK))
    return lines if lines[-1] else lines[:-1]


def _read(path: Path, remedy: str, limit: int) -> str:
    ending = f"; {remedy}" if remedy else ""
    content = read_bytes(path, remedy, limit=limit, text=True)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise McdoError(f"{path}, line {line} is no UTF-8 ({error.reason}): save it as UTF-8{ending}") from error
    if "\0" in text:
        raise McdoError(f"{path}, line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a NUL, so it is no text")
    return text


def read_bytes(path: Path, remedy: str = "", *, limit: int, text: bool = False) -> bytes:
    """The bytes of a regular file.

    Raises:
        McdoError: if it is none, cannot be read, has more than ``limit`` bytes, or is to be ``text`` and begins with
            what is none.

    """
    ending = f"; {remedy}" if remedy else ""
    check_regular(path, remedy)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            content = file.read(_HEAD)
            if text and (content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content):
                raise McdoError(f"{path} is UTF-16 or no text at all: save it as UTF-8{ending}")
            content += file.read(limit + 1 - len(content)) if size <= limit else b""
    except OSError as error:
        raise McdoError(f"{path} cannot be read ({error.strerror}){ending}") from error
    if max(size, len(content)) > limit:
        raise McdoError(f"{path} has {max(size, len(content))} bytes; at most {limit} are read{ending}")
    return content


def check_regular(path: Path, remedy: str = "") -> None:
    """Raise McdoError for what is absent or no regular file: one that reads a FIFO waits for ever."""
    ending = f"; {remedy}" if remedy else ""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise McdoError(f"{path} is not a regular file{ending}")
    except OSError as error:
        raise McdoError(f"{path} cannot be read ({error.strerror}){ending}") from error
    except ValueError as error:  # a name that no file can have
        raise McdoError(f"{str(path)!r} cannot be read ({error}){ending}") from error


def _parsed(path: Path, kind: Any, parse: Callable[[str, object], Any], text: str, remedy: str) -> Any:
    try:
        return checked(parse(text, path), kind, path)
    except McdoError as error:
        if not remedy or str(error).endswith(remedy):
            raise
        raise McdoError(f"{error}; {remedy}") from error


def parse_json(text: str, where: object = "JSON", *, any_name: bool = False) -> Any:
    """The value of a text in JSON. Raises McdoError as :func:`read_json` does."""
    twice: list[str] = []
    try:
        found = json.loads(text, object_pairs_hook=partial(_object, twice))
    except RecursionError as error:
        raise McdoError(f"{where} is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise McdoError(f"{where}, line {error.lineno}, column {error.colno} is not JSON: {error.msg}") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise McdoError(f"{where} is not JSON: {error}") from error
    if twice or len(text) < LIMIT or _SUSPECT.search(text):
        _refuse_odd(found, where, any_name=any_name)
    return found


def _object(twice: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for key in keys if keys.count(key) > 1)
        twice.append(again)
        found[again] = _Twice
    return found


def _parse_toml(text: str, where: object) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found = tomllib.loads(text)
    except RecursionError as error:
        raise McdoError(f"{where} is nested too deeply") from error
    except ValueError as error:  # which says the line
        raise McdoError(f"{where} is not TOML: {error}") from error
    _refuse_odd(found, where, any_name=False)
    return found


def parse_yaml(text: str, where: object = "YAML") -> Any:
    """The value of a text in YAML, an empty object where it is empty. Raises McdoError as :func:`read_yaml` does."""
    import yaml

    try:
        found = yaml.load(text, Loader=_loader())  # noqa: S506  (a safe loader that refuses more)
    except RecursionError as error:
        raise McdoError(f"{where} is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise McdoError(f"{where}{line} is not YAML as it is read here: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, a number too long
        raise McdoError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    found = {} if found is None else found
    _refuse_odd(found, where, any_name=False)
    return found


@cache
def _loader() -> Any:
    """The safe loader without aliases, and with numbers such as 1e-4, which YAML 1.1 takes for text."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, "an alias (*) is not followed; write it out", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:str" or key.value in seen:
                    what = f"the key {key.value!r} occurs twice" if str(key.value) in seen else "a key must be text"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9.]*[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    return Loader


def _refuse_odd(value: Any, where: object, *, any_name: bool) -> None:
    """Raise McdoError for what no schema should have to forbid, wherever it stands."""
    left: list[tuple[str, Any, int]] = [("", value, 0)]
    while left:
        place, held, level = left.pop()
        if level > _LEVELS:
            raise McdoError(f"{where} is nested too deeply, at {place[:80].removeprefix('.')}...")
        if isinstance(held, dict):
            left += [(place, key, level) for key in held]
            left += [(f"{place}.{key}", each, level + 1) for key, each in held.items()]
        elif isinstance(held, (list, tuple)):
            left += [(f"{place}[{i}]", each, level + 1) for i, each in enumerate(held)]
        elif held is _Twice:
            raise McdoError(f"{where}: the key {place.removeprefix('.')} occurs twice")
        elif isinstance(held, str):
            broken = _BROKEN.search(held)
            if broken and (broken[0] == "\0" or not any_name):
                raise McdoError(f"{_at(where, place)} holds a NUL or a letter that is none: {reprlib.repr(held)}")
        elif isinstance(held, float) and not math.isfinite(held):
            raise McdoError(f"{_at(where, place)} is {held}, which is no number")
        elif isinstance(held, int) and abs(held) >= 2**128:
            raise McdoError(f"{_at(where, place)} is a whole number of {held.bit_length()} bits; at most 128 are read")


@cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _refuse_unknown(info: inspect.Type, value: Any, where: object, place: str = "") -> None:
    """Raise McdoError for a key that a record or a dataclass lacks, with the nearest."""
    if isinstance(info, (inspect.StructType, inspect.DataclassType)) and isinstance(value, dict):
        kinds = {field.encode_name: field.type for field in info.fields}
        closed = isinstance(info, inspect.DataclassType) or info.forbid_unknown_fields
        for key, each in value.items():
            if key in kinds:
                _refuse_unknown(kinds[key], each, where, f"{place}.{key}")
            elif closed:
                raise McdoError(
                    f"{_at(where, place)} has the unknown key {key!r}; the nearest: {nearest(str(key), kinds)}"
                )
    elif isinstance(info, inspect.UnionType):
        for each in info.types:
            _refuse_unknown(each, value, where, place)
    elif isinstance(info, inspect.DictType) and isinstance(value, dict):
        for key, each in value.items():
            _refuse_unknown(info.value_type, each, where, f"{place}.{key}")
    elif isinstance(info, (inspect.ListType, inspect.VarTupleType)) and isinstance(value, (list, tuple)):
        for i, each in enumerate(value) if not isinstance(info.item_type, _PLAIN) else ():
            _refuse_unknown(info.item_type, each, where, f"{place}[{i}]")


_PLAIN = (inspect.AnyType, inspect.IntType, inspect.FloatType, inspect.StrType, inspect.BoolType)


def _at(where: object, place: str) -> str:
    return f"{where}: {place.removeprefix('.')}" if place else f"{where}"


def _said(where: object, value: Any, kind: Any, place: str, expected: str) -> str:
    """The message for a value of another kind: the place, what stands there, and what is expected."""
    place = place.removeprefix("$")
    info: inspect.Type | None = _info(kind)
    try:
        for index, key in _STEP.findall(place):
            value, info = value[int(index) if index else key], _inside(info, key)
    except (KeyError, IndexError, TypeError, ValueError):
        return f"{_at(where, place)}: {expected}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", expected)
    if missing:
        return f"{_at(where, place)} lacks the key {missing[1]}"
    choices = [choice for part in _parts(info) for choice in _choices(part)]
    if expected.startswith("Invalid enum value") and choices:
        expected = f"say {', '.join(map(repr, choices))}"
    elif not expected.startswith(("Expected ", "Number ")):  # a record that checks its fields together
        return f"{_at(where, place)}: {expected}"
    return f"{_at(where, place)} is {reprlib.repr(value)}: {expected.replace('`', '')}"


def _parts(info: inspect.Type | None) -> tuple[inspect.Type | None, ...]:
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _choices(part: inspect.Type | None) -> list[str]:
    if isinstance(part, inspect.EnumType):
        return [str(member.value) for member in part.cls]
    return [str(each) for each in part.values] if isinstance(part, inspect.LiteralType) else []


def _inside(info: inspect.Type | None, key: str) -> inspect.Type | None:
    """The kind at a key of a record, or of an element where the key is empty; None where that is not one kind."""
    for part in _parts(info):
        if key and isinstance(part, (inspect.StructType, inspect.DataclassType)):
            return next((field.type for field in part.fields if field.encode_name == key), None)
        if not key and isinstance(part, (inspect.ListType, inspect.VarTupleType)):
            return part.item_type
    return None
