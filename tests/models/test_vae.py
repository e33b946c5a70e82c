"""The VAE: its two kinds of likelihood, its beta, what it says of counts where it was trained on transformed ones."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import celbo
from celbo.data.minibatch import SparseRows
from celbo.errors import InputError, NotTrainedError, OptionError
from celbo.likelihoods.transformed import RoundedNormal, TransformedNormal, TransformedParameters
from celbo.models.vae import VAE, VAEConfig
from celbo.training.plan import StepState

COUNT_LIKELIHOODS = ("nb", "zinb", "poisson", "zip", "lognormal", "lomax")


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 2, (90, 1)) + rng.gamma(1, 1, 25), (90, 25))
    names = pd.DataFrame(index=[f"cell{i}" for i in range(90)]), pd.DataFrame(index=[f"g{i}" for i in range(25)])
    return ad.AnnData(counts.astype(np.float32), obs=names[0], var=names[1])


@pytest.fixture(scope="module")
def gaussian(adata) -> VAE:
    return VAE(adata, likelihood="gaussian", n_latent=3, n_hidden=(16, 8)).train(max_epochs=5, progress=False)


def _step(seed: int = 0) -> StepState:
    return StepState(step=0, epoch=0, generator=torch.Generator().manual_seed(seed))


def _log_normalised(adata: ad.AnnData, model: VAE, index) -> np.ndarray:
    counts = adata.X[index].astype(np.float64)
    return np.log1p(counts * float(model.network.input.transform.target) / counts.sum(1, keepdims=True))


def _parameters(
    samples: int = 2, cells: int = 3, genes: int = 4, *, transform: str = "log"
) -> tuple[TransformedParameters, torch.Tensor]:
    rng = np.random.default_rng(0)
    of = {"logits": rng.normal(0.5, 0.5, (samples, cells, genes)), "log_scale": np.zeros((1, cells))}
    p = TransformedParameters(
        **{name: torch.from_numpy(value) for name, value in of.items()},
        log_theta=torch.from_numpy(rng.normal(-1, 0.3, (1, genes))),
        log_unit=torch.from_numpy(rng.normal(0, 0.3, (1, cells))) if transform == "log" else None,
    )
    return p, torch.from_numpy(rng.poisson(1.0, (cells, genes)).astype(np.float64))


# -- the Gaussian of transformed counts ---------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["log", "identity"])
def test_density_is_that_of_scipy(transform):
    p, x = _parameters(transform=transform)
    y = x.numpy() if p.log_unit is None else np.log1p(x.numpy() / p.log_unit.exp().numpy()[0][:, None])
    expected = stats.norm(p.logits.numpy(), p.log_theta.exp().numpy()).logpdf(y)
    np.testing.assert_allclose(TransformedNormal().log_prob_entries(p, x), expected, rtol=1e-10)
    rows = SparseRows.from_dense(x)
    for route in ("auto", "reference"):
        np.testing.assert_allclose(TransformedNormal().log_prob(p, rows, route=route), expected.sum(-1), rtol=1e-10)


@pytest.mark.parametrize("transform", ["log", "identity"])
def test_probabilities_of_all_counts_add_up_to_one(transform):
    p, x = _parameters(transform=transform)
    total = sum(RoundedNormal().log_prob_entries(p, torch.full_like(x, k)).exp() for k in range(400))
    np.testing.assert_allclose(total, 1, atol=1e-8)
    cells = RoundedNormal().log_prob(p, SparseRows.from_dense(x))
    np.testing.assert_allclose(cells, RoundedNormal().log_prob_entries(p, x).sum(-1), rtol=1e-10)


def test_expected_counts_are_those_of_the_log_normal():
    p, _ = _parameters()
    unit, m, sd = p.log_unit.exp().numpy()[..., None], p.logits.numpy(), p.log_theta.exp().numpy()
    y = stats.lognorm(s=np.broadcast_to(sd, m.shape), scale=np.exp(m) * unit)  # x + s is log-normal
    np.testing.assert_allclose(TransformedNormal().mean(p), np.maximum(y.mean() - unit, 0), rtol=1e-9)
    np.testing.assert_allclose(TransformedNormal().variance(p), y.var(), rtol=1e-9)
    shares = p.log_share.exp()
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-9)


def test_draws_are_counts_and_have_their_mean():
    p, _ = _parameters(samples=20_000)
    p = TransformedParameters(p.logits[:1].expand_as(p.logits) + 2, p.log_scale, p.log_theta, log_unit=p.log_unit)
    drawn = TransformedNormal().sample(p, torch.Generator().manual_seed(0))
    assert (drawn == drawn.round()).all() and (drawn >= 0).all()
    expected = TransformedNormal().mean(p)[0]
    error = (TransformedNormal().variance(p)[0] / len(drawn)).sqrt()
    assert ((drawn.mean(0) - expected).abs() < 5 * error + 0.05).all()  # rounding moves a mean by less than 0.05


# -- the model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", [*COUNT_LIKELIHOODS, "gaussian"])
@pytest.mark.parametrize("n_hidden", [(), (8,), (12, 6)])
def test_every_parameter_takes_part_in_the_loss(adata, likelihood, n_hidden):
    model = VAE(adata, likelihood=likelihood, n_hidden=n_hidden, n_latent=3)
    model.network.prepare(model.data, np.arange(60))
    model.network.train()
    loss = model.network.loss(model.data.minibatch(np.arange(16)), _step())
    assert loss.reconstruction.shape == loss.kl["z"].shape == (16,)
    loss.total({}).backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("likelihood", [*COUNT_LIKELIHOODS, "gaussian"])
def test_evidence_of_every_likelihood(adata, likelihood):
    model = VAE(adata, likelihood=likelihood, n_latent=2, n_hidden=(8,)).train(max_epochs=3, progress=False)
    elbo, few, many = (
        model.get_elbo(n_samples=50),
        model.get_marginal_ll(n_samples=5),
        model.get_marginal_ll(n_samples=200),
    )
    assert elbo < few + 0.05 < many + 0.1
    assert model.get_count_ll(n_samples=20) < 0
    denoised = model.get_denoised_expression(return_numpy=True)
    assert denoised.shape == (90, 25) and np.isfinite(denoised).all() and (denoised >= 0).all()
    shares = model.get_normalized_expression(return_numpy=True)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)
    drawn = model.posterior_predictive_sample()
    assert (drawn.data == np.round(drawn.data)).all() and (drawn.data >= 0).all()


def test_gaussian_evidence_is_a_density_of_the_transformed_counts(adata, gaussian):
    """One draw, z the mean of q: the ELBO by SciPy."""
    network, index = gaussian.network, np.arange(10)
    batch = gaussian.data.minibatch(index)
    with torch.no_grad():
        latent = network.encode(batch)
        p = network.decode(latent.z.mean[None], batch.library.log()[None], batch)
        found = network.likelihood.log_prob(p, batch.rows)[0]
        mean, sd, scale = network.decode_dense(latent.z.mean[None], batch)
    y = _log_normalised(adata, gaussian, index)
    np.testing.assert_allclose(found, stats.norm(mean[0], sd).logpdf(y).sum(1), rtol=1e-4)
    np.testing.assert_allclose(np.log1p(adata.X[index] * scale.numpy()[:, None]), y, rtol=1e-5)


def test_gaussian_is_scored_on_counts_by_intervals(adata, gaussian):
    index = np.arange(4)
    batch = gaussian.data.minibatch(index)
    z = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), gaussian.network.of_counts():
        p = gaussian.network.decode(z, batch.library.log()[None], batch)
        found = gaussian.network.likelihood.log_prob(p, batch.rows)
    mean, sd, scale = (t.detach().double().numpy() for t in gaussian.network.decode_dense(z, batch))
    x, s = adata.X[index].astype(np.float64), scale[:, None]
    upper, lower = np.log1p(s * (x + 0.5)), np.where(x > 0, np.log1p(s * np.maximum(x - 0.5, 0)), -np.inf)
    expected = np.log(stats.norm.cdf((upper - mean) / sd) - stats.norm.cdf((lower - mean) / sd)).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert isinstance(gaussian.network.likelihood, TransformedNormal)
    assert not isinstance(gaussian.network.likelihood, RoundedNormal)


def test_count_ll_of_a_count_likelihood_is_its_evidence(adata):
    model = VAE(adata, n_latent=2, n_hidden=(8,)).train(max_epochs=2, progress=False)
    assert model.get_count_ll(n_samples=10) == model.get_marginal_ll(n_samples=10)
    with pytest.raises(OptionError, match="get_marginal_ll"):
        model.network.decode_dense(torch.zeros(1, 1, 2), model.data.minibatch([0]))


def test_squared_error_is_half_of_it_and_a_constant(adata):
    model = VAE(adata, config=VAEConfig.squared_error(beta=0.5), n_latent=2, n_hidden=(8,))
    model.train(max_epochs=2, progress=False)
    batch = model.data.minibatch(np.arange(20))
    loss = model.network.loss(batch, _step(3))
    generator = torch.Generator().manual_seed(3)
    z = model.network.encode(batch).z.sample(1, generator)
    decoded = model.network.decode_points(z)[0].detach().numpy()
    square = ((_log_normalised(adata, model, np.arange(20)) - decoded) ** 2).sum(1)
    expected = 0.5 * square + 25 * 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(loss.reconstruction.detach(), expected, rtol=1e-4)
    assert loss.factors == {"z": 0.5}
    assert not any("theta" in name for name, _ in model.network.named_parameters())


def test_learnt_deviations_start_at_those_of_the_genes_and_have_a_floor(adata):
    still = adata.copy()
    still.X[:, 3] = 2
    model = VAE(still, likelihood="gaussian", transform="log1p")
    model.network.prepare(model.data, np.arange(90))
    expected = np.sqrt(np.log1p(still.X).var(0) + 1e-4)
    expected[3] = np.sqrt(2e-4)
    np.testing.assert_allclose(model.network.log_sd().exp().detach()[0], expected, rtol=1e-3)


def test_beta_moves_what_is_maximised_and_leaves_the_elbo_visible(adata):
    model = VAE(adata, beta=0.0, n_latent=2, n_hidden=(8,)).train(max_epochs=2, progress=False)
    history = model.history
    np.testing.assert_allclose(history["objective_train"], -history["reconstruction_train"], rtol=1e-6)
    both = -history["reconstruction_train"] - history["kl_z_train"]
    np.testing.assert_allclose(history["elbo_train"], both, rtol=1e-6)
    assert "objective_train" not in VAE(adata, n_hidden=(8,)).train(max_epochs=1, progress=False).history


def test_training_improves_the_held_out_elbo():
    pbmc = celbo.datasets.pbmc()
    for likelihood in ("nb", "gaussian"):
        model = VAE(pbmc, likelihood=likelihood, n_hidden=(32,)).train(max_epochs=15, progress=False)
        elbo = model.history["elbo_validation"]
        assert elbo.iloc[-1] > elbo.iloc[0] + 5


def test_decode_of_counts_is_log_normalised(adata):
    model = VAE(adata, n_latent=2, n_hidden=(8,)).train(max_epochs=2, progress=False)
    values = np.expm1(model.decode(np.zeros((4, 2))))
    np.testing.assert_allclose(values.sum(1), float(model.network.input.transform.target), rtol=1e-4)


def test_saved_model_gives_the_same_latent_and_evidence(adata, gaussian, tmp_path):
    gaussian.save(tmp_path / "model")
    loaded = celbo.load(tmp_path / "model", adata)
    assert loaded.config == gaussian.config
    np.testing.assert_array_equal(loaded.get_latent_representation(), gaussian.get_latent_representation())
    assert loaded.get_marginal_ll(n_samples=5) == gaussian.get_marginal_ll(n_samples=5)


def test_cells_in_another_order_have_the_same_latent(adata, gaussian):
    order = np.random.default_rng(0).permutation(90)
    latent = gaussian.get_latent_representation(adata[order, ::-1].copy())
    np.testing.assert_allclose(latent, gaussian.get_latent_representation()[order], atol=1e-5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("n_hidden", None), ("n_hidden", (0,)), ("beta", -1.0), ("beta", "1"), ("likelihood", "mse"), ("n_latent", 0)],
)
def test_impossible_option_is_named(adata, option, value):
    with pytest.raises(OptionError, match=option):
        VAE(adata, **{option: value})


def test_a_gaussian_of_scaled_values_is_refused(adata):
    with pytest.raises(OptionError, match="log-normalised"):
        VAE(adata, likelihood="gaussian", transform="scaled")
    VAE(adata, likelihood="nb", transform="scaled")


def test_size_factors_are_refused(adata):
    with_sizes = adata.copy()
    with_sizes.obs["size"] = 1.0
    with pytest.raises(OptionError, match="size_factor_key"):
        VAE(with_sizes, size_factor_key="size")


def test_points_and_untrained_models_are_refused(adata, gaussian):
    with pytest.raises(InputError, match="z "):
        gaussian.decode(np.zeros((2, 5)))
    with pytest.raises(NotTrainedError):
        VAE(adata).get_count_ll()
