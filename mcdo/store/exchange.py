"""Merging two stores: this one, and one in another folder or behind a URL (ssh, S3: whatever fsspec reaches).

What one has and the other lacks is copied: whole results, finished parts of unfinished ones, and what is known of
encoders. Nothing is overwritten but what is damaged: a copy on this machine is read whole to know, of one elsewhere the
head alone. A file is read and its checksum compared before it leaves and after it has arrived, where it lies under a
temporary name until then.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.store.files import DAMAGE, UNWRITTEN, read
from mcdo.store.store import ENCODERS, MARKER, PARTS, RESULT, USES

_RESULT = re.compile(rf"([0-9a-f]{{2}})/(\1[0-9a-f]{{62}}){re.escape(RESULT)}")
_PART = re.compile(rf"([0-9a-f]{{2}})/(\1[0-9a-f]{{62}}){re.escape(PARTS)}/[0-9a-f]{{32}}{re.escape(RESULT)}")
_CARD = re.compile(rf"{ENCODERS}/[^/.][^/]*\.json")
_USE = re.compile(rf"{USES}/[^/.][^/]*/[0-9a-f]{{64}}")
_MOST_HEAD = 2**24
_MOST_BESIDE = 2**20
"""Bytes of a file that is no result."""


@dataclass
class Merged:
    """What was done.

    Attributes:
        copied: names of files.
        there: how many were there already.
        size: bytes that were copied.
        damaged: what was not copied, and why.
        replaced: what was damaged in the target, and how; a sound copy is there now.
        different: results that both have under one key with other numbers; each keeps its own.

    """

    copied: list[str] = field(default_factory=list)
    there: int = 0
    size: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)


class _Place:
    """The folder of a store, wherever it is."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
            from fsspec.implementations.local import LocalFileSystem
        except ImportError as error:
            raise McdoError('stores elsewhere need fsspec: pip install "mcdo[cluster]"') from error
        self.url = url
        try:
            self.files, root = fsspec.core.url_to_fs(url)
        except Exception as error:  # of a library for each protocol, which has errors of its own
            raise McdoError(f"{url} cannot be reached: {error}") from error
        self.root = str(root).rstrip("/")
        self._is_local = isinstance(self.files, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(self) -> set[str]:
        """Names of files below it that are a store's. Raises OSError for a local folder that may not be read."""
        if not self.files.exists(self.root):
            return set()
        if self._is_local:  # find passes over such folders without a word, and nothing of them would be copied
            deque(os.walk(self.root, onerror=_raise), maxlen=0)
        found = {
            str(path)[len(self.root) :].lstrip("/")
            for path, held in self.files.find(self.root, detail=True).items()
            if held.get("type", "file") == "file" and not held.get("islink")
        }
        return {name for name in found if name == MARKER or _whose(name) is not None}

    def head(self, name: str) -> dict[str, Any]:
        """What the head of a result says of it. Raises one of DAMAGE for what is none, or longer than its head says."""
        with self.files.open(self.path(name), "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > _MOST_HEAD:
                raise ValueError("it has no head")
            arrays = _object(file.read(length))
        said: dict[str, Any] = arrays.pop("__metadata__")
        end = max((int(each["data_offsets"][1]) for each in arrays.values()), default=0)
        if not isinstance(said, dict) or self.files.size(self.path(name)) != 8 + length + end:
            raise ValueError("it is not what its head says")
        return said

    def damage(self, name: str, key: str) -> str:
        """What is wrong with a file here, or nothing."""
        try:
            if key and self._is_local:
                read(Path(self.path(name)), key)
            elif key and self.head(name).get("key") != key:
                raise ValueError("it holds another measurement")
            elif _CARD.fullmatch(name) and not _card(self, name):
                raise ValueError("it is no card of an encoder")
        except FileNotFoundError:  # a part of what has become whole
            return ""
        except DAMAGE as error:
            return str(error) or type(error).__name__
        return ""

    def put(self, name: str, source: Path, *, replace: bool = False) -> None:
        """Copy a local file to its place, read back before it has its name; ``replace`` what has that already."""
        part = f"{self.path(name)}.{secrets.token_hex(8)}{UNWRITTEN}"
        parent = part.rpartition("/")[0]
        self.files.makedirs(parent, exist_ok=True)
        try:
            self.files.put_file(str(source), part)
            with tempfile.TemporaryDirectory() as folder:
                self.files.get_file(part, str(back := Path(folder) / "back"))
                if back.read_bytes() != source.read_bytes():
                    raise McdoError(f"{name} did not arrive at {self.url} as it left; try again")
            there = self.files.exists(self.path(name))
            if there and replace:  # mv replaces nothing on some file systems
                self.files.rm_file(self.path(name))
            if there and not replace:  # by another, meanwhile
                self.files.rm_file(part)
            else:
                self.files.mv(part, self.path(name))
        except BaseException:
            with suppress(Exception):
                self.files.rm_file(part)
            raise

    def fetch(self, name: str, target: Path, key: str) -> None:
        """Copy a file from here to a local one, and verify it. Raises one of DAMAGE, or OSError."""
        if key:
            if self.head(name).get("key") != key:  # before gigabytes of something else are copied
                raise ValueError("it holds another measurement")
        elif (size := int(self.files.size(self.path(name)) or 0)) > (0 if _USE.fullmatch(name) else _MOST_BESIDE):
            raise ValueError(f"it has {size} bytes, more than there may be")
        self.files.get_file(self.path(name), str(target))
        if key:
            read(target, key)
        elif _CARD.fullmatch(name) and not _object(target.read_bytes()):
            raise ValueError("it is no card of an encoder")


def _raise(error: OSError) -> None:
    raise error


def _whose(name: str) -> str | None:
    """Key of a result or part, "" for what is no result, None for what is not a store's."""
    found = _RESULT.fullmatch(name) or _PART.fullmatch(name)
    if found is not None:
        return found[2]
    return "" if _CARD.fullmatch(name) or _USE.fullmatch(name) else None


def merge(source: str, target: str) -> Merged:
    """Copy to the store ``target`` what it lacks of ``source``; each a folder, or a URL.

    Raises:
        McdoError: if the source is no store, the target is a folder of something else, or one cannot be reached.

    """
    here, there = _Place(source), _Place(target)
    try:
        return _merged(here, there)
    except McdoError:
        raise
    except Exception as error:  # as above: no credentials, no bucket, a connection that broke
        raise McdoError(f"from {source} to {target}: {error}; what has arrived stays, so try again") from error


def _merged(here: _Place, there: _Place) -> Merged:
    names, held = here.names(), there.names()
    if MARKER not in names:
        raise McdoError(f"{here.url} is no store: it has no file {MARKER}")
    if MARKER not in held and there.files.exists(there.root) and there.files.ls(there.root):
        raise McdoError(f"{there.url} is no store (it has no file {MARKER}) and not empty, so nothing is put there")
    done = Merged()
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "file"
        if MARKER not in held:
            here.fetch(MARKER, local, "")
            there.put(MARKER, local)
        for name, key in _in_order(names, held):
            broken = there.damage(name, key) if name in held else ""
            if name in held and not broken:
                done.there += 1
                _compare(here, there, name, local, done)
                continue
            try:
                here.fetch(name, local, key)
            except FileNotFoundError:  # a part of what has become whole
                continue
            except DAMAGE as error:
                done.damaged[name] = f"{error}; nor is the copy that is there sound: {broken}" if broken else str(error)
                continue
            there.put(name, local, replace=bool(broken))
            if broken:
                done.replaced[name] = broken
            done.copied.append(name)
            done.size += local.stat().st_size
    return done


def _in_order(names: set[str], held: set[str]) -> Iterator[tuple[str, str]]:
    """What is to be looked at: results before parts, and no part of what is whole in either."""
    whole = {name for name in names | held if _RESULT.fullmatch(name)}
    for name in sorted(names - {MARKER}, key=lambda each: (_PART.fullmatch(each) is not None, each)):
        part = _PART.fullmatch(name)
        if part is None or f"{part[1]}/{part[2]}{RESULT}" not in whole:
            yield name, _whose(name) or ""


def _compare(here: _Place, there: _Place, name: str, local: Path, done: Merged) -> None:
    """A result that both have is the same or is named; of an encoder, what one knows more than the other is added."""
    if _RESULT.fullmatch(name):
        with suppress(*DAMAGE):
            if here.head(name).get("checksum") != there.head(name).get("checksum"):
                done.different.append(name)
    elif _CARD.fullmatch(name):
        mine, its = (_card(place, name) for place in (here, there))
        more = {fact: value for fact, value in mine.items() if value is not None and its.get(fact, 0) is None}
        if more and all(its[fact] == value for fact, value in mine.items() if fact not in more and value is not None):
            local.write_text(json.dumps({**its, **more}, indent=1) + "\n", encoding="utf-8")
            part = f"{there.path(name)}.{secrets.token_hex(8)}{UNWRITTEN}"
            there.files.put_file(str(local), part)
            there.files.mv(part, there.path(name))


def _card(place: _Place, name: str) -> dict[str, Any]:
    return _object(place.files.cat_file(place.path(name), end=_MOST_BESIDE))


def _object(content: bytes) -> dict[str, Any]:
    """An object in JSON, {} for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
