"""What every system must do: train, improve, be saved, go on after a break, take new cells, and refuse bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import celbo
from celbo.errors import CountsError, GenesError, NotTrainedError, OptionError
from celbo.models.store import class_names, model_class

SMALL: dict[str, dict[str, Any]] = {
    "AutoImpute": {"n_hidden": 32},
    "Autoencoder": {"n_latent": 4},
    "DCA": {"n_hidden": (16, 4, 16)},
    "HPF": {"n_components": 4},
    "LDVAE": {"n_latent": 4, "n_hidden": 16},
    "SCVAE": {"n_latent": 4, "n_hidden": (16,)},
    "SCVAE mixture": {"n_latent": 4, "n_hidden": (16,), "prior": "gaussian-mixture", "n_components": 3},
    "SCVI": {"n_latent": 4, "n_hidden": 16},
    "SCVIS": {"n_components": 10},
    "VAE": {"n_latent": 4, "n_hidden": (16,)},
    "VAE gaussian": {"n_latent": 4, "n_hidden": (16,), "likelihood": "gaussian"},
    "VASC": {},
}
"""Every system, small; the first word is the class."""
EPOCHS = {"HPF": 300}
"""Its cells keep the posterior of the training, which new ones come to only where that has converged."""
TOLERANCE = {"HPF": 0.2}
"""In standard deviations: its coordinate ascent has several ends for a cell between factors."""
WIDTH = {"SCVIS": 2, "VASC": 2, "AutoImpute": 32}


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    """Return 240 cells of three types in two batches, 60 genes."""
    full = celbo.datasets.simulate(n_cells=240, n_genes=60, n_batches=2, n_cell_types=3, seed=3)
    return ad.AnnData(full.X, obs=full.obs[["batch", "cell_type"]].copy(), var=pd.DataFrame(index=full.var_names))


def built(name: str, adata: ad.AnnData, **changes: Any) -> Any:
    kind = model_class(name.split(maxsplit=1)[0])
    return kind(adata, **{"batch_key": "batch", "seed": 1, **SMALL[name], **changes})


@pytest.fixture(scope="module", params=list(SMALL))
def trained(request: pytest.FixtureRequest, counts: ad.AnnData) -> Iterator[tuple[str, Any]]:
    """Return the name and a model after a few epochs."""
    name = str(request.param)
    yield name, built(name, counts).train(max_epochs=EPOCHS.get(name, 4), progress=False)


def test_every_system_is_here() -> None:
    assert {name.split(maxsplit=1)[0] for name in SMALL} == set(class_names())


def test_objective_is_finite_and_improves(trained: tuple[str, Any]) -> None:
    history = trained[1].history
    column = "objective_train" if "objective_train" in history else "elbo_train"
    assert np.isfinite(history[column]).all()
    assert history[column].iloc[-1] > history[column].iloc[0]


def test_latent_has_its_shape(trained: tuple[str, Any], counts: ad.AnnData) -> None:
    name, model = trained
    latent = model.get_latent_representation()
    assert latent.shape == (counts.n_obs, WIDTH.get(name, 4)) and latent.dtype == np.float32
    assert np.isfinite(latent).all() and (latent.std(0) > 0).all()
    np.testing.assert_allclose(model.get_latent_representation(indices=[7, 3]), latent[[7, 3]], rtol=1e-4, atol=1e-5)


def test_saving_keeps_the_answers_to_the_bit(trained: tuple[str, Any], counts: ad.AnnData, tmp_path: Path) -> None:
    _, model = trained
    loaded = celbo.load(model.save(tmp_path / "model"), counts)
    assert type(loaded) is type(model) and loaded.config == model.config
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    pd.testing.assert_frame_equal(loaded.history, model.history)
    assert loaded.fitted.plan == model.fitted.plan


def test_new_cells_are_placed_whatever_the_order_of_their_genes(
    trained: tuple[str, Any], counts: ad.AnnData, tmp_path: Path
) -> None:
    name, model = trained
    own = model.get_latent_representation()
    order = np.random.default_rng(0).permutation(counts.n_vars)
    other = counts[50:90, order].copy()
    other.obs_names = [f"new {i}" for i in range(40)]
    spread = own.std(0)
    np.testing.assert_allclose(
        model.get_latent_representation(other) / spread, own[50:90] / spread, atol=TOLERANCE.get(name, 0.02)
    )


@pytest.mark.parametrize("name", list(SMALL))
def test_a_resumed_training_ends_at_the_same_bits(name: str, counts: ad.AnnData, tmp_path: Path) -> None:
    whole = built(name, counts).train(max_epochs=4, progress=False)
    stopped = built(name, counts)
    _interrupt(stopped, epochs=2)
    options: dict[str, Any] = {"max_epochs": 4, "progress": False, "checkpoint_dir": tmp_path / "checkpoint"}
    stopped.train(**options)
    assert stopped.fitted.stopped == "interrupted" and len(stopped.history) < 4
    resumed = built(name, counts).train(**options, resume=True)
    np.testing.assert_array_equal(resumed.get_latent_representation(), whole.get_latent_representation())
    shared = [c for c in whole.history if c not in ("seconds", "cells_per_second")]
    pd.testing.assert_frame_equal(resumed.history[shared], whole.history[shared])


def _interrupt(model: Any, *, epochs: int) -> None:
    """Press Ctrl-C after some epochs."""
    from celbo.training import progress

    told = {"n": 0}
    original = progress.Progress.epoch

    def epoch(self: Any, row: Any) -> None:
        original(self, row)
        told["n"] += 1
        if told["n"] == epochs + 1:
            progress.Progress.epoch = original  # type: ignore[method-assign]
            raise KeyboardInterrupt

    progress.Progress.epoch = epoch  # type: ignore[method-assign]


@pytest.mark.parametrize("name", list(SMALL))
def test_bad_input_is_named(name: str, counts: ad.AnnData) -> None:
    bad = counts.copy()
    values = bad.X.toarray() if sparse.issparse(bad.X) else np.array(bad.X)
    values[3, 2] = 0.5
    bad.X = values
    with pytest.raises(CountsError, match=f"{bad.var_names[2]}"):
        built(name, bad)
    with pytest.raises(OptionError, match="n_laten"):
        built(name, counts, n_laten=3)
    model = built(name, counts)
    with pytest.raises(NotTrainedError):
        model.get_latent_representation()
    with pytest.raises(OptionError, match="max_epochs"):
        model.train(max_epochs=0)


def test_missing_genes_are_named(trained: tuple[str, Any], counts: ad.AnnData) -> None:
    with pytest.raises(GenesError, match=str(counts.var_names[-1])):
        trained[1].get_latent_representation(counts[:, :-1].copy())


@pytest.mark.filterwarnings("ignore:adata.X holds genes without a single count")
@pytest.mark.parametrize("name", list(SMALL))
def test_real_counts(name: str, data_dir: Path) -> None:
    adata = celbo.read(data_dir / "mouse_bladder_top2000.h5ad")[:400, :300].copy()
    adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()
    model = built(name, adata, batch_key=None).train(max_epochs=3, progress=False)
    history = model.history
    column = "objective_train" if "objective_train" in history else "elbo_train"
    assert history[column].iloc[-1] > history[column].iloc[0] and np.isfinite(history[column]).all()
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("name", ["AutoImpute", "Autoencoder", "DCA", "HPF", "LDVAE", "SCVAE", "SCVI", "VAE"])
def test_denoised_counts_are_at_the_depth_of_the_cells(name: str, counts: ad.AnnData) -> None:
    model = built(name, counts).train(max_epochs=4, progress=False)
    frame = model.get_denoised_expression(gene_list=list(counts.var_names[[5, 2]]), indices=[4, 8])
    whole = model.get_denoised_expression(return_numpy=True)
    assert frame.shape == (2, 2) and list(frame.columns) == list(counts.var_names[[5, 2]])
    np.testing.assert_allclose(frame, whole[[4, 8]][:, [5, 2]], rtol=0.35)  # draws of the latent state differ
    assert (whole >= 0).all() and np.isfinite(whole).all()
    depth = np.asarray(counts.X.sum(1)).ravel()
    if name != "SCVAE":  # it has to learn the depth, which takes more epochs
        assert np.corrcoef(np.log(whole.sum(1) + 1), np.log(depth))[0, 1] > 0.8
    scaled = model.get_denoised_expression(library_size=100.0, return_numpy=True)
    np.testing.assert_allclose(scaled.sum(1), 100, rtol=1e-3)
