r"""LLaVA-Pretrain's JSON: a list of {id, image, conversations}, and the images below a root.

``conversations`` holds two turns, ``{"from": "human", "value": "<image>\n…"}`` and ``{"from": "gpt", "value": …}``.
Everything is checked before anything is computed: the texts of all items when the file is read, the pictures of the
chosen ones when they are chosen. So a bad item costs no finished work; with ``skip_bad`` it is left out and recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mcdo.errors import McdoError
from mcdo.images import ImageSet, Skipped
from mcdo.images.decode import UnreadableImageError
from mcdo.images.folder import FolderSource
from mcdo.images.threads import for_each
from mcdo.studies.connector.items import IMAGE, Captioned, Item

_NAMED_IN_ERROR = 10
_TURNS = ("human", "gpt")


@dataclass(frozen=True)
class Listing:
    """The items of a file in its order, and those that were left out."""

    path: Path
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()


class _BadItemError(Exception):
    """What is wrong with an item, beginning with the key."""


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
        try:
            item = _item(entry)
            if item.id in items:
                raise _BadItemError("key 'id' is that of an earlier item; ids must be unique")
            items[item.id] = item
        except _BadItemError as error:
            name = entry.get("id") if isinstance(entry, dict) else None
            bad.append(Skipped(f"item {i}" + (f" (id {name!r})" if name is not None else ""), str(error)))
    if bad and (not skip_bad or not items):
        raise _refusal(str(path), bad, len(held))
    return Listing(path, tuple(items.values()), tuple(bad))


def _load(path: Path) -> list[Any]:
    expected = 'expected a JSON list of {"id", "image", "conversations"}'
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise McdoError(f"{path} cannot be read ({error.strerror}); {expected}") from error
    except ValueError as error:
        raise McdoError(f"{path} is no JSON ({error}); {expected}") from error
    if not isinstance(held, list) or not held:
        what = "is empty" if held == [] else f"holds a {type(held).__name__}"
        raise McdoError(f"{path} {what}; {expected}")
    return held


def _item(entry: Any) -> Item:
    if not isinstance(entry, dict):
        raise _BadItemError(f"is a {type(entry).__name__}, not an object")
    for key in ("id", "image", "conversations"):
        if key not in entry:
            raise _BadItemError(f"key {key!r} is missing")
    prompt, answer = _conversation(entry["conversations"])
    return Item(_id(entry["id"]), _image(entry["image"]), prompt, answer)


def _id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _BadItemError(f"key 'id' is {value!r}; it must be text or a whole number")
    return str(value)


def _image(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _BadItemError(f"key 'image' is {value!r}; it must be a path below the image root")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise _BadItemError(f"key 'image' is {value!r}, which lies outside the image root")
    return str(path)


def _conversation(turns: Any) -> tuple[str, str]:
    if not isinstance(turns, list) or len(turns) != len(_TURNS):
        raise _BadItemError("key 'conversations' must be a list of two turns, human and gpt")
    values = []
    for i, (turn, speaker) in enumerate(zip(turns, _TURNS, strict=True)):
        where = f"key 'conversations[{i}]"
        if not isinstance(turn, dict) or turn.get("from") != speaker:
            raise _BadItemError(f"{where}.from' must be {speaker!r}")
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise _BadItemError(f"{where}.value' must be text that is not empty")
        values.append(turn["value"])
    for i, count in enumerate((1, 0)):
        if values[i].count(IMAGE) != count:
            raise _BadItemError(
                f"key 'conversations[{i}].value' holds {values[i].count(IMAGE)} of {IMAGE}, not {count}"
            )
    return values[0], values[1]


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
        Skipped(f"item (id {i.id!r})", f"key 'image': {i.image}: {bad[i.image].reason}")
        for i in items
        if i.image in bad
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
