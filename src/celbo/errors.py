"""The named errors of celbo: each says what, where, the value and the fix.

>>> raise CountsError("holds values that are not counts", where="layer 'X'",
...                   value="cell 'AAAC-1' (row 12), gene 'CD3E' is 0.693",
...                   fix="It looks log-transformed; pass layer='counts'.")
CountsError: layer 'X' holds values that are not counts: cell 'AAAC-1' (row 12), gene 'CD3E' is 0.693. It looks
log-transformed; pass layer='counts'.
"""

from __future__ import annotations

import difflib
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

__all__ = [
    "CategoryError",
    "CelboError",
    "CelboWarning",
    "CountsError",
    "DependencyError",
    "GenesError",
    "InputError",
    "ModelFileError",
    "NotTrainedError",
    "OptionError",
    "ReadError",
    "SchemaError",
    "TrainingError",
    "WriteError",
    "escaped",
    "harmless",
    "in_flags",
    "listed",
    "logger_of",
    "nearest",
    "say",
    "tells_flags",
]

_KEY = re.compile(r"(batch|labels|size_factor|categorical_covariate|continuous_covariate)_keys?(?= |$)")
_IN_FLAGS = ContextVar("in_flags", default=False)
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Kinds of characters that act or hide: control, format (bidi marks, zero width), surrogate, line separators."""


def harmless(text: object, *, lines: bool = False) -> str:
    r"""Return a text whose control, bidi and invisible characters are escapes such as ``\x1b``; the others stay.

    Names of batches, labels, genes and files are whatever a stranger wrote, and a terminal obeys what it is sent:
    ``\x1b[2J`` clears it. Everything of celbo's that reaches a terminal or a log goes through here: the text of errors
    and warnings, the log (`logger_of`), and what commands print (`say`).

    Parameters
    ----------
    text
        What to show; its `str` is taken.
    lines
        Whether the text may have lines and tabs of its own. A name may not: it could forge a line of a log.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    kept = "\n\t" if lines else ""
    return "".join(
        char if char in kept or char.isprintable() or unicodedata.category(char) not in _ACTING else escaped(char)
        for char in shown
    )


def escaped(char: str) -> str:
    r"""Return a character as an escape: ``\n``, ``\x1b``, ``\u202e``."""
    code = ord(char)
    if code < 0x80:
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def say(text: object, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print to standard output, or to `file`, without letting a name act on the terminal: the only `print` of celbo."""
    print(harmless(text, lines=True), end=end, file=file or sys.stdout, flush=True)


class _Harmless(logging.Filter):
    """Makes a record harmless before any handler sees it, also those of the program that celbo is used in."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = harmless(record.getMessage()), None
        return True


def logger_of(room: str) -> logging.Logger:
    """Return the logger of a room, such as "celbo.training", whose messages cannot act on a terminal."""
    logger = logging.getLogger(room)
    if not any(isinstance(found, _Harmless) for found in logger.filters):
        logger.addFilter(_Harmless())
    return logger


@contextmanager
def in_flags() -> Iterator[None]:
    """Let every error and warning that is shown in this block name flags of the command line instead of Python.

    The command line does so for all of its commands. Otherwise the words are for somebody who writes Python.
    """
    token = _IN_FLAGS.set(True)
    try:
        yield
    finally:
        _IN_FLAGS.reset(token)


def tells_flags() -> bool:
    """Return whether what is shown now is for a user of the command line."""
    return _IN_FLAGS.get()


def _for_asker(fix: str, flag: str) -> str:
    return flag if flag and _IN_FLAGS.get() else fix


def _place(where: str) -> str:
    """Return a place as the asker writes it: a user of the command line has no `adata`, and gives keys as flags."""
    if not _IN_FLAGS.get():
        return where
    key = _KEY.match(where)
    if key is None:
        return where.replace("adata.", "")
    plural = "s" if key[0].endswith("covariate_key") else ""
    return f"--{key[0].replace('_', '-')}{plural}{where[key.end() :]}"


class CelboError(Exception):
    """Base of all errors of celbo.

    Parameters
    ----------
    what
        What is wrong, as the rest of a sentence that begins with `where`.
    where
        The file, layer, column or option it was found in.
    value
        The offending value, with the names of its cell and gene where there are any.
    fix
        What to do about it: full sentences. They may name Python: keywords, calls, slots of an AnnData.
    flag
        The same for a user of the command line, who has flags and files but no AnnData to edit; "" where `fix` serves
        both. Which of the two is told is decided when the error is shown, see `in_flags`.
    """

    def __init__(self, what: str, *, where: str = "", value: str = "", fix: str = "", flag: str = "") -> None:
        self.what, self.where, self.value, self.fix, self.flag = what, where, value, fix, flag
        super().__init__(harmless(self._told(fix)))

    def __str__(self) -> str:
        return harmless(self._told(_for_asker(self.fix, self.flag)))

    def _told(self, fix: str) -> str:
        what = self.what.replace("adata.", "") if _IN_FLAGS.get() else self.what
        sentence = f"{_place(self.where)} {what}".strip()
        if self.value:
            sentence += f": {self.value}"
        sentence = sentence if sentence.endswith((".", "!", "?")) else sentence + "."
        return f"{sentence} {fix}".strip()


class InputError(CelboError, ValueError):
    """The data or an argument cannot be used (exit code 3 on the command line)."""


class ReadError(InputError):
    """A file cannot be read as counts."""


class CountsError(InputError):
    """A matrix holds values that are not counts."""


class SchemaError(InputError):
    """A column, a name or a covariate is missing, duplicated or malformed."""


class GenesError(InputError):
    """The genes of the data are not the genes of the model."""


class CategoryError(InputError):
    """The data hold a batch, label or covariate category that the model never saw."""


class OptionError(InputError, TypeError):
    """An option does not exist or has an impossible value (exit code 2 on the command line)."""


class ModelFileError(InputError):
    """A saved model or checkpoint is missing, damaged, or of another version."""


class NotTrainedError(CelboError, RuntimeError):
    """The model was asked before it was trained."""


class TrainingError(CelboError, RuntimeError):
    """Training failed (exit code 4 on the command line)."""


class WriteError(CelboError, OSError):
    """A file or folder cannot be written (read-only folder, full disk); what was there before is unchanged."""


class DependencyError(CelboError, ImportError):
    """A package behind an extra is not installed."""


class CelboWarning(UserWarning):
    """Work goes on, but the user should know.

    Parameters
    ----------
    what
        What happened: full sentences.
    fix, flag
        What to do about it, in Python and on the command line, as in `CelboError`.
    """

    def __init__(self, what: str, *, fix: str = "", flag: str = "") -> None:
        self.what, self.fix, self.flag = what, fix, flag
        super().__init__(harmless(f"{what} {fix}".strip()))

    def __str__(self) -> str:
        return harmless(f"{self.what} {_for_asker(self.fix, self.flag)}".strip())


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence "Did you mean 'x'?" for the known name nearest to `name`, or the list of known names."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {listed(names)}."


def listed(names: Iterable[object], *, limit: int = 10) -> str:
    """Return names as "'a', 'b', 'c' and 7 more", at most `limit` of them, each cut at 80 characters."""
    items = list(names)
    shown = ", ".join(repr(n if len(str(n)) <= 80 else str(n)[:77] + "...") for n in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
