from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mcdo.threads import one_thread


@pytest.fixture(autouse=True, scope="module")
def on_one_thread() -> Iterator[None]:
    """Beside a busy core, two threads take ten times as long for such small products as one."""
    with one_thread():
        yield


@pytest.fixture(autouse=True, scope="module")
def figures_in_one_format(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drawing a figure thrice is what report/ is about, and most of the time of a small experiment elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "report":
            patch.setattr("mcdo.report.figures.FORMATS", {"png": {"Software": ""}})
        yield


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard also where a shell started the tests in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
