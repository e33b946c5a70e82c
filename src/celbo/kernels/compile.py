"""How every loop here is compiled: with numba, on first use, kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FunctionType
from typing import Any, TypeVar

import numba

__all__ = ["SPLIT_SUMS", "compiled", "serial"]

SPLIT_SUMS = frozenset({"reassoc", "nsz"})
"""Flags for `compiled`: a sum is split over vector lanes."""

F = TypeVar("F", bound=Callable[..., Any])


def compiled(*, parallel: bool = False, flags: frozenset[str] = frozenset()) -> Callable[[F], F]:
    """Return a decorator that compiles a function with numba, on first use, and keeps the result on disk.

    `flags` are LLVM's licences for its floating-point arithmetic beyond fused multiply-add: "reassoc" splits a sum over
    vector lanes; never in a function whose rounding is planned. Where no folder can be written (celbo.caches looks for
    one), each process compiles anew.
    """
    settings = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *flags}, "parallel": parallel}

    def decorate(function: F) -> F:
        made: F = numba.njit(**settings)(function)
        with suppress(RuntimeError, OSError, AttributeError):  # no folder can be written; NUMBA_DISABLE_JIT
            made.enable_caching()  # type: ignore[attr-defined]
        return made

    return decorate


@cache
def serial(kernel: Any) -> Any:
    """Return a kernel without threads that gives the same bits: for processes whose threads were lost in a fork."""
    function = kernel.py_func
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    twin.__qualname__ = f"{function.__qualname__}_serial"  # a name of its own in the cache on disk
    return compiled(flags=frozenset(kernel.targetoptions["fastmath"]))(twin)
