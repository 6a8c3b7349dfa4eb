"""The one exception type of the harness, and the "did you mean" helper behind its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class McdoError(Exception):
    """Something the user can act on: the message says what is wrong, where, and what to do."""


def nearest(name: str, choices: Iterable[str], n: int = 3) -> str:
    """The choices most like ``name``, as text for an error message (all of them when nothing is close)."""
    known = sorted(choices)
    return ", ".join(difflib.get_close_matches(name, known, n=n, cutoff=0.4) or known)
