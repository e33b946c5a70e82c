"""The autoencoder: what it computes, where it starts, what it gives back; that it is linear when it says so."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import celbo
from celbo.data.components import log_normalised
from celbo.errors import InputError, NotTrainedError, OptionError
from celbo.models.autoencoder import Autoencoder
from celbo.training.plan import StepState


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 2, (90, 1)) + rng.gamma(1, 1, 25), (90, 25))
    names = pd.DataFrame(index=[f"cell{i}" for i in range(90)]), pd.DataFrame(index=[f"g{i}" for i in range(25)])
    return ad.AnnData(counts.astype(np.float32), obs=names[0], var=names[1])


@pytest.fixture(scope="module")
def model(adata) -> Autoencoder:
    return Autoencoder(adata, n_latent=3, n_hidden=(16, 8), seed=1).train(max_epochs=5, progress=False)


def _step() -> StepState:
    return StepState(step=0, epoch=0, generator=torch.Generator().manual_seed(0))


def test_loss_is_the_squared_error_of_the_transformed_counts(adata, model):
    batch = model.data.minibatch(np.arange(12))
    y = torch.from_numpy(
        log_normalised(sparse.csr_matrix(adata.X[:12]), target=float(model.network.input.transform.target)).toarray()
    )
    loss = model.network.loss(batch, _step())
    expected = (y - torch.from_numpy(model.get_reconstruction(indices=np.arange(12), return_numpy=True))).square()
    torch.testing.assert_close(loss.reconstruction, expected.sum(1))
    assert not loss.is_bound
    assert model.get_reconstruction_error(indices=np.arange(12)) == pytest.approx(expected.mean().item(), rel=1e-5)


def test_error_of_each_cell_and_its_mean_agree(model):
    each = model.get_reconstruction_error(per_cell=True)
    assert each.shape == (90,)
    assert each.mean() == pytest.approx(model.get_reconstruction_error(), rel=1e-12)


def test_history_has_an_objective_and_no_elbo(model):
    assert {"objective_train", "objective_validation", "reconstruction_train"} <= set(model.history)
    assert not any(column.startswith("elbo") for column in model.history)


def test_training_starts_at_the_mean_and_ends_below_it():
    pbmc = celbo.datasets.pbmc()
    model = Autoencoder(pbmc, n_hidden=(32,), seed=0).train(max_epochs=20, progress=False)
    y = log_normalised(pbmc.X, target=float(model.network.input.transform.target)).toarray()
    train = y[model.train_indices]
    np.testing.assert_allclose(model.network.input.mean, train.mean(0), atol=1e-5)
    held_out = y[model.validation_indices]
    by_mean = ((held_out - train.mean(0)) ** 2).mean()
    assert model.get_reconstruction_error(indices=model.validation_indices) < 0.93 * by_mean
    start = Autoencoder(pbmc, n_hidden=(32,), seed=0)
    start.network.prepare(start.data, model.train_indices)
    at_start = start.network.eval().reconstruct(start.data.minibatch(model.validation_indices))[1].detach().numpy()
    assert ((held_out - at_start) ** 2).mean() == pytest.approx(by_mean, rel=0.02)


@pytest.mark.parametrize("n_hidden", [None, (), (8,), (8, 6)])
def test_linear_is_linear_whatever_the_widths(adata, n_hidden):
    model = Autoencoder(adata, linear=True, n_latent=3, n_hidden=n_hidden).train(max_epochs=2, progress=False)
    z = np.random.default_rng(0).normal(size=(2, 3))
    middle = model.decode(z).mean(0)
    np.testing.assert_allclose(middle, model.decode(z.mean(0, keepdims=True))[0], atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in model.network.modules())
    assert model.config.widths == (n_hidden or ())


def test_widths_are_mirrored(model):
    shapes = [tuple(linear.weight.shape) for linear in (*model.network.encoder.linears, *model.network.decoder.linears)]
    assert shapes == [(16, 25), (8, 16), (8, 3), (16, 8)]


def test_decoding_the_codes_gives_the_reconstruction(model):
    codes = model.get_latent_representation()
    assert codes.shape == (90, 3)
    np.testing.assert_allclose(model.decode(codes), model.get_reconstruction(return_numpy=True), atol=1e-5)


def test_reconstruction_is_named(model, adata):
    frame = model.get_reconstruction(indices=[3, 5])
    assert list(frame.index) == ["cell3", "cell5"]
    assert list(frame.columns) == list(adata.var_names)


def test_denoised_is_the_inverse_of_the_transform(model, adata):
    y = model.get_reconstruction(return_numpy=True).astype(np.float64)
    size = adata.X.sum(1, keepdims=True) / float(model.network.input.transform.target)
    expected = np.maximum(np.expm1(y), 0) * size
    np.testing.assert_allclose(model.get_denoised_expression(return_numpy=True), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("transform", ["counts", "log1p", "scaled", "log2-normalised", "log2-max"])
def test_every_transform_is_learnt_and_inverted(adata, transform):
    model = Autoencoder(adata, transform=transform, n_latent=3, n_hidden=()).train(max_epochs=3, progress=False)
    denoised = model.get_denoised_expression(return_numpy=True)
    assert np.isfinite(model.history["objective_train"]).all()
    assert np.isfinite(denoised).all() and (denoised >= 0).all()


def test_saved_model_gives_the_same_codes(model, adata, tmp_path):
    model.save(tmp_path / "model")
    loaded = celbo.load(tmp_path / "model", adata)
    assert loaded.config == model.config
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    np.testing.assert_array_equal(
        celbo.load(tmp_path / "model").decode(np.zeros((1, 3))), model.decode(np.zeros((1, 3)))
    )


def test_cells_in_another_order_have_the_same_codes(model, adata):
    order = np.random.default_rng(0).permutation(90)
    codes = model.get_latent_representation(adata[order, ::-1].copy())
    np.testing.assert_allclose(codes, model.get_latent_representation()[order], atol=1e-5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("n_latent", 25), ("n_hidden", (8, 0)), ("n_hidden", 8), ("activation", "swish"), ("transform", "log"),
     ("linear", 1), ("dropout_rate", 1.0)],
)  # fmt: skip
def test_impossible_option_is_named(adata, option, value):
    with pytest.raises(OptionError, match=option):
        Autoencoder(adata, **{option: value})


@pytest.mark.parametrize("z", [np.zeros(3), np.zeros((2, 4)), np.full((1, 3), np.nan), np.array([["a", "b", "c"]])])
def test_points_that_are_not_points_are_refused(model, z):
    with pytest.raises(InputError, match="z "):
        model.decode(z)


def test_a_model_that_is_not_trained_says_so(adata):
    with pytest.raises(NotTrainedError):
        Autoencoder(adata).decode(np.zeros((1, 10)))


def test_evidence_is_not_a_question_for_a_point(model):
    batch = model.data.minibatch(np.arange(2))
    latent = model.network.encode(batch)
    with pytest.raises(OptionError, match="density"):
        latent.z.log_prob(latent.z.mean)
    assert not hasattr(model, "get_elbo")
