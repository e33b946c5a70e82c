"""HDF5 and Zarr files: AnnData, MuData, 10x and loom, told apart by what is in them and not by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.apart import end_of
from celbo.data.declared import (
    check_hdf5,
    check_shapes,
    most_believed,
    refuse_boast,
    sparse_problem,
    walk_hdf5,
)
from celbo.data.loaded import Loaded, as_csr, check_whole, gene_expression_only, named, reading, whole, with_symbols
from celbo.data.matrix import layer_names
from celbo.data.scan import Matrix, is_sparse, native
from celbo.data.zarr_folders import check_zarr_arrays, check_zarr_files
from celbo.errors import DependencyError, ReadError, listed

__all__ = ["read_hdf5", "read_zarr"]

_RNA_NAMES = ("rna", "gex", "gene_expression", "gene expression")
_GENE_ATTRIBUTES = ("Gene", "gene_names", "var_names", "gene_symbols", "GeneName", "name", "Accession", "gene_ids")
_CELL_ATTRIBUTES = ("CellID", "obs_names", "barcode", "barcodes", "cell_names", "cell_id", "Barcode")
_BLOCK_VALUES = 20_000_000  # dense values of a loom file held at once


def read_hdf5(path: Path) -> Loaded:
    """Read an HDF5 file: AnnData (.h5ad), MuData (.h5mu), 10x (.h5) or loom."""
    if not h5py.is_hdf5(path):  # the mark may come after a header, as in a MuData
        fix = "Copy or download it again; a table belongs in a .csv or .tsv file."
        raise ReadError("is not an HDF5 file, or one cut short", where=str(path), fix=fix)
    end = end_of(lambda: walk_hdf5(path), seconds=3 + (path.stat().st_size >> 20))
    if end:
        fix = "It is damaged; copy or download it again."
        raise ReadError("cannot be read by the HDF5 library", where=str(path), value=end, fix=fix)
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        check_hdf5(file, path, streamed=("/matrix", "/layers/") if "row_attrs" in set(file) else ())
        kind = _kind(file, path)
        if kind == "h5mu":
            return _read_h5mu(file, path)
        if kind == "loom":
            return _read_loom(file, path)
        if kind.startswith("10x"):
            return _read_10x(file, path, old=kind.endswith("old"))
        check_shapes(file, path)
    with reading(path, "an .h5ad file"):
        return _tidied(anndata.read_h5ad(path), "h5ad", path)


def _kind(file: h5py.File, path: Path) -> str:
    """Tell from the groups of a file what wrote it."""
    names = set(file)
    if "mod" in names:
        return "h5mu"
    if {"obs", "var"} <= names:
        return "h5ad"
    if "matrix" in names and {"row_attrs", "col_attrs"} <= names:
        return "loom"
    if isinstance(file.get("matrix"), h5py.Group) and "barcodes" in file["matrix"]:
        return "10x"
    if any(isinstance(group, h5py.Group) and "barcodes" in group for group in file.values()):
        return "10x-old"
    fix = "It must be AnnData (.h5ad), MuData (.h5mu), a 10x matrix (.h5) or loom."
    value = f"it holds {listed(sorted(names), limit=5)}" if names else "it is empty"
    raise ReadError("is an HDF5 file without a count matrix that celbo knows", where=str(path), value=value, fix=fix)


def _tidied(adata: AnnData, kind: str, path: Path) -> Loaded:
    """Put `X` into CSR and make sure that every sparse matrix is whole."""
    if not isinstance(adata, AnnData):
        raise ReadError(
            "does not hold an AnnData", where=str(path), value=f"a {type(adata).__name__}", fix="Write it again."
        )
    check_whole(None if adata.raw is None else adata.raw.X, path)
    notes = []
    for name in layer_names(adata):
        layer, told = whole(adata.layers[name], path, where=f"the layer {name!r}")
        if layer is not adata.layers[name]:
            adata.layers[name] = layer
        notes += told
    if adata.X is not None:
        matrix, told = whole(adata.X, path)
        adata.X = as_csr(matrix)
        notes += told
    return Loaded(adata, kind, [*notes])


def read_zarr(path: Path) -> Loaded:
    """Read an AnnData from a Zarr folder."""
    try:
        import zarr
    except ImportError:
        fix = "pip install 'celbo[zarr]'"
        raise DependencyError("needs the package zarr", where=str(path), fix=fix) from None
    with reading(path, "a Zarr folder of an AnnData"):
        size = check_zarr_files(path)
        group = zarr.open_group(path, mode="r")
        if not {"obs", "var"} <= set(group):
            fix = "Give the .zarr folder of an AnnData."
            value = f"it holds {listed(sorted(group), limit=5)}"
            raise ReadError("does not hold an AnnData", where=str(path), value=value, fix=fix)
        check_zarr_arrays(group, size, path)
        check_shapes(group, path)
        _check_zarr_sparse(group, path)
        loaded = _tidied(anndata.read_zarr(path), "zarr", path)
        _check_chunks(group, loaded.adata.X, path)
    return loaded


def _check_zarr_sparse(group: Any, path: Path) -> None:
    layers = group.get("layers")
    names = ["X", "raw/X", *(f"layers/{name}" for name in (layers if hasattr(layers, "keys") else ()))]
    for name in names:
        if name in group and hasattr(group[name], "keys") and (problem := sparse_problem(group[name])):
            what = "is a sparse matrix that contradicts itself"
            raise ReadError(what, where=f"{path}, {name}", value=problem, fix="Copy the whole folder again.")


def _check_chunks(group: Any, matrix: Matrix, path: Path) -> None:
    """Refuse a folder of which files are missing: Zarr reads zeros for them."""
    stored = group.get("X/data")
    if stored is None or not is_sparse(matrix) or matrix.data.all():
        return
    missing = int(stored.nchunks) - int(stored.nchunks_initialized)
    if missing:
        value = f"{missing:,} of {int(stored.nchunks):,} chunks of X"
        raise ReadError("lacks files", where=str(path), value=value, fix="Copy the whole folder again.")


def _read_h5mu(file: h5py.File, path: Path) -> Loaded:
    """Read the RNA of a MuData, with the columns that MuData keeps for all modalities together."""
    names = list(file["mod"])
    chosen = next((name for name in names if name.lower() in _RNA_NAMES), None)
    if chosen is None:
        fix = "celbo reads the modality 'rna'; rename it, or write the wanted modality as .h5ad."
        raise ReadError("has no RNA", where=str(path), value=f"modalities {listed(names)}", fix=fix)
    if isinstance(file["mod"][chosen], h5py.Group) and {"obs", "var"} <= set(file["mod"][chosen]):
        check_shapes(file["mod"][chosen], path)
    loaded = _tidied(anndata.io.read_elem(file["mod"][chosen]), "h5mu", path)
    shared = anndata.io.read_elem(file["obs"]) if "obs" in file else pd.DataFrame()
    obs = loaded.adata.obs
    extra = [name for name in shared.columns if ":" not in str(name) and name not in obs]
    if extra and obs.index.equals(shared.index):  # names may be repeated
        loaded.adata.obs = obs.assign(**{name: shared[name].array for name in extra})
    elif extra and shared.index.is_unique and obs.index.isin(shared.index).all():
        loaded.adata.obs = obs.join(shared[extra])
    others = [name for name in names if name != chosen]
    loaded.notes += [f"Read the modality {chosen!r}; left out {listed(others)}."] if others else []
    return loaded


def _read_10x(file: h5py.File, path: Path, *, old: bool) -> Loaded:
    """Read the matrix of Cell Ranger: one group a genome (version 2), or `matrix` (version 3 and later)."""
    if old:
        genomes = [name for name, group in file.items() if isinstance(group, h5py.Group) and "barcodes" in group]
        if len(genomes) > 1:
            fix = "Write each genome into a file of its own, and pass the one to model."
            raise ReadError("holds several genomes", where=str(path), value=listed(genomes), fix=fix)
        group = file[genomes[0]]
        names, ids, types = _texts(group["gene_names"], path), _texts(group["genes"], path), None
    else:
        group = file["matrix"]
        features = group["features"]
        names, ids = _texts(features["name"], path), _texts(features["id"], path)
        types = _texts(features["feature_type"], path) if "feature_type" in features else None
    cells = _texts(group["barcodes"], path)
    counts, told = _stored_by_cell(group, (len(cells), len(names)), path)
    keep, notes = gene_expression_only(types, len(names), path)
    var = {"gene_ids": ids[keep], **({} if types is None else {"feature_types": types[keep]})}
    adata = with_symbols(counts if keep.all() else counts[:, keep], cells, names[keep], var)
    return Loaded(adata, "10x h5 (old layout)" if old else "10x h5", [*told, *notes])


def _stored_by_cell(group: h5py.Group, shape: tuple[int, int], path: Path) -> tuple[Matrix, list[str]]:
    """Return the counts of a 10x group, which lie cell by cell, as (cells, genes) CSR, and what to say of them."""
    told = tuple(int(n) for n in group["shape"][()])[::-1]
    if told != shape:
        value = f"the matrix is {told[0]:,} cells x {told[1]:,} features, the names are {shape[0]:,} x {shape[1]:,}"
        raise ReadError("contradicts itself", where=str(path), value=value, fix="Download it again.")
    data = group["data"][()]
    if data.dtype.kind in "iu" and (data.size == 0 or abs(int(data.max())) < 2**24):
        data = data.astype(np.float32)  # exact, and what scanpy's functions expect
    return whole(sp.csr_matrix((data, *_pointers(group)), shape=shape), path)


def _pointers(group: h5py.Group) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions and pointers of a sparse matrix, signed, as SciPy wants them."""
    indices, starts = (group[name][()] for name in ("indices", "indptr"))
    return indices.astype(np.int64, copy=False), starts.astype(np.int64, copy=False)


def _texts(dataset: h5py.Dataset, path: Path) -> NDArray[np.object_]:
    if dataset.dtype.kind not in "OSU" or dataset.ndim != 1:
        value = f"{dataset.name!r} holds {dataset.dtype} of shape {dataset.shape}"
        raise ReadError("has names that are not text", where=str(path), value=value, fix="Download it again.")
    return np.array(
        [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in dataset[()]], dtype=object
    )


def _read_loom(file: h5py.File, path: Path) -> Loaded:
    """Read a loom file, whose matrices are dense and genes x cells, block by block."""
    n_genes, n_cells = file["matrix"].shape
    var, _ = _loom_columns(file["row_attrs"], n_genes, _GENE_ATTRIBUTES, path, "genes")
    obs, obsm = _loom_columns(file["col_attrs"], n_cells, _CELL_ATTRIBUTES, path, "cells")
    matrices = {"": file["matrix"], **{name: each for name, each in file.get("layers", {}).items() if name}}
    for name, each in matrices.items():
        if each.shape != (n_genes, n_cells) or each.dtype.kind not in "biuf":
            value = f"layer {name!r} is {each.shape} of {each.dtype}, the matrix is {(n_genes, n_cells)}"
            raise ReadError("contradicts itself", where=str(path), value=value, fix="Download it again.")
    most = most_believed(path.stat().st_size)
    layers = {}
    for name, each in matrices.items():
        layers[name] = _loom_matrix(each, path, most=most)
        most -= layers[name].nnz * (each.dtype.itemsize + 4)
    adata = named(layers.pop(""), obs, var)
    adata.obsm.update(obsm)
    adata.layers.update(layers)
    return Loaded(adata, "loom")


def _loom_matrix(dataset: h5py.Dataset, path: Path, *, most: int) -> Matrix:
    """Return a dense matrix of (genes, cells) as (cells, genes) CSR, of which at most `most` bytes are believed."""
    n_genes, n_cells = dataset.shape
    by_gene = dataset.chunks is None or dataset.chunks[1] > dataset.chunks[0]  # so that each chunk is unpacked once
    n, other, chunk = (
        (n_genes, n_cells, dataset.chunks and dataset.chunks[0])
        if by_gene
        else (n_cells, n_genes, dataset.chunks and dataset.chunks[1])
    )
    step = max(1, _BLOCK_VALUES // max(1, other))
    step = -(-step // chunk) * chunk if chunk else step
    blocks, stored = [], 0
    for low in range(0, n, step):
        part = dataset[low : low + step] if by_gene else dataset[:, low : low + step].T
        blocks.append(sp.csr_matrix(native(part)))
        stored += blocks[-1].nnz * (part.dtype.itemsize + 4)
        if stored > most:
            size = path.stat().st_size
            refuse_boast(stored + most_believed(size) - most, size, path)
    if not blocks:
        return sp.csr_matrix((n_cells, n_genes), dtype=np.float32)
    found = sp.vstack(blocks, format="csr")
    return found.T.tocsr() if by_gene else found


def _loom_columns(
    group: h5py.Group, n: int, names: tuple[str, ...], path: Path, what: str
) -> tuple[pd.DataFrame, dict[str, NDArray[Any]]]:
    """Return the attributes of one axis as a table named by the first known one, and those of two axes apart."""
    columns: dict[str, NDArray[Any]] = {}
    wide: dict[str, NDArray[Any]] = {}
    for name, dataset in group.items():
        if isinstance(dataset, h5py.Dataset) and dataset.dtype.kind not in "OSUbiuf":
            value = f"{dataset.name!r} holds {dataset.dtype}"
            fix = "Write it again without that attribute."
            raise ReadError("has an attribute that is neither text nor numbers", where=str(path), value=value, fix=fix)
        values = _texts(dataset, path) if dataset.dtype.kind in "OSU" and dataset.ndim == 1 else dataset[()]
        if values.shape[:1] == (n,):
            (columns if values.ndim == 1 else wide)[name] = values
    chosen = next((name for name in names if name in columns), None)
    if chosen is None:
        fix = f"Add the attribute {names[0]!r}."
        raise ReadError(
            f"does not name its {what}", where=str(path), value=f"attributes {listed(columns) or None}", fix=fix
        )
    named_by = columns.pop(chosen)
    if named_by.dtype.kind not in "OSUiu":
        value = f"the attribute {chosen!r} holds {named_by.dtype}"
        raise ReadError(f"has names of {what} that are not text", where=str(path), value=value, fix="Write it again.")
    index = pd.Index([str(name) for name in named_by])
    return pd.DataFrame(columns, index=index), {name: values for name, values in wide.items() if values.ndim == 2}
