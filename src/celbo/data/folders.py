"""Folders: which files in one are the counts, and what to tell where that cannot be known."""

from __future__ import annotations

import re
from pathlib import Path

from celbo.data.tenx import samples_in
from celbo.errors import ReadError, listed

__all__ = ["Source", "is_zarr", "sources_in"]

_FILTERED = re.compile(r"^(sample_)?filtered_(feature|gene)_bc_matri(x|ces)(_h5)?(\.h5)?$")
_INSIDE = ("outs", "count")
_HDF5 = (".h5ad", ".h5mu", ".h5", ".loom")
_NO_MATRIX = re.compile(r"molecule_info|raw_molecule|cloupe|probe|raw_(feature|gene)_bc_matri", re.IGNORECASE)

Source = tuple[Path, ...]
"""One file, a zarr folder, or the matrices of the same cells."""


def is_zarr(folder: Path) -> bool:
    """Tell whether a folder is a Zarr store."""
    return folder.suffix == ".zarr" or any((folder / name).exists() for name in (".zgroup", "zarr.json", ".zattrs"))


def sources_in(folder: Path) -> tuple[list[Source], list[str]]:
    """Return what to read of a folder: a Zarr store, matrices with names beside them, or the counts of Cell Ranger.

    Returns
    -------
    sources
        One a sample.
    notes
        What the user should hear about the choice.

    Raises
    ------
    ReadError
        If it cannot be known what to read; the message names the files and folders that can be.
    """
    if is_zarr(folder):
        return [(folder,)], []
    samples, notes = samples_in(folder)
    if samples:
        if len(samples) > 1:
            notes = [f"It holds {len(samples):,} samples; each is a batch of its own.", *notes]
        return list(samples), notes
    filtered = _filtered_in(folder)
    if filtered is not None:
        return _told(folder, filtered)
    files = [path for path in _hdf5_in(folder) if not _NO_MATRIX.search(path.name)]
    if len(files) == 1:
        return [(files[0],)], [f"Read {files[0].name}, the only file of counts in it."]
    raise ReadError("is a folder without a matrix of its own", where=str(folder), fix=_fix(folder))


def _filtered_in(folder: Path) -> Path | None:
    """Return what Cell Ranger wrote of the cells that it called: a file before a folder."""
    for place in (folder, *(folder / name for name in _INSIDE)):
        if place.is_dir():
            found = [path for path in sorted(place.iterdir()) if _FILTERED.match(path.name)]
            if found:
                return next((path for path in found if path.is_file()), found[0])
    return None


def _told(folder: Path, filtered: Path) -> tuple[list[Source], list[str]]:
    raw = filtered.name.removeprefix("sample_").replace("filtered", "raw")
    note = f"Read {filtered.relative_to(folder)}, the cells that Cell Ranger called"
    note += f"; {raw} holds all droplets." if (filtered.parent / raw).exists() else "."
    if filtered.is_file():
        return [(filtered,)], [note]
    inside = [path for path in sorted(filtered.iterdir()) if path.is_dir()]
    if len(inside) == 1 and not samples_in(filtered)[0]:  # a folder for each genome, in version 2
        filtered = inside[0]
    sources, notes = sources_in(filtered)
    return sources, [note, *notes]


def _hdf5_in(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _HDF5 and path.is_file() and path.name[0] != "."
    ]


def _fix(folder: Path) -> str:
    """Return what to do about a folder without a matrix: name the files in it, or the folders below that have one."""
    patterns = [f"{depth}{end}" for depth in ("*/", "*/*/", "*/*/*/") for end in ("*.mtx", "*.mtx.gz", "*matrix.h5")]
    below = [path if path.suffix == ".h5" else path.parent for glob in patterns for path in sorted(folder.glob(glob))]
    files = [*_hdf5_in(folder), *(path for path in sorted(folder.glob("*.zarr")))]
    if not files:
        files = [path for end in ("csv", "tsv", "csv.gz", "tsv.gz") for path in sorted(folder.glob(f"*.{end}"))]
    found = [str(path.relative_to(folder)) for path in dict.fromkeys([*files, *below])]
    if found:
        return f"Pass the ones to read; several become batches: {listed(found, limit=5)}."
    return "Pass a file, or the folder with matrix.mtx[.gz], features.tsv[.gz] and barcodes.tsv[.gz] in it."
