"""VASC: its drop-out layer against two Gumbels in float64, the variance of each preset, its plan, its clusters."""

from __future__ import annotations

import math

import anndata as ad
import numpy as np
import pytest
import torch

import celbo
from celbo.errors import OptionError
from celbo.evaluate.metrics import kmeans_agreement
from celbo.models.vasc import VASC, VASCConfig, dropout_cross_entropy
from celbo.training.plan import StepState
from celbo.training.schedule import has_plateaued, warmup_epochs

SMALL = {"encoder_widths": (32, 16), "decoder_widths": (16, 32)}


@pytest.fixture(scope="module")
def pbmc() -> ad.AnnData:
    return celbo.datasets.pbmc()


@pytest.fixture(scope="module")
def trained(pbmc) -> VASC:
    return VASC(pbmc).train(max_epochs=50, progress=False)


def _step(epoch: int = 0, *, training: bool = True) -> StepState:
    return StepState(step=0, epoch=epoch, generator=torch.Generator().manual_seed(0), training=training)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_cross_entropy_is_that_after_a_gumbel_softmax_of_two(temperature):
    logits, x = _normal(6, 9), _uniform(6, 9, seed=1)
    g = -np.log(-np.log(_uniform(2, 6, 9, seed=2).numpy()))  # of dropping out, of staying
    v = 1 / (1 + np.exp(-logits.numpy()))
    p = np.exp(-np.square(v))
    score = np.exp((np.stack([np.log(p), np.log(1 - p)]) + g) / temperature)
    y = v * score[1] / score.sum(0)
    expected = -(x.numpy() * np.log(y) + (1 - x.numpy()) * np.log(1 - y)).sum(1)
    noise = torch.from_numpy(1 / (1 + np.exp(g[0] - g[1])))  # whose logit is the difference of the Gumbels
    found = dropout_cross_entropy(x, logits, noise=noise, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_without_noise_the_kept_share_is_its_probability():
    logits, x = _normal(6, 9), _uniform(6, 9, seed=1)
    v = logits.sigmoid()
    y = v * (1 - torch.exp(-v.square()))
    expected = torch.nn.functional.binary_cross_entropy(y, x, reduction="none").sum(1)
    for temperature in (1.0, 0.5):
        found = dropout_cross_entropy(x, logits, noise=None, temperature=temperature)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("noise", "temperature"), [(False, 1.0), (True, 1.0), (True, 0.5)])
def test_gradient_of_the_cross_entropy(noise, temperature):
    logits, x = (3 * _normal(4, 5)).requires_grad_(), _uniform(4, 5, seed=1)
    u = _uniform(4, 5, seed=2) if noise else None
    assert torch.autograd.gradcheck(
        lambda a: dropout_cross_entropy(x, a, noise=u, temperature=temperature), logits, eps=1e-6, atol=1e-6
    )


def test_cross_entropy_of_far_logits_and_noise_is_finite():
    logits = torch.tensor([[-200.0, -30.0, 0.0, 30.0, 200.0]]).repeat(3, 1).requires_grad_()
    x = torch.tensor([[0.0], [0.5], [1.0]]).expand(3, 5)
    for u in (0.0, 0.5, 1 - 2**-24):
        for temperature in (1.0, 0.5):
            loss = dropout_cross_entropy(x, logits, noise=torch.full((3, 5), u), temperature=temperature)
            loss.sum().backward()
            assert torch.isfinite(loss).all()
            assert torch.isfinite(logits.grad).all()


def test_input_is_log2_over_the_largest_of_the_cell(pbmc):
    model = VASC(pbmc, **SMALL)
    counts = pbmc.X[:20].toarray()
    expected = np.log2(1 + counts) / np.log2(1 + counts).max(1, keepdims=True)
    x = model.network.transform(model.data.minibatch(np.arange(20)))
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5)
    h = model.network.encoder(x @ model.network.first.weight + model.network.first.bias)
    mean = model.network.head(h)[:, :2]
    found = model.network.eval().encode(model.data.minibatch(np.arange(20))).z.mean
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_latent", [2, 5])
def test_variance_of_the_faithful_preset_is_e(pbmc, n_latent):
    model = VASC(pbmc, config=VASCConfig.paper(), n_latent=n_latent, **SMALL).train(max_epochs=1, progress=False)
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(variance, np.full((700, n_latent), math.e), rtol=1e-6)
    batch = model.data.minibatch(np.arange(700))
    kl = model.network.loss(batch, _step(training=False)).kl["z"]
    expected = 0.5 * (np.square(mean) + math.e - 2).sum(1)
    np.testing.assert_allclose(kl.detach(), expected, rtol=1e-4)
    draws = model.get_latent_representation(give_mean=False, n_samples=400)
    assert draws.var(0).mean() == pytest.approx(math.e, rel=0.02)


def test_variance_of_the_other_faithful_preset_has_a_floor_of_one(pbmc):
    model = VASC(pbmc, config=VASCConfig.paper(variance="floor"), n_latent=3, **SMALL)
    model.train(max_epochs=15, learning_rate=0.01, progress=False)
    assert (model.get_latent_representation(return_dist=True)[1] >= 1).all()


def test_learned_variance_falls_below_one(trained):
    mean, variance = trained.get_latent_representation(return_dist=True)
    assert np.median(variance) < 0.2
    np.testing.assert_array_equal(trained.get_latent_representation(), mean)


def test_prediction_draws_no_drop_outs_but_in_the_faithful_preset(pbmc):
    for config, equal in ((VASCConfig(**SMALL), True), (VASCConfig(**SMALL, noisy_prediction=True), False)):
        model = VASC(pbmc, config=config).train(max_epochs=1, progress=False)
        first, second = (model.get_reconstruction(seed=s) for s in (0, 1))
        assert np.array_equal(first, second) == equal
        assert (first >= 0).all() and (first <= 1).all()
        if equal:
            np.testing.assert_allclose(model.get_reconstruction(indices=[3, 5]), first[[3, 5]], rtol=1e-4)
    assert VASCConfig.paper().noisy_prediction


def test_reconstruction_finds_the_genes_of_a_cell(trained, pbmc):
    counts = pbmc.X.toarray()
    x = np.log1p(counts) / np.log1p(counts).max(1, keepdims=True)
    y = trained.get_reconstruction()
    cells = np.corrcoef(x - x.mean(0), y - x.mean(0), rowvar=True)
    own, other = np.diag(cells[:700, 700:]), np.diag(np.roll(cells[:700, 700:], 1, axis=1))
    assert own.mean() > other.mean() + 0.1


def test_temperature_falls_every_hundred_epochs_to_a_half(pbmc):
    network = VASC(pbmc, temperature=1.0, annealing=True, **SMALL).network
    expected = {0: 1, 99: 1, 100: math.exp(-0.03), 250: math.exp(-0.06), 2300: math.exp(-0.69), 2400: 0.5, 9000: 0.5}
    assert {e: network.temperature_at(e) for e in expected} == pytest.approx(expected)
    batch = celbo.SCVI(pbmc).data.minibatch(np.arange(20))
    network.loss(batch, _step(250))
    network.loss(batch, _step(0, training=False))  # what was trained last stays, and is saved
    assert network.temperature.item() == pytest.approx(math.exp(-0.06))
    assert "temperature" in network.state_dict()
    assert VASC(pbmc, temperature=1.0, **SMALL).network.temperature_at(5000) == 1
    assert VASCConfig.paper().temperature == 1


def test_plan_of_the_paper_stops_as_theirs_does():
    plan = VASC.paper_plan(n_cells=700)
    assert (plan.batch_size, VASC.paper_plan(n_cells=100).batch_size) == (256, 32)
    rule = {"patience": plan.patience, "min_delta": plan.min_delta, "after": warmup_epochs(plan.kl_warmup, 5000)}
    flat = [-300.0] * 499
    assert not has_plateaued(flat, **rule)
    assert has_plateaued([*flat, -300.0], **rule)
    assert not has_plateaued([-3000.0 + 0.5 * epoch for epoch in range(2000)], **rule)  # 25 nats in 50 epochs
    assert has_plateaued([-3000.0 + 0.01 * epoch for epoch in range(2000)], **rule)  # half a nat
    assert dict(plan.l1) == {"first.weight": 0.01}


def test_plan_of_the_paper_trains(pbmc):
    model = VASC(pbmc, config=VASCConfig.paper(), **SMALL)
    model.train(VASC.paper_plan(n_cells=700), max_epochs=3, progress=False)
    assert len(model.validation_indices) == 0
    assert np.isfinite(model.history["objective_train"]).all()


def test_objective_is_no_elbo(trained):
    assert not [column for column in trained.history if column.startswith("elbo")]
    assert trained.history["objective_validation"].iloc[-1] > trained.history["objective_validation"].iloc[0] + 10
    assert not hasattr(trained, "get_elbo")


@pytest.mark.parametrize("option", [{"temperature": 0}, {"variance": "free"}, {"encoder_widths": ()}, {"n_latent": 0}])
def test_impossible_options_are_named(pbmc, option):
    with pytest.raises(OptionError, match=next(iter(option))):
        VASC(pbmc, **option)


def test_clusters_of_the_map_are_the_cell_types(trained, pbmc):
    labels = pbmc.obs["cell_type"].to_numpy()
    found = kmeans_agreement(trained.get_latent_representation(), labels)
    chance = kmeans_agreement(trained.get_latent_representation(), np.random.default_rng(0).permutation(labels))
    assert abs(chance.ari) < 0.05
    assert found.ari > 0.3
    assert found.nmi > 0.5
