"""How many threads one operation of torch or NumPy takes, and how the work of a thread is ended from outside."""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_NUMPYS_OWN = re.compile(r"[/\\](numpy|scipy)(\.libs|[/\\]\.dylibs)[/\\]")
"""Where the wheels of NumPy and SciPy keep their BLAS; what torch multiplies with is another, and stays as it is."""


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


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let every product of NumPy run on one thread.

    Those of statistics are small, and the threads that share one stay awake behind it, on cores that what is compiled
    waits for. Where NumPy came with a BLAS of another name (conda's, Apple's), nothing is changed; nor in a child of
    multiprocessing, since threads do not survive a fork and none are started there.
    """
    if multiprocessing.parent_process() is not None:
        yield
        return
    from threadpoolctl import ThreadpoolController

    loaded = ThreadpoolController()
    own = [each.filepath for each in loaded.lib_controllers if _NUMPYS_OWN.search(each.filepath)]
    with loaded.select(filepath=own).limit(limits=1):
        yield


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
