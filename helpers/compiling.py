"""How the inner loops in plain loops of Python are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: compiles a function with numba on its first call and keeps the result on disk.

    The GIL is released, so that callers can run the function in threads. Where no folder can be written (neither the
    one of the source nor the user's cache nor NUMBA_CACHE_DIR), every process compiles anew.

    Args:
        options: further options of `numba.njit`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba: "cannot cache function ...: no locator available"
            return njit(nogil=True, **options)(function)

    return decorate
