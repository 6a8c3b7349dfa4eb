"""A struct array of numbers and texts out of a MAT file of level 5, such as the devkit of ImageNet has.

Read here because the reader of scipy trusts what a file says of itself: a few changed bytes end the process. The layout
is that of "MAT-File Format" (MathWorks): elements of a kind, a size and bytes, and matrices made of elements.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

Value = float | str | None
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-{}", 16: "utf-8", 17: "utf-16-{}", 18: "utf-32-{}"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHARACTERS = 2, 4
_HEAD = 128


def struct_rows(content: bytes, name: str, most: int) -> list[dict[str, Value]]:
    """The elements of the struct array ``name``, by field: a text, the first of some numbers, or None for all else.

    Args:
        content: of the file.
        name: of the variable.
        most: bytes that compressed variables may unpack to.

    Raises:
        ValueError: for damage, for another layout, and for more than ``most``.

    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEAD])
    if order is None:
        raise ValueError("it is no MAT file of level 5")
    try:
        for kind, element in _elements(content[_HEAD:], order):
            held = element
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(element, most + 1)
                most -= len(unpacked)
                if most < 0:
                    raise ValueError("it unpacks to more than is read")
                kind, held = next(_elements(unpacked, order))
            if kind == _MATRIX:
                rows = _rows(held, order, name)
                if rows is not None:
                    return rows
    except (struct.error, zlib.error, IndexError, StopIteration) as error:
        raise ValueError(f"it is damaged ({error})") from error
    raise ValueError(f"it holds no {name}")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start, end = at + 8, at + 8 + size
        following = end if kind == _COMPRESSED else end + -size % 8
        if kind >> 16:  # a small one, whose kind and size share four bytes
            kind, size = kind & 0xFFFF, kind >> 16
            start, end, following = at + 4, at + 4 + size, at + 8
        if end > min(len(content), following):
            raise ValueError(f"an element ends beyond byte {len(content)}")
        yield kind, content[start:end]
        at = following


def _rows(matrix: bytes, order: str, name: str) -> list[dict[str, Value]] | None:
    """Of a matrix of this name; None for another."""
    flags, dims, named, *rest = (held for _, held in _elements(matrix, order))
    if named != name.encode():
        return None
    if _flagged(flags, order) != _STRUCT:
        raise ValueError(f"{name} is no struct array")
    (length,), names, cells = struct.unpack(f"{order}i", rest[0]), rest[1], rest[2:]
    if length < 1:
        raise ValueError(f"the names of fields have {length} letters")
    fields = [names[i : i + length].partition(b"\0")[0].decode("latin-1") for i in range(0, len(names), length)]
    count = math.prod(struct.unpack(f"{order}{len(dims) // 4}i", dims))
    if len(cells) != count * len(fields):
        raise ValueError(f"{name} has {len(cells)} cells for {count} elements of {len(fields)} fields")
    values = [_value(cell, order) for cell in cells]
    return [dict(zip(fields, values[i : i + len(fields)], strict=True)) for i in range(0, len(cells), len(fields))]


def _flagged(flags: bytes, order: str) -> int:
    """The class of a matrix."""
    return int(struct.unpack_from(f"{order}I", flags)[0]) & 0xFF


def _value(matrix: bytes, order: str) -> Value:
    parts = list(_elements(matrix, order))
    if len(parts) < 4:
        return None
    kind, data = parts[3]
    if _flagged(parts[0][1], order) == _CHARACTERS and kind in _TEXTS:
        end = "le" if order == "<" else "be"
        return data.decode(_TEXTS[kind].format(end))
    if kind in _NUMBERS and len(data) >= struct.calcsize(_NUMBERS[kind]):
        return float(struct.unpack_from(f"{order}{_NUMBERS[kind]}", data)[0])
    return None
