"""LDVAE: its loadings are the decoder, and find planted factors."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import celbo
from celbo.models.ldvae import LDVAE, LDVAEConfig

N_FACTORS = 4


def planted(seed: int, n_cells: int = 2_000, n_genes: int = 300) -> tuple[ad.AnnData, NDArray[np.float64], NDArray]:
    """Return counts of a log-linear model with negative binomial noise, the factors and the loadings."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_cells, N_FACTORS))
    loadings = rng.normal(size=(n_genes, N_FACTORS)) * (rng.random((n_genes, N_FACTORS)) < 0.3)
    logits = rng.normal(size=n_genes) + z @ loadings.T * 0.7
    share = np.exp(logits)
    share /= share.sum(1, keepdims=True)
    rate = share * rng.lognormal(7.5, 0.3, size=(n_cells, 1)) * rng.gamma(5.0, 1 / 5.0, size=share.shape)
    counts = rng.poisson(rate)
    return ad.AnnData(counts.astype(np.float32)), z, 0.7 * loadings


def canonical_correlations(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = np.linalg.qr(a - a.mean(0))[0], np.linalg.qr(b - b.mean(0))[0]
    return np.linalg.svd(a.T @ b, compute_uv=False)


@pytest.fixture(scope="module")
def trained() -> tuple[LDVAE, NDArray[np.float64], NDArray[np.float64]]:
    adata, z, loadings = planted(0)
    return LDVAE(adata, n_latent=N_FACTORS, seed=1).train(progress=False), z, loadings


def test_loadings_span_the_planted_factors(trained: tuple[LDVAE, NDArray, NDArray]) -> None:
    model, z, loadings = trained
    assert canonical_correlations(model.get_loadings().to_numpy(), loadings).min() > 0.9
    assert canonical_correlations(model.get_latent_representation(), z).min() > 0.9


def test_loadings_are_the_decoder(trained: tuple[LDVAE, NDArray, NDArray]) -> None:
    model = trained[0]
    loadings = model.get_loadings()
    z = torch.zeros(1, 2, N_FACTORS)
    z[0, 1, 2] = 1.5
    with torch.no_grad():
        p = model.network.decode(z, torch.zeros(1, 2), model.data.minibatch([0, 1]))
    moved = (p.log_share[0, 1] - p.log_share[0, 0]).numpy()
    np.testing.assert_allclose(moved - moved.mean(), 1.5 * loadings[2], atol=1e-4)
    assert list(loadings.index) == list(model.schema.genes)


def test_uncentred_loadings_are_the_weights(trained: tuple[LDVAE, NDArray, NDArray]) -> None:
    model = trained[0]
    weight = model.network.decoder.head("mean").weight.detach().numpy().T
    np.testing.assert_allclose(model.get_loadings(center=False), weight, rtol=1e-6)


def test_batch_norm_enters_the_loadings() -> None:
    adata, _, _ = planted(1, n_cells=300, n_genes=60)
    model = LDVAE(adata, config=LDVAEConfig.scvi_tools(), n_latent=3).train(max_epochs=3, progress=False)
    z = torch.zeros(1, 2, 3)
    z[0, 1, 0] = 1.0
    with torch.no_grad():
        p = model.network.decode(z, torch.zeros(1, 2), model.data.minibatch([0, 1]))
    np.testing.assert_allclose(
        (p.logits[0, 1] - p.logits[0, 0]).numpy(), model.get_loadings(center=False)[0], rtol=2e-4, atol=1e-5
    )
    assert "kl_library_train" in model.history


def test_explains_real_counts_nearly_as_well_as_scvi(data_dir: Path) -> None:
    adata = celbo.read(data_dir / "mouse_bladder_top2000.h5ad")
    plan = celbo.TrainConfig(max_epochs=15)
    linear, deep = (
        kind(adata, seed=0).train(plan, progress=False).history["elbo_validation"].max() for kind in (LDVAE, celbo.SCVI)
    )
    assert deep - 0.02 * abs(deep) < linear < deep + 0.005 * abs(deep)
