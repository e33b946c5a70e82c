"""One training of scvi-tools for elbo_parity.py, in its own environment: peer_scvi.py JOB.json writes JOB.out.json."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scipy.sparse as sp
import scvi
import torch

BATCH = 512


def cells_of(path: str) -> anndata.AnnData:
    """Return the counts and batches that the other side wrote."""
    with np.load(path, allow_pickle=False) as saved:
        counts = sp.csr_matrix((saved["values"].astype(np.float32), saved["indices"], saved["indptr"]), saved["shape"])
        adata = anndata.AnnData(counts)
        adata.obs["batch"] = saved["batch"].astype(str)
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    return adata


@torch.no_grad()
def held_out_elbo(model: scvi.model.SCVI, adata: anndata.AnnData, cells: np.ndarray, n_samples: int) -> np.ndarray:
    """Return the ELBO of each cell with every divergence at full weight, averaged over draws of the latent state."""
    model.module.eval()
    loader = model._make_data_loader(adata=adata, indices=cells, batch_size=BATCH, shuffle=False)
    total = np.zeros(len(cells))
    for _ in range(n_samples):
        parts = []
        for tensors in loader:
            _, _, loss = model.module(tensors, loss_kwargs={"kl_weight": 1.0})
            divergence = loss.kl_local["kl_divergence_z"] + loss.kl_local["kl_divergence_l"]
            parts.append(-(loss.reconstruction_loss["reconstruction_loss"] + divergence))
        total += torch.cat(parts).double().numpy()
    return total / n_samples


def trained(adata: anndata.AnnData, job: dict[str, Any]) -> tuple[scvi.model.SCVI, float]:
    """Return the trained model and the seconds it took."""
    scvi.settings.seed = job["seed"]
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(
        adata, gene_likelihood=job["likelihood"], use_observed_lib_size=job["library"] == "observed"
    )
    start = time.perf_counter()
    model.train(
        max_epochs=job["epochs"],
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        datasplitter_kwargs={"external_indexing": [np.array(job["train"]), np.array(job["validation"])]},
    )
    return model, time.perf_counter() - start


def main(path: str) -> None:
    """Run the job in a file."""
    warnings.simplefilter("ignore")
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(job["n_threads"])
    adata = cells_of(job["data"])
    model, seconds = trained(adata, job)
    elbo = held_out_elbo(model, adata, np.array(job["validation"]), job["n_samples"])
    result = {"elbo": float(elbo.mean()), "seconds": seconds, "version": scvi.__version__, "torch": torch.__version__}
    Path(path).with_suffix(".out.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
