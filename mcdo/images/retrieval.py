"""Images with captions of their own, from a JSON file: ``[{"image_path", "captions", "correct_index"}, ...]``.

Paths are relative to the file's folder unless absolute. ``correct_index`` counts from 0 and may be left out, for 0.
What is wrong with an entry is said with its index, counted from 0 as JSON arrays are, and its key. Copies of one file
under several paths have one origin, as in a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.images.decode import UnreadableImageError
from mcdo.images.folder import FolderSource
from mcdo.images.image_set import ImageSet
from mcdo.images.threads import for_each
from mcdo.names import from_path
from mcdo.schema import LIST_LIMIT, Count, Text, read_json


@dataclass(frozen=True)
class RetrievalItem:
    """One image, its candidate captions (at least two, all different), and which of them is the right one."""

    image_path: Text
    captions: Annotated[tuple[Annotated[str, Meta(pattern=r"\S")], ...], Meta(min_length=2)]
    correct_index: Count = 0

    def __post_init__(self) -> None:
        different = len(set(self.captions))
        if different < len(self.captions):
            raise ValueError(f"'captions' holds {different} different of {len(self.captions)}; expected all different")
        if self.correct_index >= len(self.captions):
            raise ValueError(f"'correct_index' is {self.correct_index}; expected 0 to {len(self.captions) - 1}")


def read_items(path: str | Path) -> tuple[RetrievalItem, ...]:
    """The entries of a retrieval file, at least three.

    Raises:
        McdoError: naming the file, the entry's index and the key, and what is expected there.

    """
    path = arguments.path(path)
    items: tuple[RetrievalItem, ...] = read_json(
        path, tuple[RetrievalItem, ...], "expected a JSON list of objects with image_path, captions", limit=LIST_LIMIT
    )
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        if seen.setdefault(item.image_path, index) != index:
            raise McdoError(f"{path}: [{index}].image_path repeats that of [{seen[item.image_path]}]")
    if len(items) < 3:
        raise McdoError(f"retrieval file {path} holds {len(items)} entries; a ranking needs at least 3")
    return items


def retrieval(path: str, n: int | None = None, seed: int = 42) -> ImageSet:
    """The images of a retrieval file, the first ``n`` (None: all) in its order, each decoded once as a check."""
    root, items = arguments.path(path).resolve().parent, read_items(path)
    items = items[:n]
    source = FolderSource(root)
    hashes: list[str] = [""] * len(items)

    def check(i: int) -> None:
        try:
            hashes[i] = source.load(items[i].image_path)[1]
        except UnreadableImageError as error:
            raise McdoError(f"{path}: [{i}].image_path names no readable image: {error}") from error

    for_each(check, len(items), "reading images")
    ids = tuple(item.image_path for item in items)
    return ImageSet(f"retrieval:{from_path(path)}", ids, None, (), seed, source, tuple(hashes), origins=tuple(hashes))
