"""Try in a process of its own what may crash or never end: compiled libraries that read damaged files."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import warnings
from collections.abc import Callable

__all__ = ["end_of"]

_MEMORY = 4 << 30  # bytes above what is in use


def end_of(work: Callable[[], object], *, seconds: int) -> str:
    """Return how `work` ends in a copy of this process, if that is not by itself: "" where it returns or raises.

    Only what compiled code does is found so: a crash, or work without an end. The copy shares the memory of this
    process and takes a few milliseconds. Where a process cannot be copied safely, nothing is tried.

    Parameters
    ----------
    work
        What to try. It must use no threads; what it returns or raises is lost.
    seconds
        Of processor time that it may take, so that a slow disk does not count.
    """
    if not hasattr(os, "fork") or sys.platform == "darwin":
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside the copy: it does not wait for them
        try:
            child = os.fork()
        except OSError:  # no memory is promised for a copy
            return ""
    if child == 0:
        _try(work, seconds)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    if not os.WIFSIGNALED(status):
        return ""
    if os.WTERMSIG(status) in {signal.SIGXCPU, signal.SIGKILL}:
        return f"it does not end within {seconds} seconds"
    return f"it ends with the signal {signal.Signals(os.WTERMSIG(status)).name}"


def _try(work: Callable[[], object], seconds: int) -> None:
    """Do it, in the copy, and end the copy without a word."""
    try:
        import resource

        faulthandler.disable()
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        with open("/proc/self/statm") as told:  # noqa: PTH123 - as little as can be
            used = int(told.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = used + _MEMORY if hard == resource.RLIM_INFINITY else min(hard, used + _MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        work()
    except BaseException:  # it is found again where it can be told
        pass
    finally:
        os._exit(0)
