"""Atomic writes: a file or folder is there whole, as it was before, or as it is after; never half.

Everything is first written under a temporary name in the same folder (a rename across file systems is no rename),
flushed to the disk, and put in place by one rename; then the folder is flushed too, so that the rename itself survives
a power cut. Whatever fails on the way raises a `WriteError` and leaves the old file as it was. Modes follow the umask,
whatever library has written the file.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from celbo.errors import WriteError

__all__ = [
    "atomic_bytes",
    "atomic_folder",
    "atomic_json",
    "atomic_text",
    "atomic_write",
    "is_temporary",
    "named_errors",
    "remove_folder",
    "remove_own",
    "remove_temporary",
    "strict_json",
    "why",
]

_TEMPORARY = ".tmp"
_OURS = re.compile(r"\..*\.[0-9a-f]{12}\.tmp(\..*)?")
_AT_FDCWD, _EXCHANGE = -100, 2  # renameat2(2) on Linux
_SWAP = 2  # renamex_np(2) on macOS

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would be larger than files may be here (a limit of the shell, ulimit -f, or of the file system)",
    errno.EIO: "the disk failed (input/output error)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write one file to; it takes the place of `path` when the block ends without an error.

    Parameters
    ----------
    path
        The file to write. Its folder must exist; an old file of that name is replaced, or kept if anything fails.

    Yields
    ------
    Path
        A name in the same folder with the same ending, not yet there.

    Raises
    ------
    WriteError
        The folder is missing or read-only, the disk is full, or the write failed in another way.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        with named_errors(path):
            mode = _usual_mode(temporary)
            yield temporary
            _give_mode(temporary, mode)
            _flush(temporary)
            os.replace(temporary, path)  # noqa: PTH105 (the call whose promise this module rests on)
            flush_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes to `path` atomically. Errors as `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def atomic_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to `path` atomically, line ends as they are. Errors as `atomic_write`."""
    atomic_bytes(path, text.encode("utf-8"))


def atomic_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` to `path` as indented JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    atomic_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def strict_json(content: bytes) -> Any:
    """Return what JSON in UTF-8 says: every number is finite, and no name comes twice in an object.

    Raises
    ------
    ValueError
        If it is none.
    """

    def number(text: str) -> float:
        if not math.isfinite(found := float(text)):
            raise ValueError(f"{text[:20]} is not a finite number")
        return found

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in found}) < len(found):
            raise ValueError("a name comes twice in one object")
        return dict(found)

    try:
        return json.loads(content.decode("utf-8"), parse_float=number, parse_constant=number, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder to fill; it takes the place of `path` when the block ends without an error.

    An old folder at `path` goes as a whole: where the system can exchange two folders in one call (Linux, macOS), there
    is no moment at which `path` is missing or mixed. What it has under other names than those written is carried over.

    Parameters
    ----------
    path
        The folder to write. Missing parents are made.

    Yields
    ------
    Path
        An empty folder beside it.

    Raises
    ------
    WriteError
        The parent is read-only, the disk is full, `path` is a file, or the write failed in another way.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        with named_errors(path):
            _refuse_file(path)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            mode = _usual_mode(temporary / temporary.name)
            yield temporary
            _set_modes(temporary, mode)
            _flush_tree(temporary)
            _carry_over(path, temporary)
            _place_folder(temporary, path)
            flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder so that a kill half-way leaves no half folder of that name: renamed first, then deleted."""
    path = Path(path)
    temporary = _temporary_name(path)
    with named_errors(path):
        path.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def remove_own(
    folder: str | os.PathLike[str], is_own: Callable[[str], bool], *, others_to: str | os.PathLike[str] | None = None
) -> None:
    """Remove the files of a folder that celbo wrote, then the folders that are empty, itself among them.

    Parameters
    ----------
    folder
        The folder; nothing happens where there is none.
    is_own
        Whether a file is celbo's, by its path in the folder ("tables/cells.csv"). Links never are.
    others_to
        Folder that all else is moved to, to the same places in it; None leaves it where it is.

    Raises
    ------
    WriteError
        If something cannot be removed or moved.
    """
    folder = Path(folder)
    with named_errors(folder):
        for root, folders, names in os.walk(folder, topdown=False):
            links = [name for name in folders if (Path(root) / name).is_symlink()]
            for path in (Path(root) / name for name in (*names, *links)):
                place = path.relative_to(folder)
                if not path.is_symlink() and (is_own(place.as_posix()) or any(map(is_temporary, place.parts))):
                    path.unlink()
                elif others_to is not None:
                    _move_back(path, Path(others_to) / place)
            with suppress(OSError):
                Path(root).rmdir()  # empty, or it stays


def _move_back(path: Path, wanted: Path) -> None:
    """Move what is not ours to its place, or beside it, where something of ours is there now."""
    free, at = wanted, 1
    while free.is_symlink() or free.exists():
        free, at = wanted.with_name(f"{wanted.name}.kept{at}"), at + 1
    free.parent.mkdir(parents=True, exist_ok=True)
    path.rename(free)


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one that a write has not finished."""
    return _OURS.fullmatch(name) is not None


def remove_temporary(folder: str | os.PathLike[str], *, of: Collection[str] | None = None) -> None:
    """Remove from `folder` what writes that were killed have left there; what cannot be removed stays.

    Parameters
    ----------
    folder
        The folder, to which no other process is writing these files.
    of
        Names of the files and folders that were being written; None is all.
    """
    stems = None if of is None else {Path(name).stem for name in of}
    for left in Path(folder).iterdir():
        if not is_temporary(left.name) or (stems is not None and left.name[1:].rsplit(".tmp")[0][:-13] not in stems):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def why(error: OSError) -> str:
    """Return why a file could not be written, in a few words."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def _temporary_name(path: Path) -> Path:
    # Hidden, unique, with the ending kept (some writers choose their format by it), cut (a name has 255 bytes at most).
    stem = path.stem.encode()[:100].decode(errors="ignore")
    return path.parent / f".{stem}.{uuid.uuid4().hex[:12]}{_TEMPORARY}{path.suffix[:32]}"


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a `WriteError` that says which file, why, and what to do."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(
            "cannot be written",
            where=f"{str(path)!r}",
            value=why(error),
            fix="Nothing that was there before has changed. Free space or choose a folder you may write to.",
        ) from error


def _usual_mode(path: Path) -> int:
    """Return the mode that a new file has here, by umask and access lists: what writes for us may choose 0600."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        path.unlink()


def _set_modes(folder: Path, mode: int) -> None:
    """Give all files in a folder this mode, and its folders that of the folder itself."""
    own = stat.S_IMODE(folder.stat().st_mode)
    for path in folder.rglob("*"):
        _give_mode(path, mode, of_folder=own)


def _give_mode(path: Path, mode: int, *, of_folder: int | None = None) -> None:
    wanted = mode if path.is_file() else of_folder
    if wanted is not None and stat.S_IMODE(path.stat().st_mode) != wanted:
        with suppress(PermissionError):  # a file system without modes
            path.chmod(wanted)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush the folder's own entries, where the system knows how to (Windows does not)."""
    if os.name != "posix":
        return
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}:  # a file system that cannot
            raise


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)
        else:
            flush_folder(path)
    flush_folder(folder)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise WriteError("cannot be written", where=f"{str(path)!r}", value="a file of that name is in the way")


def _carry_over(path: Path, temporary: Path) -> None:
    """Put into the new folder what only the old one has: as a second name, so that no kill can lose it."""
    if not path.is_dir():
        return
    for other in path.iterdir():
        if (temporary / other.name).exists() or is_temporary(other.name):
            continue
        if other.is_dir() and not other.is_symlink():
            shutil.copytree(other, temporary / other.name, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(other, temporary / other.name)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def _place_folder(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
    elif not _exchange(temporary, path):  # after an exchange the old folder has the temporary name and is deleted
        _swap_by_hand(temporary, path)


def _swap_by_hand(temporary: Path, path: Path) -> None:
    """Put `temporary` in the place of `path` by two renames, undone if the second fails."""
    old = _temporary_name(path)
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one system call; False where the system or the file system cannot."""
    if sys.platform not in {"linux", "darwin"}:
        return False
    library = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return bool(library.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _EXCHANGE) == 0)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return bool(library.renamex_np(a, b, _SWAP) == 0)
    return False
