"""scVI: what the constructor takes, what the network builds, where it starts, what its loss is."""

from __future__ import annotations

import gc
import inspect
import itertools
import weakref
from dataclasses import fields

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import celbo
from celbo.data.schema import DataKeys
from celbo.errors import CelboWarning, NotTrainedError, OptionError
from celbo.models.scvi import SCVIConfig
from celbo.training.plan import StepState


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    n = 60
    obs = pd.DataFrame(
        {
            "batch": rng.choice(["a", "b", "c"], n),
            "label": rng.choice(["x", "y"], n),
            "donor": rng.choice(["d1", "d2"], n),
            "age": rng.normal(size=n),
            "size": rng.uniform(0.5, 2, n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    counts = rng.poisson(1 + rng.gamma(1, 1, 25), (n, 25))
    return ad.AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(25)]))


def _state(seed: int = 0) -> StepState:
    return StepState(step=0, epoch=0, generator=torch.Generator().manual_seed(seed))


def _batch(model: celbo.SCVI, n: int = 16):
    return model.data.minibatch(np.arange(n))


def test_signature_lists_data_keys_and_config_fields():
    names = set(inspect.signature(celbo.SCVI).parameters)
    assert names == {"adata", "config", "seed"} | {f.name for f in (*fields(DataKeys), *fields(SCVIConfig))}


def test_unknown_option_names_the_nearest(adata):
    with pytest.raises(OptionError, match="Did you mean 'n_latent'"):
        celbo.SCVI(adata, n_latnt=5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("likelihood", "nbb"), ("n_latent", 0), ("n_hidden", 2.5), ("dropout_rate", 1.0), ("encode_covariates", "yes")],
)
def test_impossible_option_is_named(adata, option, value):
    with pytest.raises(OptionError, match=option):
        celbo.SCVI(adata, **{option: value})


def test_keywords_win_over_config(adata):
    model = celbo.SCVI(adata, config=SCVIConfig(n_latent=3, n_hidden=8), n_latent=4)
    assert (model.config.n_latent, model.config.n_hidden) == (4, 8)


def test_getter_before_training_is_refused(adata):
    with pytest.raises(NotTrainedError, match="train"):
        celbo.SCVI(adata).get_latent_representation()


@pytest.mark.parametrize(
    ("likelihood", "dispersion", "library", "batch_representation"),
    list(
        itertools.product(
            ["nb", "zinb", "poisson", "normal"],
            ["gene", "gene-batch", "gene-label", "gene-cell"],
            ["observed", "latent"],
            ["one-hot", "embedding"],
        )
    ),
)
def test_loss_is_finite_and_every_parameter_is_used(adata, likelihood, dispersion, library, batch_representation):
    model = celbo.SCVI(
        adata, batch_key="batch", labels_key="label", categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["age"], likelihood=likelihood, dispersion=dispersion, library=library,
        batch_representation=batch_representation, encode_covariates=True, n_hidden=8, n_latent=3, n_layers=2,
    )  # fmt: skip
    model.network.prepare(model.data, np.arange(60))
    model.network.train()
    loss = model.network.loss(_batch(model), _state())
    assert loss.reconstruction.shape == (16,)
    assert set(loss.kl) == ({"z", "library"} if library == "latent" else {"z"})
    loss.total({}).backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part in the loss"
        assert torch.isfinite(parameter.grad).all(), name


def test_heads_the_likelihood_does_not_use_are_not_built(adata):
    assert set(celbo.SCVI(adata).network.decoder.heads) == {"mean"}
    assert set(celbo.SCVI(adata, likelihood="zinb", dispersion="gene-cell").network.decoder.heads) == {
        "mean",
        "theta",
        "dropout",
    }
    assert not hasattr(celbo.SCVI(adata, likelihood="poisson").network, "log_theta")


def test_paper_2018_drops_the_input_and_conditions_the_output(adata):
    network = celbo.SCVI(adata, batch_key="batch", config=SCVIConfig.paper_2018()).network
    assert network.config.library == "latent"
    assert network.decoder.shifts["mean"].tables[0].shape == (3, 25)
    assert network.z_encoder.first.weight.abs().max() <= 0.02
    network.train()
    batch = celbo.SCVI(adata, batch_key="batch").data.minibatch(np.arange(16))
    assert torch.isfinite(network.loss(batch, _state()).total({}))


def test_output_starts_at_the_mean_expression(adata):
    model = celbo.SCVI(adata)
    train = np.arange(40)
    model.network.prepare(model.data, train)
    mean = adata.X[:40].mean(0) + 0.5 / 40
    torch.testing.assert_close(
        torch.softmax(model.network.decoder.head("mean").bias, 0).detach(), torch.tensor(mean / mean.sum()).float()
    )


def test_library_prior_is_each_batch_mean_and_variance(adata):
    model = celbo.SCVI(adata, batch_key="batch", library="latent")
    model.network.prepare(model.data, np.arange(60))
    log_total = np.log(adata.X.sum(1))
    for code, name in enumerate(model.schema.batches):
        own = log_total[(adata.obs["batch"] == name).to_numpy()]
        assert model.network.library_mean[code].item() == pytest.approx(own.mean(), rel=1e-5)
        assert model.network.library_variance[code].item() == pytest.approx(own.var(), rel=1e-4)


def test_size_factor_replaces_the_library(adata):
    model = celbo.SCVI(adata, size_factor_key="size", library="latent")
    assert not model.network.library_is_latent
    model.network.prepare(model.data, np.arange(60))
    bias = model.network.decoder.head("mean").bias
    expected = (adata.X.mean(0) + 0.5 / 60) / adata.obs["size"].mean()
    np.testing.assert_allclose(torch.nn.functional.softplus(bias).detach(), expected, rtol=1e-4)


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone(adata):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, third = (celbo.SCVI(adata, seed=s).network.z_encoder.first.weight for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_logistic_normal_latent_is_a_point_of_the_simplex(adata):
    model = celbo.SCVI(adata, latent_distribution="logistic-normal", n_latent=4, n_hidden=8)
    z = model.network.transform_latent(torch.randn(2, 5, 4))
    torch.testing.assert_close(z.sum(-1), torch.ones(2, 5))


def test_user_data_is_neither_altered_nor_kept_alive(adata):
    mine = adata.copy()
    model = celbo.SCVI(mine, batch_key="batch", labels_key="label")
    assert set(mine.obs) == set(adata.obs)
    assert not mine.uns
    mine.X[:] = 0
    assert model.data.counts.gene_sums().sum() == pytest.approx(adata.X.sum())
    alive = weakref.ref(mine)
    del mine
    gc.collect()
    assert alive() is None


def test_one_cell_more_than_a_batch_trains(adata):
    model = celbo.SCVI(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=2, batch_size=59, train_size=1.0, progress=False)
    assert np.isfinite(model.history["elbo_train"]).all()


def test_training_improves_the_held_out_elbo():
    pbmc = celbo.datasets.pbmc()
    model = celbo.SCVI(pbmc, n_hidden=32, seed=0)
    model.train(max_epochs=15, progress=False)
    elbo = model.history["elbo_validation"]
    assert elbo.iloc[-1] > elbo.iloc[0] + 5
    assert model.get_latent_representation().shape == (700, 10)


def test_same_seed_gives_the_same_bits():
    pbmc = celbo.datasets.pbmc()
    latents = []
    for _ in range(2):
        model = celbo.SCVI(pbmc, n_hidden=16, seed=3)
        model.train(max_epochs=2, progress=False)
        latents.append(model.get_latent_representation())
    assert latents[0].tobytes() == latents[1].tobytes()


@pytest.mark.filterwarnings("ignore:.*all zero in one batch")
def test_few_cells_of_a_batch_warn_and_train(adata):
    few = adata.copy()
    few.obs["batch"] = ["rare"] + ["common"] * 59
    with pytest.warns(CelboWarning, match="rare"):
        model = celbo.SCVI(few, batch_key="batch", n_hidden=8, n_latent=2)
    model.train(max_epochs=1, progress=False)
    assert np.isfinite(model.get_elbo())


def test_second_training_goes_on_from_the_first():
    pbmc = celbo.datasets.pbmc()
    model = celbo.SCVI(pbmc, n_hidden=16)
    model.train(max_epochs=8, progress=False)
    first = model.history["elbo_train"]
    model.train(max_epochs=2, learning_rate=1e-4, kl_warmup=0, progress=False)
    assert model.history["elbo_train"].iloc[0] > first.iloc[0] + 20


def test_interrupted_first_epoch_is_no_training(adata, monkeypatch):
    model = celbo.SCVI(adata, n_hidden=8, n_latent=2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model.network, "loss", stop)
    model.train(max_epochs=2, progress=False)
    assert not model.is_trained
    with pytest.raises(NotTrainedError):
        model.get_elbo()


def test_data_cut_in_place_are_read_anew(adata):
    mine = adata.copy()
    model = celbo.SCVI(mine, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, progress=False)
    assert model.get_latent_representation(mine).shape == (60, 2)
    mine._inplace_subset_obs(mine.obs_names[:7])
    assert model.get_latent_representation(mine).shape == (7, 2)
