"""Functions compiled with numba, kept on disk for the next process where there is a place for it; and threads for them.

Neither the package nor the home need be writable (a container, a shared installation), and the disk may be full: then
every process compiles anew, which takes a second or two. numba itself is imported with the first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Decorator: ``numba.njit`` that releases the interpreter lock; ``options`` are numba's own."""

    def decorated(function: Function) -> Function:
        @cache
        def fast() -> Callable[..., Any]:
            import numba

            try:
                return cast("Callable[..., Any]", numba.njit(cache=True, nogil=True, **options)(function))
            except RuntimeError:  # numba's word for no writable place
                return cast("Callable[..., Any]", numba.njit(nogil=True, **options)(function))

        @wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return fast()(*arguments)
            except OSError:  # it is compiled, and could not be written
                return fast()(*arguments)

        return cast("Function", call)

    return decorated


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """As many as torch takes when it starts: one for each core, or what OMP_NUM_THREADS says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else cores()


def in_parts(do: Callable[[slice], object], count: int) -> None:
    """``do`` every one of ``count`` things, in as many parts as there are threads, each in one of its own."""
    workers = threads()
    if workers == 1:
        do(slice(0, count))
        return
    step = -(-count // workers)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(do, [slice(start, start + step) for start in range(0, count, step)]))  # raises what one raised
