"""How many threads one operation of torch takes, and how the work of a thread is ended from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let every operation run on one thread.

    How many threads share a product decides the order of its sums, and so the last bits. With one, they do not depend
    on the machine's cores, and weights trained or passes measured in two processes are equal bit for bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class StoppedError(Exception):
    """Ends the work of a thread that is not wanted any more."""


_LOCAL = threading.local()


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Let :func:`check_stop` raise in this thread once ``stop`` is set."""
    _LOCAL.stop = stop
    try:
        yield
    finally:
        del _LOCAL.stop


def check_stop() -> None:
    """Raise StoppedError if this thread's work is not wanted any more: called before whatever takes long."""
    stop: threading.Event | None = getattr(_LOCAL, "stop", None)
    if stop is not None and stop.is_set():
        raise StoppedError
