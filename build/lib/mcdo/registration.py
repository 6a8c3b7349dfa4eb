"""Tables of what is known by name, to which other packages and conftests add without editing this one.

An entry point of an installed package is read when a table is first asked, and loaded when its own name is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from mcdo.errors import McdoError, nearest

Entry = TypeVar("Entry")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""Names stand in options between commas, colons and at signs."""


class Table(Generic[Entry]):
    """What is known by name.

    Args:
        what: what an entry is, for messages.
        group: of the entry points that add to it.
        accept: makes an entry of a name and what its entry point names; raises McdoError for anything else.
        reserved: names that are taken elsewhere.

    """

    def __init__(
        self, what: str, group: str, accept: Callable[[str, object], Entry], reserved: Collection[str] = ()
    ) -> None:
        self.what, self.group = what, group
        self._accept, self._reserved = accept, reserved
        self._entries: dict[str, Entry] = {}
        self._loaded: set[str] = set()

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry; the same one twice is once.

        Raises:
            McdoError: for a name that is taken, or that an option could not hold.

        """
        if not _NAME.fullmatch(name):
            raise McdoError(f"{self.what} {name!r}: a name has letters, digits, '_', '.' and '-'")
        if name in self._reserved or self._entries.get(name, entry) is not entry:
            raise self._taken(name, "registered twice")
        self._entries[name] = entry

    def find(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            McdoError: for an unknown name, with all there are; for one that two packages, or a package and a conftest,
                have given to different things; for an entry point that cannot be loaded.

        """
        point = self._points.get(name)
        if point is not None and name not in self._loaded:
            self._loaded.add(name)
            self.add(name, self._accept(name, loaded(point, f"the {self.what} {name!r}")))
        if name not in self._entries:
            raise McdoError(f"unknown {self.what} {name!r}; the nearest: {nearest(name, self)}. There are: {self}")
        return self._entries[name]

    @property
    def registered(self) -> Mapping[str, Entry]:
        """Entries that code has added so far, by name; entry points that nobody asked for are not among them."""
        return dict(self._entries)

    def __contains__(self, name: object) -> bool:
        return any(name in held for held in (self._entries, self._points, self._reserved))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._reserved, *self._entries, *self._points)))

    def __str__(self) -> str:
        return ", ".join(self)

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if point.name in self._reserved or points.get(point.name, point).value != point.value:
                raise self._taken(point.name, f"given by {_packages(self.group, point.name)}")
            points[point.name] = point
        return points

    def _taken(self, name: str, why: str) -> McdoError:
        return McdoError(f"the {self.what} {name!r} is there already ({why}): choose another name than {self}")


def loaded(point: EntryPoint, what: str) -> object:
    """What an entry point names.

    Raises:
        McdoError: if it cannot be imported, with the reason.

    """
    try:
        return point.load()
    except McdoError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise McdoError(
            f"{what}: {point.value} cannot be imported ({type(error).__name__}: {error}); "
            "it is PACKAGE.MODULE:NAME, found from where Python looks for modules (PYTHONPATH)"
        ) from error


def _packages(group: str, name: str) -> str:
    given = [p.dist.name if p.dist else p.value for p in entry_points(group=group) if p.name == name]
    return " and ".join(dict.fromkeys(given))
