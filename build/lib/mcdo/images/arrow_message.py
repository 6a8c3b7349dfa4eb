"""What an Arrow message says of its buffers, which pyarrow does not tell before it has unpacked them.

The metadata of a message is a flatbuffer: Message {version, header_type, header}, whose header is a RecordBatch
{length, nodes, buffers, compression}, or a DictionaryBatch {id, data} around one. A compressed buffer begins with the
eight bytes of its size as it was (Message.fbs of Apache Arrow's format).
"""

from __future__ import annotations

import struct

_DICTIONARY, _BATCH = 2, 3
_EARLIER = b"ARROW:experimental_compression"
"""Where a batch said that it is compressed before there was a field for it; still read."""


def packed(metadata: bytes) -> list[int]:
    """Where in the body of a message its compressed buffers begin.

    Raises:
        ValueError: for metadata that point beyond themselves.

    """
    try:
        message = _at(metadata, 0)
        kind, header = _field(metadata, message, 1), _field(metadata, message, 2)
        if not kind or not header or metadata[kind] not in (_DICTIONARY, _BATCH):
            return []
        batch = _at(metadata, header)
        if metadata[kind] == _DICTIONARY:
            batch = _at(metadata, _field(metadata, batch, 1))
        buffers = _field(metadata, batch, 2)
        if not buffers or not (_field(metadata, batch, 3) or _EARLIER in metadata):
            return []
        first = _at(metadata, buffers)
        (count,) = struct.unpack_from("<I", metadata, first)
        pairs = struct.iter_unpack("<qq", metadata[first + 4 : first + 4 + 16 * count])
        return [start for start, size in pairs if size >= 8 and start >= 0]
    except (struct.error, IndexError) as error:
        raise ValueError(f"the metadata of a batch are damaged ({error})") from error


def _at(buffer: bytes, place: int) -> int:
    """Where a relative offset leads."""
    (offset,) = struct.unpack_from("<I", buffer, place)
    return int(place + offset)


def _field(buffer: bytes, table: int, number: int) -> int:
    """Where a field of a table stands; 0 for one that is left out."""
    (back,) = struct.unpack_from("<i", buffer, table)
    slot, (size,) = 4 + 2 * number, struct.unpack_from("<H", buffer, table - back)
    (offset,) = struct.unpack_from("<H", buffer, table - back + slot) if slot < size else (0,)
    return table + int(offset) if offset else 0
