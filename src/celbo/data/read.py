"""Files in: one call reads every common format of single-cell counts, and several files at once."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import get_args

from anndata import AnnData

from celbo.data.content import content_of, refuse_packed
from celbo.data.folders import Source, sources_in
from celbo.data.hdf5 import read_hdf5, read_zarr
from celbo.data.join import joined
from celbo.data.loaded import Loaded
from celbo.data.naming import unique_names
from celbo.data.schema import Orientation
from celbo.data.tables import read_table
from celbo.data.tenx import read_mtx
from celbo.errors import CelboWarning, OptionError, ReadError, listed, logger_of, nearest

__all__ = ["read"]

_HDF5 = (".h5ad", ".h5mu", ".h5", ".hdf5", ".loom")
_TABLES = (".csv", ".tsv", ".txt", ".tab", ".csv.gz", ".tsv.gz", ".txt.gz", ".tab.gz")
_MATRICES = (".mtx", ".mtx.gz")
_NO_NAMES = "It has no names of genes and cells: put it into an AnnData with them, and write that as .h5ad."
_FIXES = {
    ".rds": "Convert it in R, for example with the package anndataR, and read the .h5ad.",
    ".rdata": "Convert it in R, for example with the package anndataR, and read the .h5ad.",
    ".robj": "Convert it in R, for example with the package anndataR, and read the .h5ad.",
    ".h5seurat": "Convert it in R, for example with the package anndataR, and read the .h5ad.",
    ".xlsx": "Save the sheet as .csv.",
    ".xls": "Save the sheet as .csv.",
    ".zip": "Unpack it first.",
    ".tar": "Unpack it first.",
    ".tgz": "Unpack it first.",
    ".tar.gz": "Unpack it first.",
    ".bz2": "Unpack it first.",
    ".xz": "Unpack it first.",
    ".h5ad.gz": "Unpack it first.",
    ".h5.gz": "Unpack it first.",
    ".pkl": "celbo reads no pickles; write the data as .h5ad.",
    ".pickle": "celbo reads no pickles; write the data as .h5ad.",
    ".npy": _NO_NAMES,
    ".npz": _NO_NAMES,
}
_log = logger_of("celbo")

AnyPath = str | PathLike[str]


def read(path_or_paths: AnyPath | Sequence[AnyPath], *, orientation: Orientation = "auto") -> AnnData:
    """Read single-cell counts from a file, a folder, or several of them.

    Formats: AnnData (`.h5ad`, `.zarr`), the RNA of a MuData (`.h5mu`), 10x (`.h5`, or the folder with `matrix.mtx`,
    old and new layout, plain or gzipped, or that matrix file itself where its names have a prefix), loom, and text
    tables (`.csv`, `.tsv`, `.txt`, also `.gz`). HDF5 files are told apart by their content, not their name.

    Parameters
    ----------
    path_or_paths
        Where the counts are. Several are joined on the genes they share, in the order of the first; each is one
        batch: `obs['batch']` is the file's name, and cell names begin with it.
    orientation
        What the rows of a text table are. "auto" looks at the names (barcodes, gene identifiers and symbols), and
        failing that takes the longer side for the genes. What was taken and why is in `uns['celbo_read']`.

    Returns
    -------
    AnnData of (cells, genes), with a CSR matrix where most values are zero. Gene symbols of 10x files that occur more
    than once are made unique with a warning; otherwise names are left as they are, for `celbo.check` to judge.

    Raises
    ------
    ReadError
        If a file is missing, empty, damaged, or of an unknown format, or files share no genes.
    OptionError
        If an argument is not a path, or `orientation` is unknown.
    DependencyError
        If a format needs a package that is not installed.
    """
    if orientation not in get_args(Orientation):
        fix = nearest(str(orientation), get_args(Orientation))
        raise OptionError("is unknown", where="orientation", value=repr(orientation)[:80], fix=fix)
    paths = _as_paths(path_or_paths)
    sources = [source for path in paths for source in _sources(path)]
    parts = [_read_one(source, orientation) for source in sources]
    for source, part in zip(sources, parts, strict=True):
        _tell(source[0], part)
    if len(parts) == 1:
        return parts[0].adata
    adata, notes = joined([part.adata for part in parts], [source[0] for source in sources])
    for note in notes:
        warnings.warn(CelboWarning(note), stacklevel=2)
    return adata


def _as_paths(given: AnyPath | Sequence[AnyPath]) -> list[Path]:
    items = [given] if isinstance(given, str | PathLike) else given
    fix = "Pass the path of a file or folder, or a list of them."
    if not isinstance(items, Sequence) or isinstance(items, bytes) or len(items) == 0:
        raise OptionError("is not a path", where="path_or_paths", value=repr(given)[:80], fix=fix)
    for item in items:
        if not isinstance(item, str | PathLike) or not str(item).strip() or "\0" in str(item):
            raise OptionError("is not a path", where="path_or_paths", value=repr(item)[:80], fix=fix)
    paths = [Path(item).expanduser() for item in items]
    real = [os.path.realpath(path) for path in paths]
    twice = [str(path) for at, path in enumerate(paths) if real[at] in real[:at]]
    if twice:
        raise OptionError(
            "names a file twice", where="the list of files", value=listed(twice), fix="Name each file once."
        )
    return paths


def _tell(path: Path, part: Loaded) -> None:
    """Keep in `uns` how a file was read, log it, and warn of what was left out or guessed."""
    facts = {"path": str(path), "format": part.format, **part.facts}
    part.adata.uns["celbo_read"] = facts
    told = f", rows taken as {facts['orientation']} ({facts['reason']})" if "orientation" in facts else ""
    _log.info("%s: %s, %d cells x %d genes%s", path, part.format, part.adata.n_obs, part.adata.n_vars, told)
    for note in [*part.notes, *unique_names(part.adata)]:
        said = note if isinstance(note, CelboWarning) else CelboWarning(note)
        warnings.warn(CelboWarning(f"{path}: {said.what}", fix=said.fix, flag=said.flag), stacklevel=3)


def _sources(path: Path) -> list[Source]:
    """Return the files to read for one path: those in it where it is a folder."""
    _check_there(path)
    if not path.is_dir():
        return [(path,)]
    sources, notes = sources_in(path)
    for note in notes:
        warnings.warn(CelboWarning(f"{path}: {note}"), stacklevel=4)
    return sources


def _read_one(source: Source, orientation: Orientation) -> Loaded:
    path = source[0]
    if path.is_dir():
        return read_zarr(path)
    name = path.name.lower()
    if path.stat().st_size == 0:
        raise ReadError("is empty", where=str(path), fix="Copy or download it again.")
    if content_of(path) == "hdf5":
        return read_hdf5(path)
    if name.endswith(_MATRICES):
        return read_mtx(*source)
    if name.endswith(_TABLES):
        return read_table(path, orientation)
    refuse_packed(path)
    if name.endswith(_HDF5):
        return read_hdf5(path)
    ending = "".join(path.suffixes[-2:]).lower()
    fix = _FIXES.get(ending) or _FIXES.get(path.suffix.lower()) or ""
    known = "celbo reads .h5ad, .zarr, .h5mu, 10x .h5, a 10x mtx folder, .loom, and .csv, .tsv or .txt (.gz)."
    raise ReadError(
        "has an ending that celbo does not know", where=str(path), value=repr(path.suffix), fix=fix or known
    )


def _check_there(path: Path) -> None:
    try:
        if path.exists():
            if not (path.is_file() or path.is_dir()):
                fix = "Write its contents into a file, and give that."
                raise ReadError("is neither a file nor a folder", where=str(path), fix=fix)
            if not os.access(path, os.R_OK):
                raise ReadError("may not be read", where=str(path), fix="Ask for the right to read it, or copy it.")
            return
        beside = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
    except OSError as problem:
        fix = "Check the path and the right to read it."
        raise ReadError("cannot be opened", where=str(path)[:200], value=str(problem.strerror), fix=fix) from None
    raise ReadError("does not exist", where=str(path), fix=_instead(path, beside))


def _instead(path: Path, beside: list[str]) -> str:
    """Return what to do about a path that is not there: the name nearest to it, if one is near."""
    if not path.parent.is_dir():
        return f"There is no folder {str(path.parent)!r}."
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.75)
    if close:
        return f"Did you mean {str(path.parent / close[0])!r}?"
    return f"No file in {str(path.parent.absolute())!r} has a similar name."
