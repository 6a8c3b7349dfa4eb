"""Doing something to every image in a pool of threads: Pillow decodes and resizes outside the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from mcdo.names import printable

T = TypeVar("T")
MAX_WORKERS = 16
SHOW_PROGRESS_ABOVE = 2000


def for_each(do: Callable[[int], T], count: int, what: str, workers: int | None = None) -> list[T]:
    """``[do(0), …, do(count - 1)]``; the first error stops the rest. Results are kept, so return something small.

    A progress bar named ``what`` appears for more than 2000 images, on a terminal only.
    """
    hidden = None if count > SHOW_PROGRESS_ABOVE else True
    with ThreadPoolExecutor(workers or min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        try:
            done = pool.map(do, range(count))
            return list(tqdm(done, total=count, desc=printable(what), unit="image", disable=hidden))
        except BaseException:  # Ctrl-C may come anywhere here, and the pool waits for all that it was given
            pool.shutdown(wait=False, cancel_futures=True)
            raise
