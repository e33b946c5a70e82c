"""Writing what was found: into slots of an AnnData, and into files that are there whole or not at all."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

import celbo
from celbo.errors import InputError, OptionError
from celbo.files import atomic_text, atomic_write

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "multiqc_general",
    "multiqc_lines",
    "versions",
    "versions_yaml",
    "write_clusters",
    "write_frame",
    "write_h5ad",
    "write_latent",
    "write_matrix_h5ad",
    "write_table",
    "write_versions",
]

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "scanpy", "scikit-learn", "umap-learn", "igraph", "numba")


def write_latent(adata: AnnData, key: str, latent: ArrayLike) -> None:
    """Write a representation of the cells into `adata.obsm[key]`.

    Parameters
    ----------
    adata
        Altered in place.
    key
        Name of the slot, for example "X_scvi".
    latent
        (cells, dimensions), in the order of the cells.

    Raises
    ------
    InputError
        If it has another number of cells.
    """
    values = np.asarray(latent)
    _same_cells(adata, key, len(values))
    adata.obsm[key] = values


def write_clusters(adata: AnnData, key: str, clusters: ArrayLike) -> None:
    """Write a category for each cell into `adata.obs[key]`; categories that are numbers are put in their order.

    Parameters
    ----------
    adata
        Altered in place.
    key
        Name of the column, for example "leiden".
    clusters
        Names or numbers, (cells,).

    Raises
    ------
    InputError
        If there is another number of cells.
    """
    names = np.asarray(clusters).astype(str)
    _same_cells(adata, key, len(names))
    found = sorted(
        set(names.tolist()), key=lambda name: (not name.isdecimal(), len(name) if name.isdecimal() else 0, name)
    )
    adata.obs[key] = pd.Categorical(names, categories=found)


def _same_cells(adata: AnnData, key: str, n: int) -> None:
    if n != adata.n_obs:
        raise InputError(
            "does not match the cells",
            where=repr(key),
            value=f"{n} for {adata.n_obs} cells",
            fix="Give one for each cell.",
        )


def write_table(frame: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write a table as Parquet and as CSV, with its index, each atomically.

    Parameters
    ----------
    frame
        The table.
    stem
        Path without ending; the folder must exist.

    Returns
    -------
    The files written.
    """
    paths = [Path(f"{stem}.parquet"), Path(f"{stem}.csv")]
    for path in paths:
        write_frame(frame, path)
    return paths


def write_frame(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table with its index as .parquet, .csv or .tsv, atomically; categories are written as their names.

    Raises
    ------
    OptionError
        If the path has another ending.
    WriteError
        If the file cannot be written.
    """
    path, plain = Path(path), frame.copy()
    for name in plain.columns[[isinstance(kind, pd.CategoricalDtype) for kind in plain.dtypes]]:
        plain[name] = plain[name].astype(object).where(plain[name].notna(), None)
    if path.suffix not in {".parquet", ".csv", ".tsv"}:
        raise OptionError("has an unknown ending", where=f"{str(path)!r}", fix="Use .csv, .tsv or .parquet.")
    with atomic_write(path) as temporary:
        if path.suffix == ".parquet":
            plain.to_parquet(temporary)
        else:
            plain.to_csv(temporary, sep="," if path.suffix == ".csv" else "\t")


def write_h5ad(adata: AnnData, path: str | Path) -> None:
    """Write an AnnData as .h5ad, compressed, atomically.

    Raises
    ------
    InputError
        If a column or an entry of `uns` holds what the format cannot hold.
    WriteError
        If the file cannot be written.
    """
    with atomic_write(path) as temporary:
        try:
            adata.write_h5ad(temporary, compression="gzip", compression_opts=1)
        except OSError:
            raise
        except Exception as error:  # what the format cannot hold has errors of many kinds
            raise InputError(
                "cannot be written as .h5ad",
                where="the AnnData",
                value=f"{error}".splitlines()[0] if f"{error}" else type(error).__name__,
                fix="Remove or convert that column or entry of uns.",
            ) from error


@contextmanager
def write_matrix_h5ad(
    path: str | Path, *, obs: pd.DataFrame, var: pd.DataFrame, note: Mapping[str, Any]
) -> Iterator[Callable[[int, NDArray[np.floating[Any]]], None]]:
    """Write a dense float32 matrix of cells x genes as .h5ad block by block, atomically, with bounded memory.

    Parameters
    ----------
    path
        The file; it appears when the block of code ends without an error.
    obs, var
        Tables of its cells and genes.
    note
        What the values are: `uns["celbo"]` of the file.

    Yields
    ------
    A function (row of the first cell, block of (rows, genes)) that writes one block.
    """
    import anndata
    import h5py

    with atomic_write(path) as temporary:
        anndata.AnnData(obs=obs, var=var, uns={"celbo": dict(note)}).write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            if "X" in file:
                del file["X"]
            matrix = file.create_dataset("X", (len(obs), len(var)), np.float32)
            matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

            def write(start: int, block: NDArray[np.floating[Any]]) -> None:
                matrix[start : start + len(block)] = block

            yield write


def versions() -> dict[str, str]:
    """Return the versions of celbo, of Python and of the packages that decide the numbers."""
    found = {"celbo": celbo.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def versions_yaml(process: str, found: Mapping[str, str]) -> str:
    """Return versions as the YAML that workflow managers collect: one entry, the process, with a version a tool."""
    return "\n".join([f'"{process}":', *(f'    {name}: "{version}"' for name, version in found.items())]) + "\n"


def write_versions(path: str | Path, process: str) -> None:
    """Write `versions.yml` atomically."""
    atomic_text(path, versions_yaml(process, versions()))


def multiqc_general(
    sample: str, numbers: Mapping[str, float | int], titles: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return MultiQC custom content for its table of general statistics.

    Parameters
    ----------
    sample
        Name of the row.
    numbers
        Values by column.
    titles
        Title and description of each column.
    """
    headers = [
        {name: {"title": titles[name][0], "description": titles[name][1], "namespace": "celbo"}} for name in numbers
    ]
    return {"id": "celbo", "plot_type": "generalstats", "pconfig": headers, "data": {sample: dict(numbers)}}


def multiqc_lines(sample: str, history: pd.DataFrame) -> dict[str, Any]:
    """Return MultiQC custom content for the curve of the held-out ELBO (training ELBO where nothing is held out).

    Parameters
    ----------
    sample
        Name of the line.
    history
        One row an epoch; `elbo_train`, `elbo_validation` in nats per cell. The columns `objective_*` of a model
        without an ELBO take their place.
    """
    raised = "elbo" if "elbo_train" in history else "objective"
    held_out = f"{raised}_validation" in history and history[f"{raised}_validation"].notna().any()
    curve = history[f"{raised}_validation" if held_out else f"{raised}_train"].dropna()
    return {
        "id": "celbo_elbo",
        "section_name": "celbo: ELBO",
        "description": "Held-out ELBO by epoch, nats per cell; higher is better.",
        "plot_type": "linegraph",
        "pconfig": {"id": "celbo_elbo_plot", "title": "celbo: ELBO", "xlab": "Epoch", "ylab": "ELBO (nats per cell)"},
        "data": {sample: {str(epoch): float(value) for epoch, value in curve.items() if np.isfinite(value)}},
    }
