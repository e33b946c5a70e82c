"""What ends a command from outside: Ctrl-C, and SIGTERM and SIGHUP, which clusters, containers and terminals send."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["INTERRUPTED", "Ending", "ended_as_by_ctrl_c"]

INTERRUPTED = 130
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_PATIENCE = 10.0
"""Seconds within which the same request, sent again, is not a new one: the command is ending."""


class Ending:
    """Whether the command was told to end, and how.

    Attributes
    ----------
    number
        The signal; 0 while there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._last = -_PATIENCE
        self._terminals = [fd for fd in (1, 2) if _is_terminal(fd)]

    @property
    def exit_code(self) -> int:
        """128 and the signal, as of a process that it ended: 130, 143 or 129."""
        return 128 + self.number if self.number else INTERRUPTED

    def interrupt(self, number: int, _frame: object = None) -> None:
        """Raise a KeyboardInterrupt, whatever the signal; a SIGTERM or SIGHUP while one is obeyed changes nothing.

        Raises
        ------
        KeyboardInterrupt
            Where the main thread is.
        """
        now = time.monotonic()
        if number != signal.SIGINT and now - self._last < _PATIENCE:
            return
        self.number, self._last = self.number or number, now
        self._leave_lost_terminal()
        raise KeyboardInterrupt

    def repeat(self) -> None:
        """Send the signal to the main thread once more, in a moment."""
        time.sleep(0.02)
        self._last = -_PATIENCE
        signal.pthread_kill(threading.main_thread().ident or 0, self.number or signal.SIGINT)

    def _leave_lost_terminal(self) -> None:
        """Write nowhere in place of a terminal that has gone: every write to it would fail."""
        lost = [fd for fd in self._terminals if not _is_terminal(fd)]
        if lost:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for fd in lost:
                os.dup2(nowhere, fd)
            os.close(nowhere)


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: the step is undone, and a checkpoint is written.

    A signal that is ignored (SIGHUP under nohup, SIGINT in the background) stays so.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before: dict[int, Any] = {}
    shown = sys.unraisablehook

    def again(lost: Any) -> None:
        """Interrupt once more where Python had to drop an interrupt, in the end of an object or a callback from C."""
        if issubclass(lost.exc_type, KeyboardInterrupt):
            threading.Thread(target=ending.repeat, daemon=True).start()  # here, it would be dropped again
        else:
            shown(lost)

    for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, ending.interrupt)
    sys.unraisablehook = again
    try:
        yield ending
    finally:
        sys.unraisablehook = shown
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
