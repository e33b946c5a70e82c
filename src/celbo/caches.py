"""Places for what libraries keep on disk (compiled code, lists of fonts), where the usual ones cannot be written.

In a container or on a cluster, celbo is often installed read-only, for a user without a home. numba, which celbo, umap
and pynndescent are compiled with, and matplotlib then refuse to work, or make folders called "~". So, before they are
imported, they are given a folder of this process, which goes when it ends.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["PREFIX", "asked_folder", "provide"]

PREFIX = ".celbo-cache-"
"""Beginning of the name of such a folder; what is called so is no content of a run's folder."""


def provide(near: str | os.PathLike[str] | None = None) -> Path | None:
    """Point numba and matplotlib at a temporary folder where they have no place of their own.

    Settings of the user (NUMBA_CACHE_DIR, MPLCONFIGDIR, TMPDIR, XDG_CACHE_HOME, ...) win wherever they can be written.

    Parameters
    ----------
    near
        A folder that will be written to, or that is to be made, such as that of `--out`: the place of last resort, for
        temporary files too.

    Returns
    -------
    The folder, or None where none is needed or none can be made.
    """
    wanted = [
        name for name, has_place in (("NUMBA_CACHE_DIR", _numba), ("MPLCONFIGDIR", _matplotlib)) if not has_place()
    ]
    if not wanted:
        return None
    folder = _temporary(near)
    if folder is None:
        return None
    for name in wanted:
        (folder / name.lower()).mkdir()
        os.environ[name] = str(folder / name.lower())
    atexit.register(_remove, folder, os.getpid())
    return folder


def asked_folder(argv: Sequence[str]) -> str | None:
    """Return the folder that a command's arguments ask to write to (`--out DIR`), or None."""
    for at, word in enumerate(argv):
        if word.startswith("--out="):
            return word.removeprefix("--out=")
        if word in ("--out", "-o") and at + 1 < len(argv):
            return argv[at + 1]
    return None


def _numba() -> bool:
    """Whether numba can write where it looks: NUMBA_CACHE_DIR, beside the code, or in the user's cache."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return _usable(Path(os.environ["NUMBA_CACHE_DIR"]))
    code = (Path(__file__).parent / "kernels", Path(sysconfig.get_path("purelib")))
    return _usable(_home("XDG_CACHE_HOME", ".cache") / "numba") or all(map(_usable, code))


def _matplotlib() -> bool:
    """Whether matplotlib can write its configuration and its cache."""
    if os.environ.get("MPLCONFIGDIR"):
        return _usable(Path(os.environ["MPLCONFIGDIR"]))
    places = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
    return all(_usable(_home(*place) / "matplotlib") for place in places)


def _home(variable: str, name: str) -> Path:
    given = os.environ.get(variable)
    return Path(given) if given else Path(os.path.expanduser("~")) / name  # noqa: PTH111 (Path's raises without a home)


def _usable(path: Path) -> bool:
    """Whether a folder can be written, or made; a path from nowhere ("~" of a user without a home) cannot."""
    if not path.is_absolute():
        return False
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError:
        return False
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _temporary(near: str | os.PathLike[str] | None) -> Path | None:
    with suppress(OSError):
        return Path(tempfile.mkdtemp(prefix=PREFIX))
    if near is None:
        return None
    beside = Path(near).absolute()
    while not beside.exists() and beside != beside.parent:
        beside = beside.parent
    with suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        return folder
    return None


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked
        shutil.rmtree(folder, ignore_errors=True)
