"""Functions compiled with numba, kept on disk for the next process where there is a place for it.

Neither the package nor the home need be writable (a container, a shared installation), and the disk may be full: then
every process compiles anew, which takes a second or two. numba itself is imported with the first call.
"""

from __future__ import annotations

from collections.abc import Callable
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
