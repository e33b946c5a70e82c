"""Kinds of files of counts, in every format that celbo reads, and of the small files beside them."""

from __future__ import annotations

import gzip
import hashlib
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import scipy.io
import scipy.sparse as sp
from fuzz import Answer
from fuzz_damage import damage_bytes, damage_folder, damage_hdf5, damage_text

import celbo
from celbo.cli.app import main as command
from celbo.data.simulate import simulate
from celbo.errors import CelboError, OptionError, TrainingError

Change = Callable[[Path, random.Random], str]


def cells() -> anndata.AnnData:
    """Return 80 simulated cells of 30 genes with names as real ones have, a batch and a depth."""
    adata = simulate(n_cells=80, n_genes=30, n_batches=2, n_cell_types=3, library_size=60, seed=1)
    rng = np.random.default_rng(0)
    letters = np.array(list("ACGT"))
    made = anndata.AnnData(sp.csr_matrix(adata.X, dtype=np.float32), obs=adata.obs[["batch", "cell_type"]].copy())
    made.obs["depth"] = rng.normal(0, 1, 80)
    made.obs_names = ["".join(letters[row]) + "-1" for row in rng.integers(0, 4, (80, 16))]
    made.var_names = ["CD3E", "LYZ", "NKG7", "MT-CO1", *(f"RPL{at}" for at in range(26))]
    made.var["gene_ids"] = [f"ENSG{at:011}" for at in range(30)]
    return made[np.asarray(made.X.sum(axis=1)).ravel() > 0].copy()


class Counts:
    """A file or folder of counts."""

    def __init__(self, name: str, write: Callable[[Path], Path], *changes: Change) -> None:
        self.name, self.write, self.changes = name, write, changes
        self.trained_on: set[str] = set()

    def make(self, folder: Path) -> Path:
        """Write a good one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.write(folder)

    def change(self, path: Path, rng: random.Random) -> str:
        """Damage one; of a folder one of its files."""
        change = rng.choice(self.changes)
        if path.is_dir() and change is not damage_folder:
            path = rng.choice(sorted(path.iterdir()))
        return change(path, rng)

    def ask(self, path: Path) -> Answer:
        """Check the file as the command line does; read it; and train for an epoch on what the check passed."""
        has_obs = path.suffix in {".h5ad", ".h5mu", ".loom", ".zarr"}
        flags = ["--batch-key", "batch", "--continuous-covariate-keys", "depth"] if has_obs else []
        code = command(["check", str(path), *flags])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if code == 0:
                keys = {"batch_key": "batch", "continuous_covariate_keys": ["depth"]} if has_obs else {}
                return self.trained(path, keys)
            try:
                return Answer(code, digest(celbo.read(path)))
            except CelboError as error:
                return Answer(code, said=str(error))

    def trained(self, path: Path, keys: dict[str, Any]) -> Answer:
        """Train on a file that the check passed: an error here is one that the check should have told."""
        adata = celbo.read(path)
        read = digest(adata)
        known = f"{read} {kinds_in(adata)}"
        if known in self.trained_on:
            return Answer(0, read)
        try:
            model = celbo.SCVI(adata, n_latent=2, n_hidden=8, **keys)
            model.train(max_epochs=1, progress=False)
            model.get_latent_representation()
        except Exception as error:
            return Answer(0, read, said=str(error), wrong=f"check passed, then {type(error).__name__}: {error}"[:300])
        self.trained_on.add(known)
        return Answer(0, read)


def kinds_in(adata: anndata.AnnData) -> str:
    """Return how counts and columns are stored."""
    parts = [getattr(adata.X, name) for name in ("data", "indices", "indptr")] if sp.issparse(adata.X) else [adata.X]
    order = adata.X.has_canonical_format if sp.issparse(adata.X) else True
    return f"{type(adata.X)} {[part.dtype for part in parts]} {order} {list(adata.obs.dtypes)}"


def digest(adata: anndata.AnnData) -> str:
    """Return a digest of the counts and of all names and columns."""
    matrix = adata.X.toarray() if sp.issparse(adata.X) and np.prod(adata.shape) < 10**8 else adata.X
    parts = [np.asarray(matrix, np.float64).tobytes() if isinstance(matrix, np.ndarray) else repr(matrix).encode()]
    for table in (adata.obs, adata.var):
        parts.append(repr(list(table.index)).encode())
        parts += [repr([str(column), *map(str, table[column])]).encode() for column in table if table.columns.is_unique]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


# -- writers ----------------------------------------------------------------------------------------------------------


def write_h5ad(folder: Path, change: Callable[[anndata.AnnData], object] = lambda _: None, **options: Any) -> Path:
    """Write an .h5ad."""
    adata = cells()
    change(adata)
    adata.write_h5ad(folder / "cells.h5ad", **options)
    return folder / "cells.h5ad"


def rich(adata: anndata.AnnData) -> None:
    """Fill every slot."""
    adata.layers["counts"] = adata.X.tocsc()
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2), np.float32)
    adata.obsp["connectivities"] = sp.csr_matrix(np.eye(adata.n_obs))
    adata.uns["note"] = {"text": "a", "numbers": np.arange(3), "more": {"x": 1.5}}
    adata.obs["text"] = [f"t{at}" for at in range(adata.n_obs)]
    adata.raw = adata.copy()


def write_rich(folder: Path) -> Path:
    """Write an .h5ad with every slot, compressed."""
    return write_h5ad(folder, rich, compression="gzip")


def dense(adata: anndata.AnnData) -> None:
    """Make X dense."""
    adata.X = adata.X.toarray()


def write_10x(folder: Path, *, old: bool = False) -> Path:
    """Write a 10x .h5 of version 3, or 2."""
    adata = cells()
    with h5py.File(folder / "cells.h5", "w") as file:
        group = file.create_group("GRCh38" if old else "matrix")
        for name in ("data", "indices", "indptr"):
            values = getattr(adata.X, name)
            group.create_dataset(name, data=values.astype(np.int64 if name != "data" else np.int32), compression="gzip")
        group["shape"] = np.array(adata.shape[::-1], np.int32)
        group["barcodes"] = np.array(adata.obs_names, "S")
        names = {"gene_names": adata.var_names, "genes": adata.var["gene_ids"]}
        if not old:
            group = group.create_group("features")
            types = ["Gene Expression"] * adata.n_vars
            names = {"name": adata.var_names, "id": adata.var["gene_ids"], "feature_type": types}
        for name, values in names.items():
            group[name] = np.array(values, "S")
    return folder / "cells.h5"


def write_h5mu(folder: Path) -> Path:
    """Write a MuData as an AnnData below `mod`, with an `obs` for all."""
    adata = cells()
    with h5py.File(folder / "cells.h5mu", "w") as file:
        anndata.io.write_elem(file, "mod/rna", adata)
        anndata.io.write_elem(file, "obs", adata.obs[["cell_type"]].add_suffix("_all"))
        anndata.io.write_elem(file, "var", adata.var)
    return folder / "cells.h5mu"


def write_loom(folder: Path) -> Path:
    """Write a loom file."""
    adata = cells()
    with h5py.File(folder / "cells.loom", "w") as file:
        file.create_dataset("matrix", data=adata.X.toarray().T, chunks=(16, 16), compression="gzip")
        file["layers/spliced"] = adata.X.toarray().T
        file["row_attrs/Gene"] = np.array(adata.var_names, "S")
        for name, values in (("CellID", adata.obs_names), ("batch", adata.obs["batch"]), ("depth", adata.obs["depth"])):
            file[f"col_attrs/{name}"] = np.array(values, "f8" if name == "depth" else "S")
    return folder / "cells.loom"


def write_mtx(folder: Path, *, kind: str = "10x") -> Path:
    """Write a folder of a matrix and its names, as 10x, kallisto or Parse do."""
    adata, place = cells(), folder / "cells"
    place.mkdir()
    ids, symbols, barcodes = adata.var["gene_ids"], adata.var_names, adata.obs_names
    rows = [f"{one}\t{two}\tGene Expression" for one, two in zip(ids, symbols, strict=True)]
    files = {"10x": ("matrix.mtx", "features.tsv", "barcodes.tsv"), "old": ("matrix.mtx", "genes.tsv", "barcodes.tsv")}
    files["kallisto"] = ("cells_x_genes.mtx", "cells_x_genes.genes.txt", "cells_x_genes.barcodes.txt")
    files["parse"] = ("DGE.mtx", "all_genes.csv", "cell_metadata.csv")
    matrix, features, names = (place / name for name in files[kind])
    turned = kind in {"kallisto", "parse"}
    scipy.io.mmwrite(matrix, sp.coo_matrix(adata.X if turned else adata.X.T).astype(np.int64))
    if kind == "kallisto":
        rows = list(ids)
        (place / "cells_x_genes.genes.names.txt").write_text("\n".join(symbols) + "\n")
    elif kind == "parse":
        rows = ["gene_id,gene_name,genome", *(f"{one},{two},hg38" for one, two in zip(ids, symbols, strict=True))]
        barcodes = ["bc_wells,sample", *(f"{name},s1" for name in barcodes)]
    features.write_text("\n".join(rows) + "\n")
    names.write_text("\n".join(barcodes) + "\n")
    if kind == "10x":
        for path in list(place.iterdir()):
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return place


def write_table(folder: Path, name: str) -> Path:
    """Write a table of counts, of cells for .csv and of genes for .tsv."""
    adata = cells()
    frame = adata.to_df().astype(int)
    (frame if ".csv" in name else frame.T).to_csv(folder / name, sep="," if ".csv" in name else "\t")
    return folder / name


def write_zarr(folder: Path) -> Path:
    """Write a Zarr folder."""
    cells().write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


# -- lists and options ------------------------------------------------------------------------------------------------


class Small:
    """A list of genes or a file of options."""

    def __init__(self, name: str, ending: str, text: str, load: Callable[[Path], Any]) -> None:
        self.name, self.ending, self.text, self.load = name, ending, text, load

    def make(self, folder: Path) -> Path:
        """Write a good one."""
        path = folder / f"small{self.ending}"
        path.write_text(self.text)
        return path

    def change(self, path: Path, rng: random.Random) -> str:
        """Damage it."""
        return rng.choice((damage_bytes, damage_text))(path, rng)

    def ask(self, path: Path) -> Answer:
        """Read it."""
        try:
            return Answer(0, hashlib.sha256(repr(self.load(path)).encode()).hexdigest())
        except CelboError as error:
            code = 2 if isinstance(error, OptionError) else 4 if isinstance(error, TrainingError) else 3
            return Answer(code, said=str(error))


def read_options(path: Path) -> Any:
    """Return the options of a file as a run takes them."""
    from celbo.pipeline import config

    return config.build(config.RunConfig, config.read_toml(path), where=str(path))


def read_list(path: Path) -> Any:
    """Return the genes of a list."""
    from celbo.pipeline.config import read_genes

    return read_genes(path)


OPTIONS = 'model = "scvi"\nseed = 3\n[keys]\nbatch_key = "batch"\n[selection]\nn_top_genes = 500\n'
KINDS = [
    Counts("h5ad", write_h5ad, damage_bytes, damage_hdf5, damage_hdf5),
    Counts("h5ad-rich", write_rich, damage_bytes, damage_hdf5, damage_hdf5),
    Counts("h5ad-dense", lambda folder: write_h5ad(folder, dense), damage_bytes, damage_hdf5),
    Counts("h5mu", write_h5mu, damage_bytes, damage_hdf5),
    Counts("10x-h5", write_10x, damage_bytes, damage_hdf5),
    Counts("10x-h5-old", lambda folder: write_10x(folder, old=True), damage_bytes, damage_hdf5),
    Counts("loom", write_loom, damage_bytes, damage_hdf5),
    Counts("mtx", write_mtx, damage_bytes, damage_text, damage_text),
    Counts("mtx-old", lambda folder: write_mtx(folder, kind="old"), damage_bytes, damage_text, damage_text),
    Counts("mtx-kallisto", lambda folder: write_mtx(folder, kind="kallisto"), damage_bytes, damage_text),
    Counts("mtx-parse", lambda folder: write_mtx(folder, kind="parse"), damage_bytes, damage_text),
    Counts("csv", lambda folder: write_table(folder, "cells.csv"), damage_bytes, damage_text),
    Counts("tsv.gz", lambda folder: write_table(folder, "cells.tsv.gz"), damage_bytes, damage_text),
    Counts("zarr", write_zarr, damage_folder),
    Small("genes", ".txt", "".join(f"GENE{at}\n" for at in range(40)), read_list),
    Small("options", ".toml", OPTIONS, read_options),
]
