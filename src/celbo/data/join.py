"""Several files as one AnnData: the genes they share, and the file as the batch."""

from __future__ import annotations

from pathlib import Path

import anndata
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from celbo.data.loaded import reading
from celbo.data.naming import batch_names
from celbo.errors import ReadError, SchemaError, listed

__all__ = ["joined"]

_FEWEST_SHARED = 0.1


def joined(parts: list[AnnData], paths: list[Path]) -> tuple[AnnData, list[str]]:
    """Put files together cell after cell.

    Parameters
    ----------
    parts
        The files; each (cells, genes).
    paths
        Where they came from.

    Returns
    -------
    adata
        All cells, over the genes that all files have, in the order of the first; `obs['batch']` names the file and the
        cell names begin with it. Columns of `obs` that only some files have are empty in the others; layers, slots of
        `obsm` and `raw` are kept where all files have them.
    notes
        What the user should hear about it.

    Raises
    ------
    SchemaError
        If a file names two genes the same.
    ReadError
        If the files share no genes, or fewer than a tenth.
    """
    for part, path in zip(parts, paths, strict=True):
        _check_joinable(part, path)
    genes = _shared_genes(parts, paths)
    names, notes = batch_names(paths), []
    if any(part.n_vars > len(genes) for part in parts):
        sizes = ", ".join(f"{part.n_vars:,}" for part in parts)
        notes.append(f"Kept the {len(genes):,} genes that all files share, of {sizes}.")
    spare = _spare_column(parts)
    if any("batch" in part.obs for part in parts):
        notes.append(f"The column 'batch' of the files is now obs[{spare!r}]; obs['batch'] names the file.")
    with reading(paths[0], "one of several files"):
        cells = _writable(pd.concat([_obs(part, name, spare) for part, name in zip(parts, names, strict=True)]))
        cells["batch"] = pd.Categorical(cells["batch"], categories=names)
        aligned = [_aligned(part, genes) for part in parts]
        adata = anndata.concat(aligned, join="inner", merge="unique")
        adata.obs = cells
    notes += _left_out(parts, adata)
    adata.uns["celbo_read"] = {
        "path": [str(path) for path in paths],
        "format": [p.uns["celbo_read"]["format"] for p in parts],
    }
    return adata, notes


def _check_joinable(part: AnnData, path: Path) -> None:
    if part.X is None:
        raise ReadError("has no X", where=str(path), fix="Write the counts into X of the file to join it.")
    twice = part.var_names[part.var_names.duplicated()].unique()
    if len(twice):
        fix = "Name them in the file before joining."
        value = listed(twice, limit=5)
        raise SchemaError("holds several genes without a name", where=str(path), value=value, fix=fix)


def _shared_genes(parts: list[AnnData], paths: list[Path]) -> list[str]:
    shared = set(parts[0].var_names).intersection(*(part.var_names for part in parts[1:]))
    fewest = min(part.n_vars for part in parts)
    if not shared or len(shared) < _FEWEST_SHARED * fewest:
        first = ", ".join(
            f"{path.name} begins {str(part.var_names[0])!r}" for part, path in zip(parts, paths, strict=True)
        )
        value = f"{len(shared):,} of {fewest:,}; {first}"
        fix = "Name genes the same way in all files: all symbols or all Ensembl identifiers, of one species."
        where = f"the files {listed([path.name for path in paths], limit=4)}"
        raise ReadError("share too few genes", where=where, value=value, fix=fix)
    return [name for name in parts[0].var_names if name in shared]


def _aligned(part: AnnData, genes: list[str]) -> AnnData:
    """Return a file with the shared genes only, in their order, and without what cannot be joined."""
    chosen = part if list(part.var_names) == genes else part[:, genes].copy()
    chosen.X = sp.csr_matrix(chosen.X)
    return chosen


def _left_out(parts: list[AnnData], adata: AnnData) -> list[str]:
    """Return a note of the matrices and columns that some files have and all together have not."""
    lost = {
        slot: [
            name
            for name in dict.fromkeys(str(name) for part in parts for name in getattr(part, slot) if name is not None)
            if name not in getattr(adata, slot) and name != "celbo_read"
        ]
        for slot in ("layers", "obsm", "obsp", "var", "varm", "varp", "uns")
    }
    shown = [f"{slot} ({listed(names, limit=4)})" for slot, names in lost.items() if names]
    shown += ["raw"] if adata.raw is None and any(part.raw is not None for part in parts) else []
    if not shown:
        return []
    return [f"Left out in joining, since not all files have it or it differs between them: {', '.join(shown)}."]


def _spare_column(parts: list[AnnData]) -> str:
    """Return a name for the files' own column 'batch' that none of them has."""
    taken = {str(name) for part in parts for name in part.obs.columns}
    names = ("batch_in_file", *(f"batch_in_file_{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def _obs(part: AnnData, name: str, spare: str) -> pd.DataFrame:
    obs: pd.DataFrame = part.obs.rename(columns={"batch": spare}).copy()
    obs.index = pd.Index([f"{name}_{cell}" for cell in part.obs_names])
    obs["batch"] = name
    return obs


def _writable(obs: pd.DataFrame) -> pd.DataFrame:
    """Give columns that differ between the files, or that some lack, a type that can be written to a file."""
    for name in obs.select_dtypes(object).columns:
        values = obs[name].dropna()
        if all(isinstance(value, bool) for value in values):
            obs[name] = obs[name].astype("boolean")
        elif not all(isinstance(value, str) for value in values):
            obs[name] = obs[name].map(str, na_action="ignore")
    return obs
