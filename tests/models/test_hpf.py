"""Hierarchical Poisson factorisation: the bound, what is recovered and predicted, and what the user can do with it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, optimize, sparse, special, stats
from sklearn.decomposition import NMF

import celbo
from celbo.errors import CelboError, CountsError, GenesError, NotTrainedError, OptionError
from celbo.kernels.cpu_hpf import GammaPrior
from celbo.models import hpf_ask, hpf_fit
from celbo.training.history import TIMING_COLUMNS
from celbo.training.plan import TrainConfig

QUIET = {"progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:.*without a single count")  # parts of real sets lack some genes


def simulated(n_cells: int = 300, n_genes: int = 120, k: int = 4, seed: int = 0, a: float = 0.3) -> ad.AnnData:
    """Counts of the model itself, with its loadings."""
    rng = np.random.default_rng(seed)
    theta = rng.gamma(a, 1, (n_cells, k)) / rng.gamma(3, 0.3, (n_cells, 1))
    beta = rng.gamma(0.3, 1, (n_genes, k)) / rng.gamma(3, 0.3, (n_genes, 1))
    counts = rng.poisson(theta @ beta.T)
    keep = counts.sum(1) > 0
    adata = ad.AnnData(sparse.csr_matrix(counts[keep].astype(np.float32)))
    adata.obsm["theta"], adata.varm["beta"] = theta[keep], beta
    return adata


@pytest.fixture(scope="module")
def pbmc() -> ad.AnnData:
    return celbo.datasets.pbmc()


@pytest.fixture(scope="module")
def fitted(pbmc) -> celbo.HPF:
    return celbo.HPF(pbmc, n_components=6).train(**QUIET)


# -- the bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", ["each-side", "once"])
@pytest.mark.parametrize("initialisation", ["nmf", "dirichlet"])
def test_bound_of_real_counts_never_falls(pbmc, phi, initialisation):
    model = celbo.HPF(pbmc, n_components=5, phi=phi, initialisation=initialisation)
    elbo = model.train(max_epochs=60, early_stopping=False, **QUIET).history["elbo_train"].to_numpy()
    assert len(elbo) == 60
    assert np.diff(elbo).min() > -1e-12 * np.abs(elbo).max()


def test_bound_is_the_one_of_the_formula(pbmc):
    """From the expectations and entropies of q, with ln x! and the shares of each count, dense in float64."""
    small = pbmc[:80, :60].copy()
    small = small[np.asarray(small.X.sum(1)).ravel() > 0].copy()
    model = celbo.HPF(small, n_components=3, a=0.4, c_prime=1.5, b_prime=0.01).train(train_size=1.0, **QUIET)
    x = small.X.toarray().astype(float)
    cells, genes, k = model.network.cells, model.network.genes, 3
    total = -special.gammaln(x + 1).sum() - (cells.mean @ genes.mean.T).sum()
    logs = [special.digamma(q.shape) - np.log(q.rate) for q in (cells, genes)]
    phi = special.softmax(logs[0][:, None] + logs[1][None], axis=2)
    total += (x[..., None] * (phi * (logs[0][:, None] + logs[1][None]) - special.xlogy(phi, phi))).sum()
    d = model.network.priors[1].hyper_rate
    for q, log, (shape, hyper_shape, hyper_rate) in (
        (cells, logs[0], (0.4, 1.0, 0.01)),
        (genes, logs[1], (0.3, 1.5, d)),
    ):
        h = hyper_shape + k * shape
        e_rate, log_rate = h / q.hyper_rate, special.digamma(h) - np.log(q.hyper_rate)
        log_p = shape * log_rate[:, None] - special.gammaln(shape) + (shape - 1) * log - e_rate[:, None] * q.mean
        log_h = hyper_shape * np.log(hyper_rate) - special.gammaln(hyper_shape)
        total += log_p.sum() + (log_h + (hyper_shape - 1) * log_rate - hyper_rate * e_rate).sum()
        total += stats.gamma(q.shape, scale=1 / q.rate).entropy().sum()
        total += stats.gamma(h, scale=1 / q.hyper_rate).entropy().sum()
    assert model.history["elbo_train"].iloc[-1] == pytest.approx(total / len(x), rel=1e-9)


def test_history_adds_up_and_agrees_with_the_getters(fitted):
    last = fitted.history.iloc[-1]
    assert last["elbo_train"] == pytest.approx(
        -(last["reconstruction_train"] + last["kl_cells_train"] + last["kl_genes_train"])
    )
    own = fitted.get_elbo(indices=fitted.train_indices) - last["kl_genes_train"]
    assert own == pytest.approx(last["elbo_train"], rel=1e-10)
    error = fitted.get_reconstruction_error(indices=fitted.train_indices)
    assert error == pytest.approx(last["reconstruction_train"], rel=1e-10)
    held_out = fitted.get_elbo(indices=fitted.validation_indices)
    assert held_out == pytest.approx(last["elbo_validation"], abs=0.5)  # that one lags by a sweep
    assert fitted.get_elbo(per_cell=True).mean() == pytest.approx(fitted.get_elbo())


def test_fit_stops_when_the_bound_rests(fitted):
    elbo = fitted.history["elbo_train"].to_numpy()
    assert fitted.fitted.stopped == "plateau"
    assert len(elbo) % 10 == 0
    assert elbo[-1] - elbo[-11] < 1e-5 * abs(elbo[-1])
    assert elbo[-21] - elbo[-31] > 1e-5 * abs(elbo[-1])


def test_trials_keep_the_best_bound(pbmc):
    model = celbo.HPF(pbmc, n_components=6, n_trials=3, initialisation="dirichlet")
    history = model.train(max_epochs=40, **QUIET).history
    last = history.groupby("trial")["elbo_train"].last()
    assert list(last.index) == [0, 1, 2]
    assert last.nunique() == 3
    assert history["elbo_train"].loc[model.fitted.best_epoch] == last.max()
    assert model.get_elbo(indices=model.train_indices) == pytest.approx(
        last.max() + history["kl_genes_train"].loc[model.fitted.best_epoch]
    )


# -- scHPF as it is --------------------------------------------------------------------------------------------------


def test_preset_stops_by_the_loss_of_the_nonzero_entries(pbmc):
    config = replace(celbo.HPFConfig.schpf(), n_components=5, n_trials=1)
    model = celbo.HPF(pbmc, config=config).train(train_size=1.0, **QUIET)
    losses = model.history["nonzero_loss_train"].dropna()
    assert list(losses.index) == list(range(1, len(model.history) + 1, 10))
    change = (losses.diff() / losses.shift()).abs()
    assert (change.iloc[-2:] < 1e-5).all() or losses.iloc[-1] > max(losses.iloc[-2], losses.iloc[-5])
    x = model.data.counts.to_scipy().tocoo()
    rates = (model.network.cells.mean[x.row] * model.network.genes.mean[x.col]).sum(1)
    assert losses.iloc[-1] == pytest.approx(-stats.poisson.logpmf(x.data.astype(int), rates).mean(), rel=1e-6)


def test_loss_of_the_nonzero_entries_is_judged_as_in_the_original():
    def rows(*losses: float) -> list[dict[str, float]]:
        out = []
        for loss in losses:
            out += [{"nonzero_loss_train": loss}, *[{"nonzero_loss_train": math.nan}] * 9]
        return out[: 10 * len(losses) - 9]

    config, rests = celbo.HPFConfig.schpf(), hpf_fit._nonzero_loss_rests
    assert rests(rows(3, 2, 1, 1, 1), config)
    assert not rests(rows(3, 2, 1, 1, 1)[:-1], config)  # not at a check
    assert not rests(rows(1, 1, 1), config)  # before 30 sweeps
    assert not rests(rows(3, 2, 1.1, 1.0, 1), config)  # the change before was large
    assert not rests(rows(3, 2, 1, 1 + 5e-6, 1), config)  # an inflection
    assert rests(rows(3, 2, 1.9, 1.5, 1.2, 1.3), config) is False  # worse than 1 check ago, better than 5 ago
    assert rests(rows(3, 1.0, 1.1, 1.2, 1.3, 1.4), config)  # worse than both


def test_priors_are_mean_over_variance_of_totals(pbmc):
    x = pbmc.X.toarray().astype(float)
    model = celbo.HPF(pbmc, n_components=2, c_prime=2.0).train(train_size=1.0, max_epochs=1, **QUIET)
    cells, genes = model.network.priors
    assert cells.hyper_rate == pytest.approx(x.sum(1).mean() / x.sum(1).var())
    assert genes.hyper_rate == pytest.approx(2 * x.sum(0).mean() / x.sum(0).var())
    clipped = hpf_fit.empirical_priors(pbmc.X, 0.3, 0.3, (1.0, 1.0), (1e4, None))
    assert clipped[1].hyper_rate == 10.0


def test_scores_are_loadings_times_capacities(fitted):
    cells, genes, k = fitted.network.cells, fitted.network.genes, 6
    capacity = (1 + 0.3 * k) / genes.hyper_rate
    scores = fitted.get_gene_scores()
    np.testing.assert_allclose(scores, genes.mean * capacity[:, None])
    np.testing.assert_allclose(fitted.get_loadings(), genes.mean)
    assert list(scores.index) == list(fitted.schema.genes)
    assert list(scores.columns)[:2] == ["factor_1", "factor_2"]
    own = fitted.get_cell_scores(indices=fitted.train_indices)
    np.testing.assert_allclose(own, cells.mean * ((1 + 0.3 * k) / cells.hyper_rate)[:, None])


# -- what it finds ---------------------------------------------------------------------------------------------------


def matched(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Correlation of each true factor with the found one that belongs to it."""
    k = truth.shape[1]
    correlation = np.corrcoef(found.T, truth.T)[:k, k:]
    rows, columns = optimize.linear_sum_assignment(-correlation)
    return correlation[rows, columns]


def test_factors_of_simulated_counts_are_recovered():
    adata = simulated(800, 300, 6)
    model = celbo.HPF(adata, n_components=6).train(train_size=1.0, **QUIET)
    assert matched(model.get_loadings().to_numpy(), adata.varm["beta"]).min() > 0.9
    assert matched(model.get_latent_representation(), adata.obsm["theta"]).min() > 0.9


def gain_over_nmf(x: sparse.csr_matrix, k: int) -> np.ndarray:
    """By how many nats ours predicts each cell's thinned-out molecules better than KL-NMF with the same k,
    after as many iterations as scikit-learn takes by default.

    Rates of NMF are raised to a floor, the one of eight from 0.1 to 1e-8 that is best for it on these very molecules.
    """
    train, held_out = hpf_ask.thinned(x.astype(np.float32), 0.8, 0)
    keep = np.asarray(train.sum(1)).ravel() > 0
    train, held_out = train[keep], held_out[keep]
    model = celbo.HPF(ad.AnnData(train), n_components=k).train(train_size=1.0, **QUIET)
    ours = hpf_ask.log_likelihood(held_out, model.network.cells.mean / 4, model.network.genes.mean)
    nmf = NMF(k, beta_loss="kullback-leibler", solver="mu", init="nndsvda", max_iter=200, tol=0, random_state=0)
    rates, counts = nmf.fit_transform(train) @ nmf.components_ / 4, held_out.toarray()
    floors = [stats.poisson.logpmf(counts, np.maximum(rates, floor)).sum(1) for floor in 10.0 ** -np.arange(1, 9)]
    return ours - max(floors, key=np.mean)


def test_held_out_molecules_are_predicted_better_than_by_nmf(pbmc):
    gain = gain_over_nmf(pbmc.X, 10)
    assert gain.mean() > 3 * gain.std() / np.sqrt(gain.size)


@pytest.mark.slow
@pytest.mark.parametrize("k", [5, 20])
@pytest.mark.parametrize("file", ["paul15_hematopoiesis.h5ad", "mouse_bladder_top2000.h5ad"])
def test_held_out_molecules_of_real_sets_are_predicted_better_than_by_nmf(data_dir, file, k):
    gain = gain_over_nmf(sparse.csr_matrix(ad.read_h5ad(data_dir / file).X), k)
    assert gain.mean() > 3 * gain.std() / np.sqrt(gain.size)


# -- new cells -------------------------------------------------------------------------------------------------------


def test_projection_of_the_training_cells_gives_their_loadings_back():
    adata = simulated(300, 200, 4)
    model = celbo.HPF(adata, n_components=4, tolerance=1e-9).train(train_size=1.0, max_epochs=3000, **QUIET)
    kept, found = model.get_latent_representation(), model.get_latent_representation(adata.copy())
    assert kept is not found
    assert np.abs(found - kept).max() < 0.02 * kept.max()
    assert np.median(np.abs(found - kept).max(1) / kept.max(1)) < 1e-3
    assert model.get_elbo(adata.copy()) == pytest.approx(model.get_elbo(), abs=0.02)


def test_mean_variance_and_draws_are_those_of_the_gammas(fitted):
    mean, variance = fitted.get_latent_representation(indices=[3, 4], return_dist=True)
    np.testing.assert_array_equal(mean, fitted.get_latent_representation(indices=[3, 4]))
    draws = fitted.get_latent_representation(indices=[3, 4], give_mean=False, n_samples=20_000)
    error = np.sqrt(variance / 20_000)
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.3)


def test_log_likelihood_counts_the_zeros(fitted, pbmc):
    rates = fitted.get_denoised_expression(return_numpy=True).astype(float)
    truth = stats.poisson.logpmf(pbmc.X.toarray(), rates).sum(1)
    np.testing.assert_allclose(fitted.get_log_likelihood(per_cell=True), truth, rtol=1e-5)


def test_marginal_likelihood_is_the_integral_over_the_loading():
    """One factor: log of the integral over theta of p(x | theta) p(theta), xi integrated out, by quadrature."""
    rng = np.random.default_rng(0)
    beta, prior = rng.gamma(1, 1, (12, 1)), GammaPrior(0.5, 1.3, 0.2)
    x = rng.poisson(2.5 * beta[:, 0], (3, 12))
    x[2] = 0
    ours = hpf_ask.marginal_ll(sparse.csr_matrix(x.astype(np.float32)), beta, prior, n_samples=40_000, seed=0)

    def density(log_theta: float, counts: np.ndarray) -> float:
        theta = math.exp(log_theta)
        log_p = stats.poisson.logpmf(counts, theta * beta[:, 0]).sum()
        h = 0.5 + 1.3
        log_p += 1.3 * math.log(0.2) + special.gammaln(h) - special.gammaln(1.3) - special.gammaln(0.5)
        return math.exp(log_p - 0.5 * log_theta - h * math.log(0.2 + theta) + log_theta)

    truth = [math.log(integrate.quad(density, -40, 8, args=(counts,), limit=500, points=[-5, 0, 1])[0]) for counts in x]
    np.testing.assert_allclose(ours, truth, atol=0.02)


def test_marginal_likelihood_lies_above_the_bound_and_rises_with_the_draws(fitted):
    cells = fitted.validation_indices
    few, many = (fitted.get_marginal_ll(indices=cells, n_samples=n) for n in (20, 1000))
    assert fitted.get_elbo(indices=cells) < few < many < fitted.get_log_likelihood(indices=cells)


def test_denoised_expression_has_the_depth_asked_for(fitted, pbmc):
    names = list(fitted.schema.genes[5:8])
    observed = fitted.get_denoised_expression(gene_list=names)
    assert list(observed.columns) == names
    np.testing.assert_allclose(
        observed, (fitted.get_latent_representation() @ fitted.get_loadings().T.to_numpy())[:, 5:8], rtol=1e-4
    )
    total = fitted.get_denoised_expression(return_numpy=True).sum(1)
    assert np.corrcoef(total, np.asarray(pbmc.X.sum(1)).ravel())[0, 1] > 0.99
    scaled = fitted.get_denoised_expression(library_size=1e4, return_numpy=True, n_samples=3, batch_size=9, seed=1)
    np.testing.assert_allclose(scaled.sum(1), 1e4, rtol=1e-4)


# -- saving, resuming, going on --------------------------------------------------------------------------------------


def same(first: celbo.HPF, second: celbo.HPF) -> bool:
    states = [model.network.state_dict() for model in (first, second)]
    histories = [model.history.drop(columns=list(TIMING_COLUMNS)).to_numpy() for model in (first, second)]
    return all(states[0][n].numpy().tobytes() == states[1][n].numpy().tobytes() for n in states[0]) and (
        histories[0].tobytes() == histories[1].tobytes()
    )


def test_loaded_model_gives_the_same_bits(fitted, pbmc, tmp_path):
    loaded = celbo.load(fitted.save(tmp_path / "model"), pbmc)
    assert same(fitted, loaded)
    for asked in (pbmc, pbmc[:50, ::-1].copy()):
        assert loaded.get_latent_representation(asked).tobytes() == fitted.get_latent_representation(asked).tobytes()
    assert loaded.history.equals(fitted.history)


def test_loaded_model_knows_its_cells_from_others(fitted, pbmc, tmp_path):
    other = pbmc[::-1].copy()  # the training cells' positions now hold other counts
    loaded = celbo.load(fitted.save(tmp_path / "model"), other)
    projected = fitted.get_latent_representation(other)
    np.testing.assert_array_equal(loaded.get_latent_representation(), projected)
    few = celbo.load(tmp_path / "model", pbmc[:10].copy())
    assert few.get_latent_representation().shape == (10, 6)


class Killed(BaseException):
    """Stands for a kill: nothing in between catches it."""


@pytest.mark.parametrize("preset", ["default", "schpf"])
@pytest.mark.parametrize("at", [1, 37, 55])
def test_killed_fit_resumes_to_the_same_bits(pbmc, tmp_path, monkeypatch, preset, at):
    config = celbo.HPFConfig.schpf() if preset == "schpf" else celbo.HPFConfig()
    config = replace(config, n_components=3, n_trials=2)
    options = {"max_epochs": 40, "checkpoint_dir": tmp_path / "points", **QUIET}
    small = pbmc[:200].copy()
    alone = celbo.HPF(small, config=config).train(max_epochs=40, **QUIET)
    assert len(alone.history) > 55
    step = hpf_fit.Ascent.step
    monkeypatch.setattr(hpf_fit.CheckpointFolder, "is_due", lambda *_: True)

    def until(self: hpf_fit.Ascent, point: hpf_fit.Point) -> hpf_fit.Point:
        if len(point.rows) == at:
            raise Killed
        return step(self, point)

    with monkeypatch.context() as patch:
        patch.setattr(hpf_fit.Ascent, "step", until)
        with pytest.raises(Killed):
            celbo.HPF(small, config=config).train(**options)
    resumed = celbo.HPF(small, config=config).train(resume=True, **options)
    assert same(alone, resumed)


def test_interrupted_fit_keeps_what_there_is_and_says_how_to_go_on(pbmc, tmp_path, monkeypatch, caplog):
    model, step = celbo.HPF(pbmc[:200].copy(), n_components=3, tolerance=1e-4), hpf_fit.Ascent.step

    def until(self: hpf_fit.Ascent, point: hpf_fit.Point) -> hpf_fit.Point:
        if len(point.rows) == 7:
            raise KeyboardInterrupt
        return step(self, point)

    with monkeypatch.context() as patch:
        patch.setattr(hpf_fit.Ascent, "step", until)
        model.train(checkpoint_dir=tmp_path / "points", **QUIET)
    assert model.is_trained
    assert len(model.history) == 7
    assert "resume=True" in caplog.text
    assert model.get_elbo(indices=model.train_indices) > model.history["elbo_train"].iloc[0]
    model = celbo.HPF(pbmc[:200].copy(), n_components=3, tolerance=1e-4)
    model.train(max_epochs=1000, checkpoint_dir=tmp_path / "points", resume=True, **QUIET)
    assert same(model, celbo.HPF(pbmc[:200].copy(), n_components=3, tolerance=1e-4).train(**QUIET))


def test_interrupt_before_the_first_sweep_is_no_training(pbmc, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hpf_fit.Ascent, "step", stop)
    model = celbo.HPF(pbmc, n_components=3).train(**QUIET)
    with pytest.raises(NotTrainedError):
        model.get_elbo()


def test_checkpoint_of_another_run_is_refused(pbmc, tmp_path):
    small = pbmc[:100].copy()
    celbo.HPF(small, n_components=3).train(max_epochs=2, checkpoint_dir=tmp_path / "c", **QUIET)
    with pytest.raises(OptionError, match="n_components"):
        celbo.HPF(small, n_components=4).train(max_epochs=2, checkpoint_dir=tmp_path / "c", resume=True, **QUIET)
    with pytest.raises(OptionError, match="already holds"):
        celbo.HPF(small, n_components=3).train(max_epochs=2, checkpoint_dir=tmp_path / "c", **QUIET)


def test_second_training_goes_on_from_the_first(pbmc):
    model = celbo.HPF(pbmc, n_components=4)
    first = model.train(max_epochs=8, **QUIET).history["elbo_train"].iloc[-1]
    assert 0 < model.train(max_epochs=1, **QUIET).history["elbo_train"].iloc[0] - first < 1


def test_seed_decides_the_fit(pbmc):
    fits = [celbo.HPF(pbmc, n_components=3, seed=s).train(max_epochs=3, **QUIET) for s in (0, 0, 1)]
    assert same(fits[0], fits[1])
    assert not same(fits[0], fits[2])


# -- how many factors ------------------------------------------------------------------------------------------------


def test_thinned_parts_add_up_and_are_independent():
    x = sparse.csr_matrix(np.random.default_rng(0).poisson(5.0, (300, 400)).astype(np.float32))
    first, second = (part.toarray() for part in hpf_ask.thinned(x, 0.8, 1))
    np.testing.assert_array_equal(first + second, x.toarray())
    assert first.mean() == pytest.approx(4, abs=0.03)
    assert second.var() == pytest.approx(1, abs=0.03)  # Poisson again
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01


def test_true_number_of_factors_is_chosen():
    adata = simulated(500, 200, 5, seed=3)
    table = celbo.HPF.select_k(adata, ks=(2, 3, 5, 8), max_epochs=200)
    assert table.index[table["chosen"]].tolist() == [5]
    assert table["log_likelihood"].idxmax() in (5, 8)
    assert (table["below_best"] >= 0).all()
    assert table["max_overlap"].between(0, 100).all()


def test_maximum_overlaps_are_those_of_all_pairs():
    scores = np.random.default_rng(0).random((200, 5))
    scores[:, 1] = scores[:, 0] + 0.1 * scores[:, 1]
    table = hpf_ask.maximum_overlaps(scores, (20, 50, 200))
    assert list(table.index) == [20, 50]
    for n, row in table.iterrows():
        tops = [set(np.argsort(-scores[:, k])[:n]) for k in range(5)]
        shared = sorted((len(a & b) for a, b in combinations(tops, 2)), reverse=True)
        assert (row["max_overlap"], row["max2_overlap"]) == tuple(shared[:2])
        tail = stats.hypergeom.pmf(np.arange(shared[0], n + 1), 200, n, n).sum()
        assert row["p_max"] == pytest.approx(tail)


# -- bad inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 0}, {"n_components": 2.5}, {"a": 0.0}, {"a": math.nan}, {"c": -2}, {"a_prime": 0},
        {"b_prime": math.inf}, {"d_prime": "small"}, {"initialisation": "svd"}, {"tolerance": 1.5}, {"n_trials": 0},
        {"n_factors": 3},
    ],
)  # fmt: skip
def test_impossible_option_is_named(pbmc, options):
    with pytest.raises(OptionError, match=next(iter(options))):
        celbo.HPF(pbmc, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.1}, {"batch_size": 32}, {"kl_warmup": 0.5}, {"plan": TrainConfig(optimizer="adam")},
        {"device": "cuda"}, {"max_epochs": 0}, {"train_size": 2.0}, {"resume": True},
    ],
)  # fmt: skip
def test_option_of_training_without_meaning_is_named(pbmc, options):
    name = {"plan": "optimizer"}.get(key := next(iter(options)), key)
    with pytest.raises(OptionError, match=name):
        celbo.HPF(pbmc, n_components=3).train(**options, **QUIET)


def test_bad_data_are_named_errors(fitted, pbmc):
    negative = pbmc.copy()
    negative.X = -negative.X
    with pytest.raises(CountsError):
        celbo.HPF(negative)
    with pytest.raises(GenesError):
        fitted.get_latent_representation(pbmc[:, :50].copy())
    for asked in (
        lambda: fitted.get_denoised_expression(library_size=-1),
        lambda: fitted.get_denoised_expression(library_size="latent"),
        lambda: fitted.get_denoised_expression(gene_list=["no gene"]),
        lambda: fitted.get_marginal_ll(n_samples=0),
        lambda: fitted.get_latent_representation(give_mean=False, n_samples=0),
        lambda: celbo.HPF.select_k(pbmc, ks=()),
        lambda: celbo.HPF.select_k(pbmc, ks=(0,)),
        lambda: celbo.HPF.select_k(pbmc, train_share=1.0),
    ):
        with pytest.raises(CelboError):
            asked()


def test_damaged_checkpoint_of_another_shape_is_a_named_error(fitted, pbmc, tmp_path):
    folder = fitted.save(tmp_path / "model")
    weights = Path(folder / "weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CelboError):
        celbo.load(folder, pbmc)


def test_edge_cases_fit():
    """A gene without counts, equal totals, more factors than genes, and two cells."""
    x = np.zeros((6, 3), np.float32)
    x[:, 0], x[:, 1] = 2, 1
    names = pd.DataFrame(index=["a", "b", "c"])
    model = celbo.HPF(ad.AnnData(sparse.csr_matrix(x), var=names), n_components=5).train(train_size=1.0, **QUIET)
    assert np.isfinite(model.history["elbo_train"]).all()
    rates = model.get_denoised_expression(return_numpy=True)
    assert rates[0, 0] > rates[0, 1] > rates[0, 2]
    two = celbo.HPF(ad.AnnData(sparse.csr_matrix(x[:2]), var=names), n_components=1).train(train_size=1.0, **QUIET)
    assert np.isfinite(two.get_elbo())
