"""A plug-in for pytest that prints the marks of each collected test behind its id."""

from __future__ import annotations

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """``MARKS id: names``, arguments of marks left out."""
    for item in session.items:
        print(f"MARKS {item.nodeid}: {' '.join(sorted({mark.name for mark in item.iter_markers()}))}")
