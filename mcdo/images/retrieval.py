"""Images with captions of their own, from a JSON file: ``[{"image_path", "captions", "correct_index"}, ...]``.

Paths are relative to the file's folder unless absolute. ``correct_index`` counts from 0 and may be left out, for 0.
What is wrong with an entry is said with its index, counted from 0 as JSON arrays are, and its key. Copies of one file
under several paths have one origin, as in a folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError, nearest
from mcdo.images.decode import UnreadableImageError
from mcdo.images.folder import FolderSource
from mcdo.images.image_set import ImageSet
from mcdo.images.threads import for_each
from mcdo.names import from_path

_KEYS = ("image_path", "captions", "correct_index")


@dataclass(frozen=True)
class RetrievalItem:
    """One image, its candidate captions (at least two, all different), and which of them is the right one."""

    image_path: str
    captions: tuple[str, ...]
    correct_index: int


def read_items(path: str | Path) -> tuple[RetrievalItem, ...]:
    """The entries of a retrieval file, at least three.

    Raises:
        McdoError: naming the file, the entry's index and the key, and what is expected there.

    """
    path = Path(path).expanduser()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise McdoError(f"retrieval file {path} cannot be read ({error}); expected a JSON list of objects") from error
    if not isinstance(entries, list):
        raise McdoError(f"retrieval file {path} holds a {type(entries).__name__}; expected a list of objects")
    items = tuple(_item(path, index, entry) for index, entry in enumerate(entries))
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        if seen.setdefault(item.image_path, index) != index:
            raise _wrong(path, index, "image_path", f"repeats that of entry {seen[item.image_path]}")
    if len(items) < 3:
        raise McdoError(f"retrieval file {path} holds {len(items)} entries; a ranking needs at least 3")
    return items


def retrieval(path: str, n: int | None = None, seed: int = 42) -> ImageSet:
    """The images of a retrieval file, the first ``n`` (None: all) in its order, each decoded once as a check."""
    root, items = Path(path).expanduser().resolve().parent, read_items(path)
    items = items[:n]
    source = FolderSource(root)
    hashes: list[str] = [""] * len(items)

    def check(i: int) -> None:
        try:
            hashes[i] = source.load(items[i].image_path)[1]
        except UnreadableImageError as error:
            raise _wrong(Path(path), i, "image_path", f"names no readable image: {error}") from error

    for_each(check, len(items), "reading images")
    ids = tuple(item.image_path for item in items)
    return ImageSet(f"retrieval:{from_path(path)}", ids, None, (), seed, source, tuple(hashes), origins=tuple(hashes))


def _item(path: Path, index: int, entry: Any) -> RetrievalItem:
    if not isinstance(entry, dict):
        raise McdoError(
            f"{path}, entry {index}: a {type(entry).__name__}; expected an object with image_path, captions"
        )
    for key in entry:
        if key not in _KEYS:
            raise _wrong(path, index, key, f"is no key of an entry; nearest: {nearest(key, _KEYS, 1)}")
    image, captions, correct = entry.get("image_path"), entry.get("captions"), entry.get("correct_index", 0)
    if not isinstance(image, str) or not image:
        raise _wrong(path, index, "image_path", f"is {image!r}; expected the path of an image")
    if not isinstance(captions, list) or not all(isinstance(text, str) and text.strip() for text in captions):
        raise _wrong(path, index, "captions", "must be a list of texts that are not empty")
    different = len(set(captions))
    if different < 2 or different < len(captions):
        found = f"holds {different} different of {len(captions)}"
        raise _wrong(path, index, "captions", f"{found}; expected at least two, and all different")
    if isinstance(correct, bool) or not isinstance(correct, int) or not 0 <= correct < len(captions):
        raise _wrong(path, index, "correct_index", f"is {correct!r}; expected 0 to {len(captions) - 1}")
    return RetrievalItem(image, tuple(captions), correct)


def _wrong(path: Path, index: int, key: str, what: str) -> McdoError:
    return McdoError(f"{path}, entry {index}: {key!r} {what}")
