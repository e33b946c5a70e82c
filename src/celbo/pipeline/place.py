"""Where a command writes its folder: beside what is there, which goes when the new one is finished, and not before.

    out/                    what the last finished run has left, and whatever the user put there
    out/.celbo-lock         who writes (celbo.locks)
    out/.celbo-new/         a run that is to replace it, while it is written; --resume goes on with it
    out/.celbo-done/        the same once it is finished: from here on the exchange is only renames, and
    out/.celbo-old/           can be finished by anyone after a kill: the old run is moved out,
    out/.celbo-in/            then .celbo-done is called so and its files are moved in, then the old run is removed

What is removed is known file by file: what has a name that celbo does not write is the user's, and is put back where it
was.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celbo.caches import PREFIX
from celbo.errors import OptionError, WriteError
from celbo.files import flush_folder, is_temporary, named_errors, remove_own, remove_temporary
from celbo.locks import LOCK, alone, refuse_held
from celbo.pipeline.config import made_by

__all__ = ["COMPARISON", "NEW", "RUN", "Contents", "Found", "not_writable", "options_of_run", "settle"]

NEW = ".celbo-new"
_DONE, _IN, _OLD = ".celbo-done", ".celbo-in", ".celbo-old"
_OURS = (LOCK, NEW, _DONE, _IN, _OLD)


@dataclass(frozen=True)
class Contents:
    """What a command writes into its folder."""

    what: str
    """What is in the folder, such as "a run of celbo"."""
    marker: str
    """The file by which it is known, written first."""
    is_marker: Callable[[Path], bool]
    """Whether a file of that name is one."""
    pattern: re.Pattern[str]
    """Its files, by their path in the folder."""
    tops: tuple[str, ...]
    """Its files and folders at the top."""

    def owns(self, place: str) -> bool:
        """Whether a file is one that the command writes, by its path in the folder."""
        return self.pattern.fullmatch(place) is not None

    def state(self, folder: Path) -> str:
        """Return "empty", "there" (with what the command writes), "other" or "file"."""
        if not folder.exists():
            return "empty"
        if not folder.is_dir():
            return "file"
        if (folder / self.marker).is_file() and self.is_marker(folder / self.marker):
            return "there"
        with named_errors(folder):
            return "empty" if all(map(self._is_nothing, folder.iterdir())) else "other"

    def _is_nothing(self, entry: Path) -> bool:
        """Whether an entry of a folder is what a command that has come to nothing leaves behind."""
        if entry.name in _OURS or entry.name.startswith(PREFIX) or is_temporary(entry.name):
            return True
        return entry.name in self.tops and entry.is_dir() and not any(entry.iterdir())

    def clear(self, folder: Path, *, others_to: Path | None = None) -> None:
        """Remove what the command has written into a folder, and the folder where it is empty then."""
        remove_own(folder, self.owns, others_to=others_to)

    def tidy(self, folder: Path) -> None:
        """Remove what writes that were killed have left of the command's files; the lock of the folder must be held."""
        names = (*self.tops, LOCK[1:])
        for place in (folder, *(folder / top for top in self.tops)):
            if place.is_dir() and not place.is_symlink():
                remove_temporary(place, of=None if place != folder else names)

    def begin(self, found: Found) -> None:
        """Make the folder that is written, without what an earlier one that was not finished has left there."""
        if not found.goes_on:
            self.clear(found.home / NEW, others_to=found.home)
        with named_errors(found.path):
            found.path.mkdir(exist_ok=True)
            for place in {found.home, found.path}:
                self.tidy(place)

    def exchange(self, home: Path) -> None:
        """Put the finished `.celbo-new` of a folder in the place of what it replaces."""
        self.settle(home)
        if (home / _OLD).exists():
            fix = "Look what it holds, and move it elsewhere."
            raise WriteError("is in the way", where=f"{str(home / _OLD)!r}", fix=fix)
        with named_errors(home):
            flush_folder(home / NEW)
            (home / NEW).rename(home / _DONE)
            flush_folder(home)
        self.settle(home)

    def settle(self, home: Path) -> None:
        """Finish an exchange, wherever it was cut off."""
        done, moving, old = (home / name for name in (_DONE, _IN, _OLD))
        with named_errors(home):
            if done.is_dir():
                old.mkdir(exist_ok=True)
                for top in self.tops:
                    _move(home / top, old / top)
                flush_folder(home)
                done.rename(moving)
            if moving.is_dir():
                for top in self.tops:
                    _move(moving / top, home / top)
                flush_folder(home)
                self.clear(moving, others_to=home)
        self.clear(old, others_to=home)


def _is_run(marker: Path) -> bool:
    try:
        return bool(made_by(marker))
    except OptionError:
        return False


def _is_comparison(marker: Path) -> bool:
    try:
        return isinstance(json.loads(marker.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


_TENSORS = r"(weights|best|optimizer|split)\.safetensors"
RUN = Contents(
    what="a run of celbo",
    marker="run.toml",
    is_marker=_is_run,
    pattern=re.compile(
        r"run\.toml|result\.h5ad|report\.html|celbo_mqc\.json|celbo_elbo_mqc\.json|versions\.yml"
        rf"|model/(model\.json|history\.csv|{_TENSORS})"
        r"|tables/(latent|clusters|cells|markers|history|metrics|label_purity|resolutions)\.(csv|parquet)"
        rf"|checkpoint/({re.escape(LOCK)}|epoch-\d{{6,}}/(state\.json|{_TENSORS}))"
    ),
    tops=(
        *("run.toml", "model", "checkpoint", "tables", "result.h5ad", "report.html"),
        *("celbo_mqc.json", "celbo_elbo_mqc.json", "versions.yml"),
    ),
)
"""What `celbo run` and `celbo train` write."""
COMPARISON = Contents(
    what="a comparison",
    marker="parts/compare.json",
    is_marker=_is_comparison,
    pattern=re.compile(
        r"compare\.html|versions\.yml|tables/(compare|columns)\.(csv|parquet)|parts/[a-z0-9_]+\.(json|npz)"
    ),
    tops=("parts", "tables", "compare.html", "versions.yml"),
)
"""What `celbo compare` writes."""


@dataclass(frozen=True)
class Found:
    """Where a command writes, once it is known that it may."""

    home: Path
    """The folder that was asked for."""
    path: Path
    """Where it is written: there, or in `.celbo-new` beside what it is to replace."""
    goes_on: bool
    """Whether it goes on with what is there."""

    @classmethod
    def of(cls, home: Path, contents: Contents, *, resume: bool, force: bool, held: bool = False) -> Found:
        """Find out whether a command may write to a folder, and where; nothing is changed but an exchange finished.

        Parameters
        ----------
        home
            The folder that was asked for.
        contents
            What the command writes.
        resume, force
            Whether it may go on with what is there, or take its place.
        held
            Whether this process holds the lock of the folder.

        Raises
        ------
        OptionError
            If it holds something else, or what may not be replaced.
        WriteError
            If another process writes to it.
        """
        if home.is_dir() and not held:
            refuse_held(home)
            settle(home)
        there, begun = contents.state(home), contents.state(home / NEW)
        allowed = there == "empty" or (there == "there" and (resume or force)) or (resume and begun == "there")
        if not allowed:
            raise _refusal(home, there, contents, begun == "there")
        _refuse_read_only(home)
        if resume and begun == "there":
            return cls(home, home / NEW, goes_on=True)
        if there == "empty":
            return cls(home, home, goes_on=False)
        return cls(home, home, goes_on=True) if resume else cls(home, home / NEW, goes_on=False)

    @property
    def replaces(self) -> bool:
        """Whether it takes the place of what is in the folder, when it is finished."""
        return self.path != self.home


def settle(home: Path) -> None:
    """Finish an exchange that was cut off in a folder, if there is one; a process that is about it is let be."""
    journal = [home / name for name in (_DONE, _IN, _OLD) if (home / name).is_dir()]
    if not journal:
        return
    places = (*journal, home)
    contents = next((c for place in places for c in (RUN, COMPARISON) if (place / c.marker).is_file()), RUN)
    with suppress(WriteError), alone(home):
        contents.settle(home)


def options_of_run(home: Path) -> Path:
    """Return the `run.toml` of the run that --resume goes on with: of the one to come, where one is begun."""
    if home.is_dir():
        settle(home)
    begun = home / NEW / RUN.marker
    return begun if RUN.state(begun.parent) == "there" else home / RUN.marker


def _move(source: Path, target: Path) -> None:
    if (source.exists() or source.is_symlink()) and not (target.exists() or target.is_symlink()):
        source.rename(target)


def _refusal(home: Path, there: str, contents: Contents, begun: bool) -> OptionError:
    where = f"the folder {str(home)!r}"
    if there == "there":
        also = ", and one that was to replace it and is not finished" * begun
        fix = "Continue it with --resume, replace it with --force, or choose another --out."
        return OptionError(f"holds {contents.what} already{also}", where=where, fix=fix)
    if there == "file":
        return OptionError("is a file", where=f"{str(home)!r}", fix="Choose a folder with --out.")
    fix = "Choose another --out; nothing in it was touched."
    return OptionError(f"is not empty and holds no {contents.what.split(' ', 1)[1]}", where=where, fix=fix)


def _refuse_read_only(path: Path) -> None:
    """Raise a `WriteError` where the folder cannot be written, or cannot be made in the first one that is there."""
    there = path.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise not_writable(path, NotADirectoryError(errno.ENOTDIR, f"{str(there)!r} is not a folder"))
    if not os.access(there, os.W_OK | os.X_OK):
        raise not_writable(path, PermissionError(errno.EACCES, f"no permission to write in {str(there)!r}"))


def not_writable(path: Path, error: OSError) -> WriteError:
    """Return the error for a folder that cannot be written or made."""
    why = error.strerror or str(error)
    return WriteError("cannot be written", where=f"the folder {str(path)!r}", value=why, fix="Choose another --out.")
