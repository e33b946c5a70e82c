"""Several files as one AnnData: the genes they share, and the file as the batch."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import anndata
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from celbo.data.loaded import reading
from celbo.errors import ReadError, SchemaError, listed

__all__ = ["batch_names", "joined"]

_FEWEST_SHARED = 0.1
_ENDINGS = re.compile(r"(\.(h5ad|h5mu|h5|hdf5|loom|zarr|mtx|csv|tsv|txt|tab|gz))+$", re.IGNORECASE)
_SAYS_NOTHING = re.compile(r"(^|[-_.])(outs|((raw|filtered)_(feature|gene)_bc_)?matri(x|ces)(_mex)?)?$", re.IGNORECASE)


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
        cell names begin with it. Columns of `obs` that only some files have are empty in the others.
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
    if any("batch" in part.obs for part in parts):
        notes.append("The column 'batch' of the files is now obs['batch_in_file']; obs['batch'] names the file.")
    with reading(paths[0], "one of several files"):
        cells = _writable(pd.concat([_obs(part, name) for part, name in zip(parts, names, strict=True)]))
        cells["batch"] = pd.Categorical(cells["batch"], categories=names)
        adata = anndata.concat([_aligned(part, genes) for part in parts], join="inner", merge="same")
        adata.obs = cells
    adata.uns["celbo_read"] = {
        "path": [str(path) for path in paths],
        "format": [p.uns["celbo_read"]["format"] for p in parts],
    }
    return adata, notes


def _check_joinable(part: AnnData, path: Path) -> None:
    if part.X is None:
        raise ReadError("has no X", where=str(path), fix="Put the counts into X to join files.")
    twice = part.var_names[part.var_names.duplicated()].unique()
    if len(twice):
        fix = "Make them unique in the file (adata.var_names_make_unique()) before joining."
        raise SchemaError("names several genes the same", where=str(path), value=listed(twice, limit=5), fix=fix)


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


def _obs(part: AnnData, name: str) -> pd.DataFrame:
    obs: pd.DataFrame = part.obs.rename(columns={"batch": "batch_in_file"}).copy()
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


def batch_names(paths: list[Path]) -> list[str]:
    """Return a name for each file: its own without endings, with its folder's before it where two are the same."""
    names = [_stem(path) for path in paths]
    if max(Counter(names).values()) > 1:
        names = [f"{path.absolute().parent.name}_{name}" for path, name in zip(paths, names, strict=True)]
    seen: Counter[str] = Counter()
    for at, name in enumerate(names):
        seen[name] += 1
        names[at] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return names


def _stem(path: Path) -> str:
    """Return the name of a file without endings and what Cell Ranger appends; the folder's if nothing is left."""
    where = path.absolute()
    while where.parent != where:
        stem = _SAYS_NOTHING.sub("", _ENDINGS.sub("", where.name))
        if stem:
            return stem
        where = where.parent
    return path.name
