"""Writes every kind of file to a place where that fails, and prints as JSON what came of each.

    python failing_writes.py FOLDER [LIMIT ...]

Each LIMIT is a size in bytes that no file may exceed; without one the place itself must be full. The process ends as
any other, so that what fails when objects are destroyed is seen, too.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

import celbo
from celbo import results
from celbo.errors import WriteError
from celbo.evaluate.comparison import Picture
from celbo.files import atomic_folder, atomic_text, atomic_write
from celbo.pipeline.assess import Part
from celbo.pipeline.compare import _Parts
from celbo.posterior.writers import Hdf5Writer, NpyWriter
from celbo.training.checkpoint import CheckpointFolder, Snapshot

N, GENES = 400, 300


def cells() -> anndata.AnnData:
    counts = sparse.random(N, GENES, 0.3, format="csr", dtype=np.float32, random_state=0)
    adata = anndata.AnnData(
        counts, obs=pd.DataFrame({"batch": ["a", "b"] * (N // 2)}, index=[f"c{i}" for i in range(N)])
    )
    adata.obsm["X_umap"] = np.ones((N, 2))
    adata.layers["more"] = counts * 2
    adata.uns["words"] = {"a": ["b", "c"], "d": 1}
    adata.raw = adata
    return adata


def writers(out: Path) -> dict[str, Callable[[], object]]:
    adata = cells()
    block = np.ones((100, GENES), np.float32)
    noise = pd.DataFrame(np.random.default_rng(0).normal(size=(N, GENES)), columns=[*map(str, range(GENES))])
    names = (list(adata.obs_names), list(adata.var_names))
    model = celbo.datasets.simulate(n_cells=60, n_genes=50, n_batches=1, n_cell_types=2, seed=0)
    trained = celbo.SCVI(model, n_hidden=64).train(max_epochs=1, progress=False)
    weights = trained.network.state_dict()
    state = Snapshot(weights, weights, {}, epoch=1, step=1, best_epoch=0, rows=({"reconstruction_train": 1.0},))

    def matrix() -> None:
        with results.write_matrix_h5ad(out / "matrix.h5ad", obs=adata.obs, var=adata.var, note={"a": 1}) as write:
            for start in range(0, N, 100):
                write(start, block)

    def blocks(kind: type[Hdf5Writer] | type[NpyWriter], name: str) -> None:
        with atomic_write(out / name) as temporary, kind(temporary, (N, GENES), names) as write:
            for start in range(0, N, 100):
                write(start, block)

    def folder() -> None:
        with atomic_folder(out / "folder") as temporary:
            (temporary / "a").write_bytes(bytes(200_000))

    return {
        "result.h5ad": lambda: results.write_h5ad(adata, out / "result.h5ad"),
        "matrix.h5ad": matrix,
        "blocks.h5": lambda: blocks(Hdf5Writer, "blocks.h5"),
        "blocks.npy": lambda: blocks(NpyWriter, "blocks.npy"),
        "table.csv": lambda: results.write_frame(pd.DataFrame(block), out / "table.csv"),
        "table.parquet": lambda: results.write_frame(noise, out / "table.parquet"),
        "page.html": lambda: atomic_text(out / "page.html", "x" * 200_000),
        "model": lambda: trained.save(out / "model", overwrite=True),
        "checkpoint": lambda: CheckpointFolder(out / "checkpoint", identity={}).save(state),
        "parts": lambda: _Parts(out).save("pca", Part(pictures=[Picture(np.ones((5000, 2)), "a", "b")])),
        "folder": folder,
    }  # fmt: skip


def told(write: Callable[[], object]) -> str:
    try:
        write()
    except WriteError as error:
        return str(error)
    return "written"


def main() -> None:
    out, limits = Path(sys.argv[1]), [int(limit) for limit in sys.argv[2:]]
    for limit in limits or [0]:
        all_writers = writers(out)
        if limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        found = {name: told(write) for name, write in all_writers.items()}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(json.dumps({"limit": limit, "told": found}), flush=True)


if __name__ == "__main__":
    main()
