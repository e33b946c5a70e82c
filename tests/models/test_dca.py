"""DCA: its eleven types against the table of the original in float64 (NumPy, SciPy), its outputs and presets."""

from __future__ import annotations

import typing
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import expit

import celbo
from celbo.errors import CountsError, OptionError
from celbo.models.dca import AEType, DCAConfig
from celbo.nn.layers import SparseLinear
from celbo.nn.transforms import InputTransform
from celbo.training.plan import StepState, TrainConfig

TYPES = typing.get_args(AEType)
NEGATIVE_BINOMIAL = [t for t in TYPES if t.startswith(("nb", "zinb"))]
INFLATED = [t for t in TYPES if t.startswith("zinb")]


@pytest.fixture(scope="module")
def pbmc() -> ad.AnnData:
    adata = celbo.datasets.pbmc()
    return adata[:, np.asarray((adata.X > 0).sum(0)).ravel() > 35].copy()


@pytest.fixture(scope="module")
def trained(pbmc: ad.AnnData) -> typing.Callable[[str], celbo.DCA]:
    kept: dict[str, celbo.DCA] = {}

    def of(ae_type: str) -> celbo.DCA:
        if ae_type not in kept:
            kept[ae_type] = celbo.DCA(pbmc, ae_type=ae_type).train(max_epochs=3)
        return kept[ae_type]

    return of


def _state(*, training: bool = False) -> StepState:
    return StepState(step=0, epoch=0, generator=torch.Generator().manual_seed(0), training=training)


def _numpy_outputs(model: celbo.DCA, x: np.ndarray) -> dict[str, np.ndarray]:
    """The whole network in float64 by NumPy: code, mean with size factor, theta and pi, (cells, genes) each."""
    w = {name: value.double().numpy() for name, value in model.network.state_dict().items()}
    full = model.data.counts.rows(np.arange(model.data.n_cells)).dense.double().numpy()
    kind, train = model.config.ae_type, model.train_indices
    median = np.median(full.sum(1)[train])
    logged = np.log1p(full * median / full.sum(1, keepdims=True))
    shift, factor = logged[train].mean(0), logged[train].std(0, ddof=1)

    def activated(h: np.ndarray, norm: str) -> np.ndarray:
        h = (h - w[f"{norm}.running_mean"]) / np.sqrt(w[f"{norm}.running_var"] + 1e-3) + w[f"{norm}.bias"]
        return np.maximum(h, 0)

    def head(name: str) -> np.ndarray:
        branch = f"branches.{name if kind.endswith('fork') else 'all'}"
        h = activated(code, "activated.1.norm") @ w[f"{branch}.linears.0.weight"].T + w[f"{branch}.linears.0.bias"]
        return activated(h, f"{branch}.batch_norms.0") @ w[f"heads.{name}.weight"] + w[f"heads.{name}.bias"]

    size = x.sum(1, keepdims=True) / median
    u = (np.log1p(x / size) - shift) / np.where(factor < 1e-12, 1, factor)
    h = activated(u @ w["first.weight"] + w["first.bias"], "activated.0.norm")
    code = h @ w["linears.0.weight"].T + w["linears.0.bias"]
    a = head("mean")
    out = {"code": code, "mean": size * (a if kind == "normal" else np.exp(a))}
    if kind in ("nb", "zinb"):
        out["theta"] = np.exp(w["log_theta"])
    elif kind in NEGATIVE_BINOMIAL:
        out["theta"] = np.logaddexp(0, head("theta"))
    if kind == "zinb-elempi":
        out["pi"] = expit(w["pi_slope"] * a + w["pi_intercept"])
    elif kind in INFLATED:
        out["pi"] = expit(head("dropout"))
    return {name: np.broadcast_to(value, x.shape) if name != "code" else value for name, value in out.items()}


def _oracle(kind: str, x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """The loss of the table, summed over genes; (cells,)."""
    mean = p["mean"]
    if kind == "normal":
        return np.square(x - mean).sum(1)
    if kind == "poisson":
        return -stats.poisson.logpmf(x, mean).sum(1)
    log_nb = stats.nbinom.logpmf(x, p["theta"], p["theta"] / (p["theta"] + mean))
    if "pi" not in p:
        return -log_nb.sum(1)
    return -np.where(x == 0, np.log(p["pi"] + (1 - p["pi"]) * np.exp(log_nb)), np.log1p(-p["pi"]) + log_nb).sum(1)


@pytest.mark.parametrize("kind", TYPES)
def test_loss_and_outputs_are_those_of_the_table(trained, kind):
    model = trained(kind)
    cells = np.arange(40)
    batch = model.data.minibatch(cells)
    x = batch.rows.dense.double().numpy()
    expected = _numpy_outputs(model, x)
    with torch.no_grad():
        loss = model.network.loss(batch, _state()).reconstruction
    np.testing.assert_allclose(loss, _oracle(kind, x, expected), rtol=2e-5)
    np.testing.assert_allclose(model.get_latent_representation(indices=cells), expected["code"], rtol=1e-3, atol=1e-4)
    denoised = model.get_denoised_expression(indices=cells, return_numpy=True)
    np.testing.assert_allclose(denoised, expected["mean"].clip(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.get_reconstruction_error(indices=cells), loss.mean(), rtol=1e-5)
    if "theta" in expected and kind not in ("nb", "zinb", "nb-shared", "zinb-shared"):
        np.testing.assert_allclose(model.get_dispersion(indices=cells), expected["theta"], rtol=1e-3)
    if "pi" in expected and kind != "zinb-shared":
        np.testing.assert_allclose(model.get_dropout_probability(indices=cells), expected["pi"], rtol=1e-3)
        seen = model.get_denoised_expression(indices=cells, return_numpy=True, zero_inflation=True)
        np.testing.assert_allclose(seen, expected["mean"] * (1 - expected["pi"]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", TYPES)
def test_every_parameter_has_a_finite_gradient(pbmc, kind):
    model = celbo.DCA(pbmc, ae_type=kind, ridge=0.1 if kind in INFLATED else 0.0)
    model.network.prepare(model.data, np.arange(600))
    model.network.train()
    model.network.loss(model.data.minibatch(np.arange(32)), _state(training=True)).total({}).backward()
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", TYPES)
def test_objective_improves_on_real_counts_and_a_saved_model_is_the_same(trained, pbmc, kind, tmp_path):
    model = trained(kind)
    objective = model.history["objective_validation"]
    assert not [c for c in model.history if c.startswith("elbo")]
    assert np.isfinite(objective).all() and objective.iloc[-1] > objective.iloc[0]
    loaded = celbo.load(model.save(tmp_path / "m"), pbmc)
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    other = pbmc[::-7].copy()  # new cells, in another order
    some = loaded.get_denoised_expression(other)
    np.testing.assert_allclose(some, model.get_denoised_expression().loc[other.obs_names], rtol=1e-4, atol=1e-5)


def test_heads_are_those_of_the_table(pbmc):
    n = pbmc.n_vars
    entry, cell = (64, n), (64, 1)
    expected = {
        "normal": {"mean": entry},
        "poisson": {"mean": entry},
        "nb": {"mean": entry},
        "nb-conddisp": {"mean": entry, "theta": entry},
        "nb-shared": {"mean": entry, "theta": cell},
        "nb-fork": {"mean": entry, "theta": entry},
        "zinb": {"mean": entry, "dropout": entry},
        "zinb-conddisp": {"mean": entry, "theta": entry, "dropout": entry},
        "zinb-shared": {"mean": entry, "theta": cell, "dropout": cell},
        "zinb-fork": {"mean": entry, "theta": entry, "dropout": entry},
        "zinb-elempi": {"mean": entry, "theta": entry},
    }
    assert set(expected) == set(TYPES)
    for kind, heads in expected.items():
        network = celbo.DCA(pbmc, ae_type=kind).network
        assert {name: tuple(head.weight.shape) for name, head in network.heads.items()} == heads, kind
        own = {name: tuple(p.shape) for name, p in network.named_parameters() if "." not in name}
        genewise = {"log_theta": (1, n)} if kind in ("nb", "zinb") else {}
        elementwise = {"pi_slope": (n,), "pi_intercept": (n,)} if kind == "zinb-elempi" else {}
        assert own == genewise | elementwise, kind
        assert set(network.branches) == (set(heads) if kind.endswith("fork") else {"all"})
    assert celbo.DCA(pbmc, ae_type="zinb-elempi", shared_pi=True).network.pi_slope.shape == (1,)


def test_outputs_have_the_shapes_of_their_types(trained, pbmc):
    cells, genes = pbmc.obs_names, pbmc.var_names
    for kind in NEGATIVE_BINOMIAL:
        theta = trained(kind).get_dispersion(indices=[3, 5])
        assert (np.asarray(theta) > 0).all()
        index = theta.index.tolist()
        assert index == (list(genes) if kind in ("nb", "zinb") else list(cells[[3, 5]])), kind
        assert isinstance(theta, pd.Series) == (kind in ("nb", "zinb", "nb-shared", "zinb-shared"))
    pi = trained("zinb-fork").get_dropout_probability(gene_list=[genes[4], genes[1]])
    assert pi.columns.tolist() == [genes[4], genes[1]] and pi.shape[0] == len(cells)
    assert ((pi > 0) & (pi < 1)).to_numpy().all()
    with pytest.raises(OptionError, match="has no dropout"):
        trained("nb-conddisp").get_dropout_probability()
    with pytest.raises(OptionError, match="has no dispersion"):
        trained("poisson").get_dispersion()


def test_latent_is_before_the_activation_or_after_it(pbmc):
    before = celbo.DCA(pbmc).train(max_epochs=2)
    after = celbo.DCA(pbmc, latent="activated").train(max_epochs=2)
    plain, activated = before.get_latent_representation(), after.get_latent_representation()
    assert plain.min() < -1 and plain.shape == (pbmc.n_obs, 32)
    assert activated.min() == 0
    with torch.no_grad():
        np.testing.assert_allclose(before.network.activated[-1](torch.tensor(plain)), activated, atol=1e-5)
    assert np.allclose(before.get_denoised_expression(), after.get_denoised_expression(), rtol=1e-4)


def test_expected_counts_follow_the_depth_of_the_cell(trained, pbmc):
    deeper = ad.AnnData(pbmc.X * 3, obs=pbmc.obs, var=pbmc.var)
    once = trained("nb-conddisp").get_denoised_expression(return_numpy=True)
    np.testing.assert_allclose(
        trained("nb-conddisp").get_denoised_expression(deeper, return_numpy=True), 3 * once, rtol=1e-4
    )


def test_size_factors_given_take_the_place_of_totals(pbmc):
    adata = ad.AnnData(pbmc.X, obs=pbmc.obs.assign(size=2 * pbmc.obs["n_counts"]), var=pbmc.var)
    model = celbo.DCA(adata, size_factor_key="size").train(max_epochs=3)
    other = ad.AnnData(pbmc.X, obs=pbmc.obs.assign(size=6 * pbmc.obs["n_counts"]), var=pbmc.var)
    once, thrice = (model.get_denoised_expression(a, return_numpy=True) for a in (adata, other))
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-4)
    assert once.sum() == pytest.approx(pbmc.X.sum(), rel=0.1)  # it started at the mean for these size factors


def test_ridge_is_the_sum_of_squared_dropout_probabilities(pbmc):
    model = celbo.DCA(pbmc, ae_type="zinb", ridge=0.5).train(max_epochs=2)
    batch = model.data.minibatch(np.arange(20))
    with torch.no_grad():
        loss = model.network.loss(batch, _state())
    pi = model.get_dropout_probability(indices=np.arange(20)).to_numpy()
    np.testing.assert_allclose(loss.extras["ridge"], np.square(pi).sum(1), rtol=1e-4)
    np.testing.assert_allclose(-loss.objective(), loss.reconstruction + 0.5 * loss.extras["ridge"], rtol=1e-6)
    strong = celbo.DCA(pbmc, ae_type="zinb", ridge=50.0).train(max_epochs=10)
    weak = celbo.DCA(pbmc, ae_type="zinb").train(max_epochs=10)
    assert strong.get_dropout_probability().to_numpy().mean() < 0.5 * weak.get_dropout_probability().to_numpy().mean()


def test_penalties_on_the_encoder_are_options_of_the_plan(pbmc):
    plain = celbo.DCA(pbmc).train(max_epochs=3)
    plan = replace(plain.default_plan(), max_epochs=3, l2=(("first.weight", 100.0), ("linears.*.weight", 100.0)))
    held = celbo.DCA(pbmc).train(plan)
    assert held.network.first.weight.square().sum() < 0.5 * plain.network.first.weight.square().sum()


def test_layers_of_a_fork_follow_each_other(pbmc):
    network = celbo.DCA(pbmc, ae_type="nb-fork", n_hidden=(16, 8, 12, 20)).network
    assert tuple(network.linears[1].weight.shape) == (12, 8)  # of four layers the third is the code
    network = celbo.DCA(pbmc, ae_type="nb-fork", n_hidden=(16, 8, 4, 12, 20)).network
    for branch in network.branches.values():
        assert [tuple(layer.weight.shape) for layer in branch.linears] == [(12, 4), (20, 12)]


def test_default_plan_is_no_worse_on_held_out_cells_than_the_faithful_one(pbmc):
    ours = celbo.DCA(pbmc).train()
    theirs = celbo.DCA(pbmc, config=DCAConfig.dca_0_3()).train(celbo.DCA.paper_plan(n_genes=pbmc.n_vars))
    assert np.array_equal(ours.validation_indices, theirs.validation_indices)
    held_out = ours.validation_indices
    assert ours.get_reconstruction_error(indices=held_out) <= theirs.get_reconstruction_error(indices=held_out)


def test_presets_say_what_the_sources_say():
    assert (DCAConfig.paper().ae_type, DCAConfig.dca_0_3().ae_type) == ("zinb-conddisp", "nb-conddisp")
    assert DCAConfig().n_hidden == DCAConfig.paper().n_hidden == (64, 32, 64)
    plan = celbo.DCA.paper_plan(n_genes=100)
    assert (plan.optimizer, plan.learning_rate, plan.batch_size) == ("keras-rmsprop", 1e-3, 32)
    assert (plan.clip_value, plan.max_epochs, plan.patience) == (500, 300, 15)
    assert (plan.schedule, plan.plateau_patience, plan.plateau_factor) == ("plateau", 10, 0.1)
    assert not plan.restore_best and isinstance(celbo.DCA.paper_plan(), TrainConfig)


@pytest.mark.parametrize(
    ("option", "value"),
    [("ae_type", "zinb-condisp"), ("n_hidden", ()), ("n_hidden", (64, 0)), ("ridge", -1.0), ("dropout_rate", 1.0)],
)
def test_impossible_option_is_named(pbmc, option, value):
    with pytest.raises(OptionError, match=option):
        celbo.DCA(pbmc, **{option: value})


def test_values_that_are_no_counts_are_refused(pbmc):
    with pytest.raises(CountsError):
        celbo.DCA(ad.AnnData(np.log1p(pbmc.X.toarray()), var=pbmc.var))


@pytest.mark.parametrize("name", ["counts", "log1p", "log-normalised", "scaled", "log2-normalised", "log2-max"])
def test_linear_map_of_stored_counts_is_that_of_the_dense_values(pbmc, name):
    thin = pbmc.X.copy()
    thin.data = np.random.default_rng(0).binomial(thin.data.astype(int), 0.4).astype(np.float32)
    thin.eliminate_zeros()
    data = celbo.DCA(ad.AnnData(thin)).data
    transform = InputTransform(name, data.n_genes)
    transform.fit(data, np.arange(600))
    layer = SparseLinear(data.n_genes, 16, fan_in=data.n_genes, generator=torch.Generator().manual_seed(0))
    batch = data.minibatch(np.arange(50))
    assert layer.has_kernel(batch.rows)
    weights = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    (transform.linear(batch, layer) * weights).sum().backward()
    got = [layer.weight.grad, layer.bias.grad]
    layer.zero_grad()
    dense = transform(batch) @ layer.weight + layer.bias
    (dense * weights).sum().backward()
    torch.testing.assert_close(transform.linear(batch, layer), dense, rtol=1e-4, atol=1e-4)
    for mine, of_dense in zip(got, [layer.weight.grad, layer.bias.grad], strict=True):
        torch.testing.assert_close(mine, of_dense, rtol=1e-4, atol=1e-3)
