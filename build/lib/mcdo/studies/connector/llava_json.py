r"""LLaVA-Pretrain's JSON: a list of {id, image, conversations}, and the images below a root.

``conversations`` holds two turns, ``{"from": "human", "value": "<image>\n…"}`` and ``{"from": "gpt", "value": …}``.
Everything is checked before anything is computed: the texts of all items when the file is read, the pictures of the
chosen ones when they are chosen. So a bad item costs no finished work; with ``skip_bad`` it is left out and recorded.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, field

from mcdo.errors import McdoError
from mcdo.images import ImageSet, Skipped
from mcdo.images.decode import UnreadableImageError
from mcdo.images.folder import FolderSource
from mcdo.images.threads import for_each
from mcdo.names import printable
from mcdo.schema import LIST_LIMIT, OpenRecord, Text, checked, read_json
from mcdo.studies.connector.items import IMAGE, Captioned, Item

_NAMED_IN_ERROR = 10
_TURNS = ("human", "gpt")


@dataclass(frozen=True)
class Listing:
    """The items of a file in its order, and those that were left out."""

    path: Path
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()


def read_items(path: Path, *, skip_bad: bool = False) -> Listing:
    """Read and check the texts of all items; no picture is opened.

    Raises:
        McdoError: for a file that is no list, for items that are not as described (naming item and key), or if none is
            left.

    """
    held = _load(path)
    items: dict[str, Item] = {}
    bad: list[Skipped] = []
    for i, entry in enumerate(held):
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"item {i}" + (f" (id {reprlib.repr(name)})" if name is not None else "")
        try:
            item = _item(entry, where)
            if item.id in items:
                raise McdoError(f"{where}: id is that of an earlier item; ids must be unique")
            items[item.id] = item
        except McdoError as error:
            bad.append(Skipped(where, str(error).removeprefix(printable(where)).lstrip(": ")))
    if bad and (not skip_bad or not items):
        raise _refusal(str(path), bad, len(held))
    return Listing(path, tuple(items.values()), tuple(bad))


class _Turn(OpenRecord, frozen=True):
    speaker: Literal["human", "gpt"] = field(name="from")
    value: Annotated[str, Meta(pattern=r"\S")]


class _Entry(OpenRecord, frozen=True):
    id: Text | int
    image: Text
    conversations: Annotated[tuple[_Turn, ...], Meta(min_length=2, max_length=2)]


def _load(path: Path) -> list[Any]:
    expected = 'expected a JSON list of {"id", "image", "conversations"}'
    held: list[Any] = read_json(path, list[Any], expected, limit=LIST_LIMIT)
    if not held:
        raise McdoError(f"{path} is empty; {expected}")
    return held


def _item(stated: Any, where: str) -> Item:
    entry: _Entry = checked(stated, _Entry, where)
    path = PurePosixPath(entry.image)
    if path.is_absolute() or ".." in path.parts:
        raise McdoError(f"{where}: image is {entry.image!r}, which lies outside the image root")
    for i, (turn, speaker, count) in enumerate(zip(entry.conversations, _TURNS, (1, 0), strict=True)):
        if turn.speaker != speaker:
            raise McdoError(f"{where}: conversations[{i}].from must be {speaker!r}")
        if turn.value.count(IMAGE) != count:
            raise McdoError(
                f"{where}: conversations[{i}].value holds {turn.value.count(IMAGE)} of {IMAGE}, not {count}"
            )
    prompt, answer = entry.conversations
    return Item(str(entry.id), str(path), prompt.value, answer.value)


def split(listing: Listing, held_out: int, train: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Seeded choice of items to train on and to hold out; no image is in both.

    Raises:
        McdoError: if there are not enough items to hold out.

    """
    rng = np.random.default_rng(seed)
    items = [listing.items[i] for i in rng.permutation(len(listing.items))]
    held = items[:held_out]
    shown = {item.image for item in held}
    if len(held) < held_out:
        raise McdoError(f"{listing.path} holds {len(items)} usable items; {held_out} are to be held out")
    return [item for item in items[held_out:] if item.image not in shown][:train], held


def with_images(listing: Listing, items: Sequence[Item], root: Path, *, skip_bad: bool = False) -> Captioned:
    """The items with their pictures, each decoded once here.

    Raises:
        McdoError: if the root is no folder, or for pictures that cannot be used, naming item and path.

    """
    if not root.is_dir():
        raise McdoError(f"the image root {root} is not a folder; --image-root is where the JSON's 'image' paths begin")
    source = FolderSource(root)
    names = sorted({item.image for item in items})
    checked = dict(zip(names, for_each(lambda i: _check(source, names[i]), len(names), "checking images"), strict=True))
    bad = {name: found for name, found in checked.items() if isinstance(found, UnreadableImageError)}
    skipped = [
        Skipped(f"item (id {i.id!r})", f"image: {i.image}: {bad[i.image].reason}") for i in items if i.image in bad
    ]
    if skipped and (not skip_bad or len(skipped) == len(items)):
        raise _refusal(str(listing.path), skipped, len(items))
    good = [name for name in names if name not in bad]
    hashes = tuple(str(checked[name]) for name in good)
    images = ImageSet(
        name=f"llava-json:{listing.path}",
        ids=tuple(good),
        labels=None,
        class_names=(),
        seed=0,
        source=source,
        content_hashes=hashes,
        skipped=tuple(skipped),
        origins=hashes,
    )
    kept = tuple(item for item in items if item.image not in bad)
    return Captioned(images.name, kept, images, (*listing.skipped, *skipped))


def _check(source: FolderSource, name: str) -> str | UnreadableImageError:
    try:
        return source.load(name)[1]
    except UnreadableImageError as error:
        return error


def _refusal(where: str, bad: Sequence[Skipped], count: int) -> McdoError:
    lines = [f"  {each.path}: {each.reason}" for each in bad[:_NAMED_IN_ERROR]]
    more = [f"  and {len(bad) - _NAMED_IN_ERROR} more"] if len(bad) > _NAMED_IN_ERROR else []
    remedy = "repair them, or leave them out with --skip-unreadable" if len(bad) < count else "none can be used"
    return McdoError("\n".join([f"{where}: {len(bad)} of {count} items cannot be used; {remedy}", *lines, *more]))
