"""What callers give: natural forms of a number are accepted, anything else is refused by name.

A whole number may come as 3, 3.0, a NumPy scalar or a tensor of one element; true, "3", 2.5 and NaN are mistakes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mcdo.errors import McdoError

T = TypeVar("T")
SEEDS = 2**63
"""Seeds lie below: what every generator here takes, and no two of them are the same to one that counts in 64 bits."""


def real(name: str, value: Any) -> float:
    """``value`` as a finite float; otherwise McdoError that begins with ``name``."""
    found = number(value)
    if found is None or not math.isfinite(found):
        raise McdoError(f"{name} = {value!r}: it must be a number")
    return float(found)


def whole(name: str, value: Any, least: int | None = None, below: int | None = None) -> int:
    """``value`` as an int that is at least ``least`` and less than ``below``; otherwise McdoError."""
    found = number(value)
    if found is None or not math.isfinite(found) or found != int(found):
        raise McdoError(f"{name} = {value!r}: it must be a whole number")
    found = int(found)
    if (least is not None and found < least) or (below is not None and found >= below):
        upper = "" if below is None else f" and less than {below}"
        raise McdoError(f"{name} = {found}: it must be at least {least}{upper}")
    return found


def path(name: str | Path) -> Path:
    """A path that somebody has named, with ``~`` written out; otherwise McdoError for one that cannot be."""
    try:
        found = Path(name).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            found.lstat()
    except (RuntimeError, ValueError, OSError) as error:  # no such user, a NUL, too long
        raise McdoError(f"{name} is no path: {error}") from error
    return found


def wholes(name: str, values: Any) -> tuple[int, ...]:
    """One whole number, or any number of them, as a tuple; otherwise McdoError."""
    if number(values) is not None:
        return (whole(name, values),)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise McdoError(f"{name} = {values!r}: name whole numbers, such as 16 or (4, 16, 64)")
    return tuple(whole(name, value) for value in values)


def seed(value: Any) -> int:
    """A seed: a whole number in [0, 2**63)."""
    return whole("seed", value, least=0, below=SEEDS)


def instance(name: str, value: Any, kind: type[T], remedy: str) -> T:
    """``value`` if it is of a kind; otherwise McdoError that says what it is and ends in ``remedy``."""
    if not isinstance(value, kind):
        raise McdoError(f"{name} is {_brief(value)} ({type(value).__name__}); {remedy}")
    return value


def having(name: str, value: T, attribute: str, remedy: str) -> T:
    """``value`` if it has an attribute; otherwise as :func:`instance`."""
    if not hasattr(value, attribute):
        raise McdoError(f"{name} is {_brief(value)} ({type(value).__name__}); {remedy}")
    return value


def _brief(value: object) -> str:
    shape = getattr(value, "shape", None)
    text = " ".join(repr(value).split()) if shape is None else f"an array of shape {list(shape)}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(value: Any) -> int | float | None:
    """The Python number that ``value`` is, or None: of a bool, text, and arrays of several elements."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return None if isinstance(value, bool) or not isinstance(value, (int, float)) else value
