"""scvis: its terms against SciPy and the specification, its perplexity, and its map beside t-SNE's."""

from __future__ import annotations

import math

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import stats

import celbo
from celbo.data.components import log_normalised, principal_components
from celbo.errors import OptionError
from celbo.models.scvis import SCVIS, SCVISConfig
from celbo.nn.tsne import perplexity_of, smoothed, transition_probabilities, tsne_cross_entropy
from celbo.training.plan import StepState


@pytest.fixture(scope="module")
def pbmc() -> ad.AnnData:
    return celbo.datasets.pbmc()


@pytest.fixture(scope="module")
def trained(pbmc) -> SCVIS:
    return SCVIS(pbmc, n_components=50).train(max_epochs=50, progress=False)


def _step(step: int = 0, *, training: bool = True) -> StepState:
    return StepState(step=step, epoch=0, generator=torch.Generator().manual_seed(0), training=training)


def _prepared(pbmc: ad.AnnData, n_train: int = 500, **options: object) -> SCVIS:
    model = SCVIS(pbmc, **options)
    model.network.prepare(model.data, np.arange(n_train))
    model.network.eval()
    return model


def _accuracy(latent: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    return float(cross_val_score(KNeighborsClassifier(10), latent, labels, cv=3).mean())


def test_network_sees_scaled_scores_of_the_training_cells_components(pbmc):
    model = _prepared(pbmc, n_components=20)
    target = float(np.median(model.data.library[:500]))
    values = log_normalised(model.data.counts, target=target)
    components = principal_components(values[:500], 20, seed=0)
    expected = components.project(values)
    expected /= np.abs(expected[:500]).max()
    found = model.network.scores(model.data.minibatch(np.arange(700)))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    assert found[:500].abs().max().item() == pytest.approx(1, abs=1e-5)


def test_no_more_components_than_genes(pbmc):
    assert SCVIS(pbmc[:, :30].copy()).network.n_components == 30


def test_more_components_than_the_training_cells_allow_is_a_named_error(pbmc):
    with pytest.raises(OptionError, match="n_components"):
        SCVIS(pbmc).train(train_indices=np.arange(60), max_epochs=1, progress=False)


def test_density_is_students(pbmc):
    model = _prepared(pbmc, n_components=10)
    network = model.network
    with torch.no_grad():
        network.freedom.copy_(torch.tensor([0.01, 0.1, 0.5, 1, 2, 3, 5, 9, 10, 99]))
    batch = model.data.minibatch(np.arange(8))
    z = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(1))
    h = network.decoder(z)
    raw = network.decoder_variance(h).double()
    scale = np.sqrt(np.clip(np.logaddexp(0, raw.detach().numpy()), 1e-6, 1e10))
    freedom = np.clip(network.freedom.detach().numpy(), 0.1, 10)  # as in the paper's code
    location = network.decoder_mean(h).detach().numpy()
    expected = stats.t.logpdf(network.scores(batch).numpy(), freedom, location, scale).sum(-1)
    np.testing.assert_allclose(network.decode(z, None, batch).log_prob().detach(), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("iteration", "tsne", "kl"), [(1, 1, 50), (40, 40, 1.25), (50, 50, 1), (400, 50, 0.125), (5000, 50, 0.1)]
)
def test_weights_of_the_terms_are_min_t_k_and_max_k_over_t(pbmc, iteration, tsne, kl):
    model = _prepared(pbmc, n_components=50)
    batch = model.data.minibatch(np.arange(40))
    loss = model.network.loss(batch, _step(iteration - 1))
    weights = {name: factor * loss.schedule[name] for name, factor in loss.factors.items()}
    assert weights == {"tsne": pytest.approx(tsne), "z": pytest.approx(kl)}
    held_out = model.network.loss(batch, _step(training=False))
    assert (held_out.factors, held_out.schedule) == ({"tsne": 50, "z": 0.1}, {})


def test_loss_is_the_sum_of_the_papers_terms(pbmc):
    model = _prepared(pbmc, n_components=20, dropout_rate=0.0)
    network, batch = model.network, model.data.minibatch(np.arange(120))
    loss = network.loss(batch, _step(9))
    x = network.scores(batch)
    q = network.encode(batch).z
    z = q.sample(1, _step().generator)
    p = transition_probabilities(x, 10.0)
    log_p = network.decode(z, None, batch).log_prob()[0]
    weight = p.sum(0).clamp(0.01, 2)
    assert (weight.min(), weight.max()) != (weight.mean(), weight.mean())
    expected = -(weight * log_p).mean() + 20 / 10 * q.kl_to(0.0, 1.0).mean()
    expected = expected + 10 * tsne_cross_entropy(smoothed(p), z[0])
    torch.testing.assert_close(loss.total({}), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.elbo(), log_p - q.kl_to(0.0, 1.0), rtol=1e-5, atol=1e-4)  # without any weight
    assert loss.is_bound


def test_asking_for_a_perplexity_gives_it_and_by_the_original_convention_more(pbmc):
    x = _prepared(pbmc, n_components=50).network.scores(celbo.SCVI(pbmc).data.minibatch(np.arange(512)))
    for asked, original in ((10.0, 27.7), (30.0, 135.2)):
        ours = SCVISConfig(perplexity=asked).true_perplexity
        theirs = SCVISConfig(perplexity=asked, perplexity_convention="scvis").true_perplexity
        assert perplexity_of(transition_probabilities(x, ours)).mean().item() == pytest.approx(asked, rel=1e-4)
        assert perplexity_of(transition_probabilities(x, theirs)).mean().item() == pytest.approx(original, abs=0.05)
        assert math.log(theirs) == pytest.approx(math.log2(asked))  # nats on the left, bits on the right


def test_paper_preset_has_the_original_convention_and_starting_weights(pbmc):
    model = SCVIS(pbmc, config=SCVISConfig.paper())
    assert model.config.perplexity_convention == "scvis"
    network = model.network
    layer = network.encoder.linears[0]
    assert layer.weight.std().item() == pytest.approx(0.88 * math.sqrt(2 / 100), rel=0.03)  # cut at two deviations
    assert layer.weight.abs().max() <= 2 * math.sqrt(2 / 100)
    assert torch.equal(layer.bias, torch.full((128,), 0.1))
    assert torch.equal(network.freedom, torch.ones(100))


@pytest.mark.parametrize(("n_cells", "epochs"), [(2_700, 500), (22_000, 100), (160_000, 96), (20_000_000, 2)])
def test_paper_plan_takes_the_iterations_of_the_original(n_cells, epochs):
    plan = SCVIS.paper_plan(n_cells=n_cells)
    per_epoch = math.ceil(n_cells / 512)
    assert plan.max_epochs == epochs
    assert plan.max_epochs * per_epoch >= 3_000
    assert dict(plan.clip_values) == {"*": 3.0, "encoder_variance.*": 0.3}


def test_paper_plan_trains(pbmc):
    model = SCVIS(pbmc, config=SCVISConfig.paper(), n_components=20)
    model.train(SCVIS.paper_plan(n_cells=700), max_epochs=3, progress=False)
    assert np.isfinite(model.history["objective_train"]).all()
    assert len(model.validation_indices) == 0


def test_dropout_acts_on_the_weights_of_the_mean_alone(pbmc):
    model = _prepared(pbmc, n_components=20, dropout_rate=0.5)
    batch = model.data.minibatch(np.arange(50))
    model.network.train()
    a, b = (model.network.encode(batch, torch.Generator().manual_seed(s)).z for s in (0, 1))
    assert not torch.equal(a.mean, b.mean)
    assert torch.equal(a.scale, b.scale)


def test_one_dimension_trains(pbmc):
    model = SCVIS(pbmc, n_latent=1, n_components=20).train(max_epochs=4, progress=False)
    assert np.isfinite(model.history.drop(columns=["seconds"])).all().all()
    assert model.get_latent_representation().shape == (700, 1)


@pytest.mark.parametrize("option", [{"perplexity": 0.5}, {"perplexity": "10"}, {"perplexity_convention": "bits"}])
def test_impossible_options_are_named(pbmc, option):
    with pytest.raises(OptionError, match=next(iter(option))):
        SCVIS(pbmc, **option)


def test_training_cells_mapped_again_come_to_the_same_place(trained, pbmc):
    first = trained.get_latent_representation()
    order = np.random.default_rng(0).permutation(700)[:300]
    again = trained.get_latent_representation(pbmc[order].copy())
    np.testing.assert_allclose(again, first[order], rtol=1e-4, atol=1e-4)


def test_log_likelihood_is_the_mean_over_draws(trained):
    few, many = (trained.get_log_likelihood(n_samples=n, per_cell=True) for n in (5, 200))
    assert few.shape == (700,)
    assert few.mean() == pytest.approx(trained.get_log_likelihood(), rel=1e-9)
    assert np.corrcoef(few, many)[0, 1] > 0.95
    noise = np.random.default_rng(0).permuted(celbo.datasets.pbmc().X.toarray(), axis=1)
    strange = ad.AnnData(noise, var=celbo.datasets.pbmc().var)
    assert trained.get_log_likelihood(strange) < trained.get_log_likelihood() - 10


def test_map_tells_labels_as_well_as_t_sne(trained, pbmc):
    from sklearn.manifold import TSNE

    values = log_normalised(trained.data.counts)
    scores = principal_components(values, 50, seed=0).project(values)
    labels = pbmc.obs["cell_type"].to_numpy()
    theirs = _accuracy(TSNE(random_state=0).fit_transform(scores), labels)
    assert _accuracy(trained.get_latent_representation(), labels) > theirs - 0.03


@pytest.mark.slow
def test_map_of_a_large_set_tells_labels_as_well_as_t_sne(data_dir):
    from sklearn.manifold import TSNE

    adata = celbo.read(data_dir / "paul15_hematopoiesis.h5ad")
    celbo.select_genes(adata, n_top_genes=2000)
    adata = adata[:, adata.var["highly_variable"]].copy()
    model = SCVIS(adata).train(progress=False)
    values = log_normalised(model.data.counts)
    scores = principal_components(values, 100, seed=0).project(values)
    labels = adata.obs["cell_type"].to_numpy()
    theirs = _accuracy(TSNE(random_state=0).fit_transform(scores), labels)
    assert _accuracy(model.get_latent_representation(), labels) > theirs - 0.02
