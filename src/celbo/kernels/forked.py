"""Processes that were forked after OpenMP ran: its threads are not in the child, and GNU's OpenMP cannot make new ones.

`multiprocessing` with "fork" copies a process, not its threads. A parallel loop in such a child hangs (torch), or numba
ends the child with a line on standard error, and whoever waits for its result waits for ever. So in such a child torch
gets one thread and the kernels of celbo run as serial loops, which give the same bits; what calls parallel kernels of
other packages is refused with a named error (`refuse_forked`).
"""

from __future__ import annotations

import os
import sys

from celbo.errors import InputError

__all__ = ["is_forked", "refuse_forked", "watch"]

_state = {"watched": False, "forked": False}


def watch() -> None:
    """Look after the children of this process; called where numba is first imported."""
    if not _state["watched"] and hasattr(os, "register_at_fork"):
        _state["watched"] = True
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    _state["forked"] = _state["forked"] or _openmp_ran()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _openmp_ran() -> bool:
    """Say whether numba's threads were made by OpenMP in this process, or in the one it was forked from."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    if parallel is None or not getattr(parallel, "_is_initialized", False):
        return False
    return bool(parallel.threading_layer() == "omp")


def is_forked() -> bool:
    """Return whether this process was forked from one whose OpenMP threads ran."""
    return _state["forked"]


def refuse_forked(what: str) -> None:
    """Raise an `InputError` where a parallel kernel of another package would end this process in silence.

    Parameters
    ----------
    what
        What is asked for, as the beginning of a sentence.
    """
    if is_forked():
        raise InputError(
            "cannot run in a process that was forked after a model was trained: OpenMP's threads are not in the copy",
            where=what,
            fix='Start processes with multiprocessing.get_context("spawn"), or fork before the first training.',
        )
