"""The store: what was measured is never measured twice.

One safetensors file per measurement, named by a hash of all that decides its numbers. A file is written under a
temporary name, flushed and renamed, so a reader sees a whole file or none; its checksum and the key that it was written
for are verified on reading, and a damaged file is reported and set aside. A measurement that is under way keeps its
parts beside the place of the whole, so that a process that is killed loses little; leases let several processes share
it, on one machine or many.
"""

from mcdo.store.files import Arrays, canonical_json, check_shapes, digest
from mcdo.store.store import (
    DamagedResultWarning,
    FinishedElsewhereError,
    NotWholeError,
    Part,
    Store,
    StoreWarning,
    Unfinished,
    UnsavedResultWarning,
    open_store,
)

__all__ = [
    "Arrays",
    "DamagedResultWarning",
    "FinishedElsewhereError",
    "NotWholeError",
    "Part",
    "Store",
    "StoreWarning",
    "Unfinished",
    "UnsavedResultWarning",
    "canonical_json",
    "check_shapes",
    "digest",
    "open_store",
]
