from __future__ import annotations

from collections.abc import Iterator

import pytest

from mcdo.threads import one_thread


@pytest.fixture(autouse=True, scope="module")
def on_one_thread() -> Iterator[None]:
    """Beside a busy core, two threads take ten times as long for such small products as one."""
    with one_thread():
        yield
