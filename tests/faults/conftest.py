"""Faults that are injected on purpose: each test says how many, and what became of them, for docs/faults.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Held = Callable[[str, int, str], None]


@pytest.fixture
def held(record_property: Callable[[str, object], None]) -> Held:
    """``held(what was injected, how often, what holds)``: a line of the page, to be called once all of it was seen."""

    def record(injected: str, count: int, outcome: str) -> None:
        record_property("fault", (injected, count, outcome))

    return record
