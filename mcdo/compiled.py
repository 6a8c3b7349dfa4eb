"""Functions compiled with numba, kept on disk for the next process where there is a place for it.

Neither the package nor the home need be writable (a container, a shared installation), and the disk may be full: then
every process compiles anew, which takes a second or two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Decorator: ``numba.njit`` that releases the interpreter lock; ``options`` are numba's own."""

    def decorated(function: Function) -> Function:
        try:
            fast = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba's word for no writable place
            return cast("Function", numba.njit(nogil=True, **options)(function))

        @wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return fast(*arguments)
            except OSError:  # it is compiled, and could not be written
                return fast(*arguments)

        return cast("Function", call)

    return decorated
