"""scVAE: its bounds against sums by hand, its clusters against planted ones, its likelihoods and presets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, Poisson, kl_divergence

import celbo
from celbo import SCVAE, SCVAEConfig
from celbo.errors import OptionError
from celbo.evaluate import ari
from celbo.nn.priors import ClusterStart
from celbo.training.plan import StepState

LIKELIHOODS = ["nb", "zinb", "poisson", "constrained-poisson", "zip", "bernoulli", "normal", "lognormal", "lomax"]
SMALL: dict[str, Any] = {"n_hidden": (12, 8), "n_latent": 3}


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    n = 80
    obs = pd.DataFrame(
        {
            "batch": rng.choice(["a", "b"], n),
            "label": rng.choice(["x", "y", "z"], n, p=[0.5, 0.3, 0.2]),
            "donor": rng.choice(["d1", "d2"], n),
            "age": rng.normal(size=n),
            "size": rng.uniform(0.5, 2, n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    counts = rng.poisson(1 + rng.gamma(1, 1, 25), (n, 25))
    return ad.AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(25)]))


@pytest.fixture(scope="module")
def pbmc() -> ad.AnnData:
    cells = celbo.datasets.pbmc()
    return cells[:, np.asarray((cells.X > 0).sum(0)).ravel() >= 30].copy()


def _planted(**options: Any) -> ad.AnnData:
    """Return simulated cells of the genes that every batch has."""
    cells = celbo.datasets.simulate(library_size=1500, **options)
    everywhere = [np.asarray(cells.X[(cells.obs["batch"] == b).to_numpy()].sum(0)).ravel() > 0
                  for b in cells.obs["batch"].unique()]  # fmt: skip
    return cells[:, np.logical_and.reduce(everywhere)].copy()


def _state(seed: int = 0, **weights: float) -> StepState:
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    return StepState(step=0, epoch=0, generator=torch.Generator().manual_seed(seed), weights=tensors)


def _ready(adata: ad.AnnData, *, double: bool = False, **options: Any) -> tuple[Any, Any]:
    """Return the network of a model whose start is made, in evaluation mode, and all cells."""
    model = SCVAE(adata, **{**SMALL, **options})
    model.network.prepare(model.data, np.arange(adata.n_obs))
    batch = model.data.minibatch(np.arange(adata.n_obs))
    if double:
        model.network.double()
        batch = batch.to(dtype=torch.float64)
    return model.network.eval(), batch


# -- the bound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probabilities", ["uniform", "labels", "learn"])
def test_elbo_of_the_mixture_is_the_sum_over_y_by_hand(adata, probabilities):
    network, batch = _ready(
        adata, double=True, prior="gaussian-mixture", likelihood="poisson", labels_key="label",
        prior_probabilities=probabilities,
    )  # fmt: skip
    with torch.no_grad():
        if probabilities == "learn":
            network.prior.logits.copy_(torch.tensor([0.3, -1.0, 0.5]))
        latent, loss = network.encode(batch), network.loss(batch, _state(3))
        # the same noise as the loss drew, then every component on its own
        noise = torch.randn((1, 3, 80, 3), generator=torch.Generator().manual_seed(3)).double()[0]
        q_y, log_p_y = Categorical(logits=latent.z.log_weight), network.prior.logits.log_softmax(0)
        sd = torch.nn.functional.softplus(network.prior.raw_variance).sqrt()
        elbo = torch.zeros(80, dtype=torch.float64)
        for k in range(3):
            mean, scale = latent.z.components.mean[k], latent.z.components.scale[k]
            z = mean + scale * noise[k]
            rate = network.decode(z[None], torch.zeros(1, 80), batch).log_mean[0].exp()
            log_p = Poisson(rate).log_prob(batch.rows.dense).sum(1)
            kl_z = kl_divergence(Normal(mean, scale), Normal(network.prior.mean[k], sd[k])).sum(1)
            elbo += q_y.probs[:, k] * (log_p - kl_z - q_y.logits[:, k] + log_p_y[k])
    torch.testing.assert_close(loss.elbo(), elbo, rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(loss.kl["y"], kl_divergence(q_y, Categorical(logits=log_p_y.expand(80, 3))))
    if probabilities == "labels":
        shares = adata.obs["label"].value_counts().sort_index().to_numpy() + 1
        np.testing.assert_allclose(log_p_y.exp(), shares / shares.sum(), rtol=1e-6)


def test_divergence_of_the_normal_prior_is_that_of_torch(adata):
    network, batch = _ready(adata, double=True)
    latent = network.encode(batch)
    expected = kl_divergence(Normal(latent.z.mean, latent.z.scale), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(network.kl(latent, batch)["z"], expected)
    assert set(network.loss(batch, _state()).kl) == {"z"}


def test_densities_of_z_are_mixtures(adata):
    network, batch = _ready(adata, double=True, prior="gaussian-mixture", n_components=4)
    latent = network.encode(batch)
    z, log_library = network.sample_latent(latent, batch, 5, torch.Generator().manual_seed(0))
    q, p = latent.z, network.prior
    of_q = MixtureSameFamily(
        Categorical(logits=q.log_weight),
        Independent(Normal(q.components.mean.transpose(0, 1), q.components.scale.transpose(0, 1)), 1),
    )
    of_p = MixtureSameFamily(
        Categorical(logits=p.logits),
        Independent(Normal(p.mean, torch.nn.functional.softplus(p.raw_variance).sqrt()), 1),
    )
    torch.testing.assert_close(network.log_posterior(z, log_library, latent), of_q.log_prob(z))
    torch.testing.assert_close(network.log_prior(z, log_library, batch), of_p.log_prob(z))


@pytest.mark.parametrize("prior", ["normal", "gaussian-mixture"])
def test_importance_weighted_bound_starts_at_the_elbo_and_rises(adata, prior):
    bounds = {}
    for m in (1, 4, 16):
        network, batch = _ready(adata, double=True, prior=prior, n_importance_samples=m, n_samples=96 // m)
        with torch.no_grad():
            latent = network.encode(batch)
            if m == 1:  # the difference to the ELBO is made only where it is not zero
                q, weight = network._components(latent)
                z = q.sample(96, torch.Generator().manual_seed(0))
                p = network.decode(z.flatten(0, 1), torch.zeros(1, 80), batch)
                log_p = network.likelihood.log_prob(p, batch.rows).view(z.shape[:-1])
                kl = network.kl(latent, batch)
                bound = (weight * network._importance_bound(z, log_p, q, 1.0)).sum(0) - kl.get("y", 0.0)
                elbo = (weight * log_p.mean(0)).sum(0) - sum(kl.values())
                # over all cells, the sampled divergence differs from the analytic one by its Monte Carlo error
                error = (weight * (network._importance_bound(z, torch.zeros_like(log_p), q, 1.0))).sum(0) + kl["z"]
                assert error.mean().abs() < 4 * error.std() / math.sqrt(80)
                assert bound.mean().item() == pytest.approx(elbo.mean().item(), abs=0.1)
                assert "importance" not in network.loss(batch, _state()).extras
                bounds[m] = bound.mean().item()
            else:
                loss = network.loss(batch, _state())
                assert set(loss.kl) == ({"z", "y"} if prior == "gaussian-mixture" else {"z"})
                bounds[m] = loss.objective().mean().item()
    assert bounds[1] < bounds[4] < bounds[16]


def test_importance_weighted_bound_while_the_kl_warms_up(adata):
    network, batch = _ready(adata, double=True, n_importance_samples=8)
    loss = network.loss(batch, _state(z=0.0))
    total = loss.total({"z": torch.tensor(0.0)})
    z = network.encode(batch).z
    draws = z.sample(8, torch.Generator().manual_seed(0))
    log_p = network.likelihood.log_prob(network.decode(draws, torch.zeros(1, 80), batch), batch.rows)
    torch.testing.assert_close(total, -(log_p.logsumexp(0) - math.log(8)).mean())


def test_free_nats_count_the_divergence_of_y_above_a_share_of_log_k(adata):
    network, batch = _ready(adata, prior="gaussian-mixture", n_components=4, free_nats=0.8, start="random")
    loss = network.loss(batch, _state())
    threshold = 0.8 * math.log(4)
    assert loss.kl["y"].mean() < threshold
    counted = loss.kl["y"].mean() + loss.extras["free_nats"]
    assert counted.item() == pytest.approx(threshold, rel=1e-6)
    network.y_head.weight.data.mul_(1e3)  # q(y | x) certain: the divergence is beyond the threshold
    sure = network.loss(batch, _state())
    assert sure.kl["y"].mean() > threshold
    assert sure.extras["free_nats"] == 0


def test_y_does_not_enter_the_decoder(adata):
    network, _ = _ready(adata, prior="gaussian-mixture", n_components=4)
    assert network.decoder_first.in_features == SMALL["n_latent"]
    assert not any(4 in parameter.shape for name, parameter in network.named_parameters() if name.startswith("decoder"))


def test_one_pass_over_the_components_is_a_pass_for_each(adata):
    network, batch = _ready(adata, double=True, prior="gaussian-mixture", n_components=4)
    with torch.no_grad():
        together = network.encode(batch).z.components
        of_z = network._first_map(batch).chunk(2, dim=1)[0]
        for k in range(4):
            alone = network._gaussian(network.z_hidden(of_z + network.of_component[k]))
            torch.testing.assert_close(together.mean[k], alone.mean)
            torch.testing.assert_close(together.scale[k], alone.scale)


# -- likelihoods ---------------------------------------------------------------------------------------------------


def test_negative_binomial_is_that_of_r_and_p(adata):
    network, batch = _ready(adata, double=True, likelihood="nb", dispersion="gene-cell")
    z = torch.randn(1, 80, 3, dtype=torch.float64)
    with torch.no_grad():
        p = network.decode(z, torch.zeros(1, 80), batch)
        h = network.decoder_hidden(network.decoder_first(z))
        logit_p, r = network.heads["mean"](h)[0], network.heads["theta"](h)[0].exp()
    expected = torch.distributions.NegativeBinomial(r, logits=logit_p).log_prob(batch.rows.dense).sum(1)
    torch.testing.assert_close(network.likelihood.log_prob(p, batch.rows)[0], expected)


def test_constrained_poisson_has_the_total_of_the_cell(adata):
    network, batch = _ready(adata, likelihood="constrained-poisson")
    mean = network.likelihood.mean(network.decode(torch.randn(2, 80, 3), batch.library.log()[None], batch))
    torch.testing.assert_close(mean.sum(-1), batch.library.expand(2, 80), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("library", ["decoded", "observed"])
@pytest.mark.parametrize("likelihood", ["nb", "poisson", "zip"])
def test_evaluation_says_the_same_mean_as_shares(adata, likelihood, library):
    network, batch = _ready(adata, double=True, likelihood=likelihood, library=library, batch_norm_decay=0.0)
    z, total = torch.randn(1, 80, 3, dtype=torch.float64), batch.library.log()[None]
    p = network.decode(z, total, batch)
    for norm in network.decoder_hidden.norms:
        norm.train(False)
    network.training = True
    in_training = network.decode(z, total, batch)
    torch.testing.assert_close(p.log_mean, in_training.log_mean)
    torch.testing.assert_close(p.log_share.exp().sum(-1), torch.ones(1, 80, dtype=torch.float64))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("prior", "dispersion"), [("normal", "gene"), ("gaussian-mixture", "gene-cell")])
def test_every_parameter_takes_part_with_a_finite_gradient(adata, prior, dispersion, likelihood):
    model = SCVAE(
        adata, prior=prior, likelihood=likelihood, dispersion=dispersion, batch_key="batch",
        categorical_covariate_keys=["donor"], continuous_covariate_keys=["age"], **SMALL,
    )  # fmt: skip
    network = model.network
    network.prepare(model.data, np.arange(80))
    network.train()
    network.loss(model.data.minibatch(np.arange(40)), _state(z=0.5)).total({}).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} takes no part in the loss"
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("likelihood", "n_classes"), [*((name, 0) for name in LIKELIHOODS), ("poisson", 3), ("nb", 2)])
def test_training_improves_the_objective_on_real_counts(pbmc, likelihood, n_classes):
    model = SCVAE(pbmc, likelihood=likelihood, n_classes=n_classes, n_hidden=(32,), n_latent=5)
    model.train(max_epochs=6, progress=False)
    elbo = model.history["elbo_validation"]
    assert np.isfinite(elbo).all()
    assert elbo.iloc[-1] > elbo.iloc[0] + 1
    denoised = model.get_denoised_expression(indices=np.arange(20), return_numpy=True)
    assert denoised.shape == (20, pbmc.n_vars)
    assert (denoised >= 0).all()
    drawn = model.posterior_predictive_sample(indices=np.arange(20))
    assert np.isfinite(drawn.data).all()


@pytest.mark.parametrize(("likelihood", "n_classes"), [(name, 0) for name in LIKELIHOODS] + [("nb", 3)])
def test_output_starts_near_the_mean(pbmc, likelihood, n_classes):
    model = SCVAE(pbmc, likelihood=likelihood, n_classes=n_classes, **SMALL)
    model.network.prepare(model.data, np.arange(700))
    for head in model.network.heads.values():
        head.weight.data.zero_()
    batch = model.data.minibatch(np.arange(700))
    p = model.network.eval().decode(torch.zeros(1, 700, 3), batch.library.log()[None], batch)
    mean = model.network.likelihood.mean_without_inflation(p)[0].detach().numpy().mean(0)
    expected = pbmc.X.toarray().mean(0) if likelihood != "bernoulli" else (pbmc.X.toarray() > 0).mean(0)
    seen = pbmc.X.toarray().mean(0) > 0.05
    ratio = np.median(mean[seen] / expected[seen])
    assert 0.5 < ratio < 2


def test_gaussian_is_another_name_of_normal(adata):
    assert SCVAEConfig(likelihood="gaussian") == SCVAEConfig(likelihood="normal")
    assert SCVAE(adata, likelihood="gaussian", **SMALL).config.likelihood == "normal"


# -- clusters ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(pbmc) -> SCVAE:
    model = SCVAE(pbmc, prior="gaussian-mixture", labels_key="cell_type", n_components=5, n_hidden=(32,))
    return model.train(max_epochs=12, progress=False)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_clusters_are_recovered(seed):
    planted = _planted(n_cells=800, n_genes=300, n_batches=2, n_cell_types=5, de_fraction=0.3, seed=seed)
    model = SCVAE(planted, prior="gaussian-mixture", n_components=5, batch_key="batch", seed=seed)
    model.train(max_epochs=12, progress=False)
    assert ari(planted.obs["cell_type"], model.predict()) > 0.9
    held_out = model.validation_indices
    assert ari(planted.obs["cell_type"].iloc[held_out], model.predict(indices=held_out)) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clusters_are_better_than_the_start(seed):
    planted = _planted(n_cells=1200, n_genes=500, n_batches=2, n_cell_types=6, seed=seed)  # half the planted changes
    model = SCVAE(planted, prior="gaussian-mixture", n_components=6, batch_key="batch", seed=seed).train(progress=False)
    start = model.network.start.assign(model.data.minibatch(np.arange(1200)))
    found = ari(planted.obs["cell_type"], model.predict())
    assert found > 0.93
    assert found > ari(planted.obs["cell_type"], start.numpy()) + 0.02


def test_random_start_mixes_clusters_up_and_the_bound_is_lower():
    planted = _planted(n_cells=800, n_genes=300, n_batches=1, n_cell_types=5, de_fraction=0.3, seed=0)
    found, bound = {}, {}
    for start in ("k-means", "random"):
        model = SCVAE(planted, prior="gaussian-mixture", n_components=5, start=start, seed=1)
        model.train(max_epochs=12, progress=False)
        found[start] = ari(planted.obs["cell_type"], model.predict())
        bound[start] = model.get_elbo(indices=model.validation_indices, n_samples=20)
    assert found["random"] < 0.6 < 0.9 < found["k-means"]
    assert bound["random"] < bound["k-means"] - 0.5


@pytest.mark.filterwarnings("ignore:.*without a single count")
def test_cluster_probabilities_sum_to_one_and_predict_their_largest(fitted, pbmc):
    q = fitted.get_cluster_probabilities()
    assert q.shape == (700, 5)
    assert list(q.index) == list(pbmc.obs_names)
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-5)
    assert np.array_equal(fitted.predict(), q.to_numpy().argmax(1))
    some = [5, 3, 600]
    assert np.array_equal(fitted.predict(indices=some), fitted.predict()[some])
    assert np.array_equal(fitted.predict(pbmc[some].copy()), fitted.predict()[some])


def test_clusters_are_named_by_the_most_frequent_label(fitted, pbmc):
    names, codes, train = fitted.predict(as_labels=True), fitted.predict(), fitted.train_indices
    for k in np.unique(codes[train]):
        own = pbmc.obs["cell_type"].iloc[train][codes[train] == k]
        assert set(names[codes == k]) == {own.value_counts().idxmax()}


def test_marginal_likelihood_lies_above_the_bound_and_history_has_every_term(fitted):
    cells = np.arange(60)
    assert fitted.get_marginal_ll(indices=cells, n_samples=50) > fitted.get_elbo(indices=cells, n_samples=50) + 0.1
    h = fitted.history
    terms = h["reconstruction_validation"] + h["kl_z_validation"] + h["kl_y_validation"]
    np.testing.assert_allclose(h["elbo_validation"], -terms, rtol=1e-6)
    np.testing.assert_allclose(h["objective_validation"], h["elbo_validation"], rtol=1e-6)
    assert h["start_train"].iloc[0] > 0
    assert h["start_train"].iloc[-1] == 0


def test_further_training_is_not_pulled_to_the_start_again(fitted, tmp_path, pbmc):
    path = fitted.save(tmp_path / "model")
    again = celbo.load(path, pbmc)
    assert again.get_latent_representation().tobytes() == fitted.get_latent_representation().tobytes()
    again.train(max_epochs=1, learning_rate=1e-5, progress=False)
    assert (again.history["start_train"] == 0).all()


def test_start_is_a_function_of_the_cell_and_keeps_batches_apart(adata):
    simulated = _planted(n_cells=600, n_genes=300, n_batches=2, n_cell_types=4)
    model = SCVAE(simulated, batch_key="batch", **SMALL)
    start = ClusterStart(simulated.n_vars, 2, 4)
    start.fit(model.data, np.arange(500))
    codes = start.assign(model.data.minibatch(np.arange(600))).numpy()
    assert ari(simulated.obs["cell_type"], codes) > 0.8
    assert abs(ari(simulated.obs["batch"], codes)) < 0.05
    some = model.data.minibatch([7, 3, 550])
    assert list(start.assign(some)) == list(codes[[7, 3, 550]])
    # means lie to each other as the centroids do
    means, centroids = start.means(3).double(), start.centroids.double()
    ratio = torch.pdist(means) / torch.pdist(centroids)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0.0)


def test_more_components_than_cells_start(adata):
    few = adata[:6].copy()
    model = SCVAE(few, prior="gaussian-mixture", n_components=9, **SMALL)
    model.train(max_epochs=2, train_size=1.0, progress=False)
    assert np.isfinite(model.get_elbo())


# -- batches, expression -------------------------------------------------------------------------------------------


def test_batch_enters_the_decoder_and_not_the_encoder(adata):
    network, batch = _ready(adata, batch_key="batch", prior="gaussian-mixture", n_components=3)
    other = batch.with_batch(1)
    torch.testing.assert_close(network.encode(batch).z.mean, network.encode(other).z.mean, rtol=0, atol=0)
    z = torch.randn(1, 80, 3)
    total = batch.library.log()[None]
    moved = network.decode(z, total, other).log_mean - network.decode(z, total, batch.with_batch(0)).log_mean
    assert moved.abs().max() > 1e-3


def test_batch_correction_mixes_batches():
    simulated = _planted(n_cells=800, n_genes=300, n_batches=2, n_cell_types=4, batch_effect=0.8, seed=1)
    latents = {}
    for key in (None, "batch"):
        model = SCVAE(simulated, batch_key=key, n_hidden=(32,), n_latent=5).train(max_epochs=20, progress=False)
        latents[key] = celbo.evaluate.batch_mixing_entropy(model.get_latent_representation(), simulated.obs["batch"])
    assert latents["batch"] > latents[None] + 0.1


def test_normalised_expression_is_shares_of_the_decoded_mean(fitted):
    shares = fitted.get_normalized_expression(indices=[0, 1], give_mean=True, return_numpy=True)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    means = fitted.get_normalized_expression(
        indices=[0, 1], give_mean=True, return_numpy=True, library_size="latent"
    )  # fmt: skip
    np.testing.assert_allclose(means / means.sum(1, keepdims=True), shares, rtol=1e-5)
    assert (np.abs(np.log(means.sum(1) / fitted.data.library[:2])) < 0.7).all()  # depth comes through z


@pytest.mark.parametrize("options", [{"likelihood": "bernoulli"}, {"likelihood": "lomax"}, {"n_classes": 2}])
def test_expression_without_a_mean_is_refused(adata, options):
    model = SCVAE(adata, **SMALL, **options).train(max_epochs=1, progress=False)
    with pytest.raises(OptionError, match="get_denoised_expression"):
        model.get_normalized_expression()
    scaled = model.get_denoised_expression(library_size=1.0, return_numpy=True, n_samples=2)
    np.testing.assert_allclose(scaled.sum(1), 1, rtol=1e-4)


# -- presets, options ----------------------------------------------------------------------------------------------


def test_paper_preset_sees_raw_counts_and_clips(adata):
    network, batch = _ready(adata, config=SCVAEConfig.paper(prior="gaussian-mixture"), n_hidden=(100,), n_latent=2)
    expected = batch.rows.dense @ network.first.weight + network.first.bias
    torch.testing.assert_close(network._first_map(batch), expected)
    assert network.of_library is None
    assert not hasattr(network, "start")
    assert all(norm.momentum == pytest.approx(0.001) for norm in network.z_hidden.norms)
    assert not any(norm.weight.requires_grad for norm in network.z_hidden.norms)
    network.z_head.weight.data.mul_(1e4)
    network.heads["mean"].weight.data.mul_(1e6)
    scale = network.encode(batch).z.components.scale
    assert scale.min().item() == pytest.approx(math.exp(-3), rel=1e-5)
    assert scale.max().item() == pytest.approx(math.exp(3), rel=1e-5)
    rate = network.decode(torch.randn(1, 80, 2), torch.zeros(1, 80), batch).log_mean
    assert rate.abs().max().item() == pytest.approx(10, rel=1e-4)


def test_presets_train(adata):
    model = SCVAE(adata, config=SCVAEConfig.paper()).train(SCVAE.paper_plan(), max_epochs=2, progress=False)
    plan = model.fitted.plan
    assert (plan.optimizer, plan.learning_rate, plan.batch_size, plan.clip_value) == ("adam", 1e-4, 100, 1.0)
    assert SCVAE.paper_plan().max_epochs == 200
    assert not plan.early_stopping
    guide = SCVAE(adata, config=SCVAEConfig.guide_10x(), labels_key="label")
    assert (guide.config.likelihood, guide.config.n_latent, guide.config.n_hidden) == ("nb", 100, (100, 100))
    assert guide.network.n_components == 3
    assert SCVAE.guide_10x_plan() == replace(
        SCVAE.paper_plan(), max_epochs=500, kl_warmup=200, kl_warmup_terms=("z", "y", "free_nats")
    )
    guide.train(SCVAE.guide_10x_plan(), max_epochs=2, progress=False)
    assert np.isfinite(guide.history["elbo_train"]).all()


def test_number_of_components_by_default(adata):
    assert SCVAE(adata, prior="gaussian-mixture", **SMALL).network.n_components == 10
    assert SCVAE(adata, prior="gaussian-mixture", labels_key="label", **SMALL).network.n_components == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_components": 4}, "n_components"),
        ({"free_nats": 0.5}, "free_nats"),
        ({"prior": "gaussian-mixture", "n_components": 1}, "n_components"),
        ({"prior": "gaussian-mixture", "prior_probabilities": "labels"}, "prior_probabilities"),
        (
            {"prior": "gaussian-mixture", "prior_probabilities": "labels", "labels_key": "label", "n_components": 5},
            "prior_probabilities",
        ),
        ({"prior": "gaussian-mixture", "free_nats": 1.5}, "free_nats"),
        ({"prior": "mixture"}, "prior"),
        ({"likelihood": "negative_binomial"}, "likelihood"),
        ({"n_classes": -1}, "n_classes"),
        ({"n_classes": 2, "likelihood": "bernoulli"}, "n_classes"),
        ({"n_hidden": ()}, "n_hidden"),
        ({"n_hidden": 100}, "n_hidden"),
        ({"n_importance_samples": 0}, "n_importance_samples"),
        ({"library": "observed", "likelihood": "lomax"}, "lomax"),
        ({"size_factor_key": "size"}, "size_factor_key"),
    ],
)
def test_impossible_options_are_named(adata, options, named):
    with pytest.raises(OptionError, match=named):
        SCVAE(adata, **options)


def test_clusters_of_a_normal_prior_are_refused(adata):
    model = SCVAE(adata, **SMALL).train(max_epochs=1, progress=False)
    for ask in (model.predict, model.get_cluster_probabilities):
        with pytest.raises(OptionError, match="gaussian-mixture"):
            ask()


def test_names_of_clusters_need_labels(adata):
    model = SCVAE(adata, prior="gaussian-mixture", **SMALL).train(max_epochs=1, progress=False)
    with pytest.raises(OptionError, match="labels_key"):
        model.predict(as_labels=True)


def test_size_factors_take_the_place_of_totals(adata):
    network, batch = _ready(adata, likelihood="constrained-poisson", size_factor_key="size")
    _, log_library = network.sample_latent(network.encode(batch), batch)
    np.testing.assert_allclose(log_library[0].exp(), adata.obs["size"], rtol=1e-5)
