"""The named errors of celbo: each says what, where, the value and the fix.

>>> raise CountsError("holds values that are not counts", where="layer 'X'",
...                   value="cell 'AAAC-1' (row 12), gene 'CD3E' is 0.693",
...                   fix="It looks log-transformed; pass layer='counts'.")
CountsError: layer 'X' holds values that are not counts: cell 'AAAC-1' (row 12), gene 'CD3E' is 0.693. It looks
log-transformed; pass layer='counts'.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
    "in_flags",
    "listed",
    "nearest",
    "tells_flags",
]

_KEY = re.compile(r"(batch|labels|size_factor|categorical_covariate|continuous_covariate)_keys?(?= |$)")
_IN_FLAGS = ContextVar("in_flags", default=False)


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
        super().__init__(self._told(fix))

    def __str__(self) -> str:
        return self._told(_for_asker(self.fix, self.flag))

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
        super().__init__(f"{what} {fix}".strip())

    def __str__(self) -> str:
        return f"{self.what} {_for_asker(self.fix, self.flag)}".strip()


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
