"""AutoImpute: loss and first step against NumPy, outputs, and its two initialisations on masked real counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.special import expit

import celbo
from celbo.errors import OptionError
from celbo.evaluate.masking import masked_imputation
from celbo.models.autoimpute import AutoImputeConfig
from celbo.training.plan import StepState


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    return ad.AnnData(rng.poisson(rng.gamma(2.0, 1.0, (1, 30)) * rng.gamma(1.0, 1.0, (50, 30))).astype(np.float32))


def _arrays(model: celbo.AutoImpute) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy().copy() for name, value in model.network.named_parameters()}


def _forward(x: np.ndarray, w: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log2 values, hidden units and output in float64."""
    values = np.log2(1 + x * np.median(x.sum(1)) / x.sum(1, keepdims=True))
    h = expit(values @ w["encoder.weight"] + w["encoder.bias"])
    return values, h, h @ w["decoder.weight"] + w["decoder.bias"]


def _trained(counts: ad.AnnData, epochs: int = 5, **options: object) -> celbo.AutoImpute:
    model = celbo.AutoImpute(counts, n_hidden=20, **options)
    return model.train(max_epochs=epochs, train_size=1.0, learning_rate=1e-2)


def test_loss_is_the_squared_error_where_counts_are_not_zero(counts):
    model = _trained(counts)
    state = StepState(step=0, epoch=0, generator=torch.Generator().manual_seed(0), training=False)
    loss = model.network.loss(model.data.minibatch(np.arange(counts.n_obs)), state)
    values, _, y = _forward(counts.X.astype(float), _arrays(model))
    expected = np.where(counts.X != 0, np.square(values - y), 0).sum(1)
    np.testing.assert_allclose(loss.reconstruction.detach(), expected, rtol=1e-4)
    assert not loss.is_bound


def test_first_step_of_the_faithful_plan_is_that_of_the_formulas(counts):
    """One step of TensorFlow's RMSprop on the whole loss over the cells, its gradient by hand."""
    n, x = counts.n_obs, counts.X.astype(float)
    model = celbo.AutoImpute(counts, n_hidden=20, penalty=3.0, config=AutoImputeConfig(init_std=0.3, init_bias_std=0.3))
    w = _arrays(model)
    values, h, y = _forward(x, w)
    by_y = 2 * (y - values) * (x != 0) / n
    by_h = by_y @ w["decoder.weight"].T * h * (1 - h)
    gradient = {
        "encoder.weight": values.T @ by_h + 3.0 / n * w["encoder.weight"],
        "encoder.bias": by_h.sum(0),
        "decoder.weight": h.T @ by_y + 3.0 / n * w["decoder.weight"],
        "decoder.bias": by_y.sum(0),
    }
    plan = replace(celbo.AutoImpute.paper_plan(n_cells=n), max_epochs=1, learning_rate=0.1)
    after = _arrays(model.train(plan))
    for name, g in gradient.items():
        step = 0.1 * g / np.sqrt(0.9 + 0.1 * np.square(g) + 1e-10)
        np.testing.assert_allclose(after[name], w[name] - step, atol=2e-5, err_msg=name)


def test_every_entry_is_replaced_and_expected_counts_are_its_inverse(counts):
    model = _trained(counts, epochs=30)
    x = counts.X.astype(float)
    y = _forward(x, _arrays(model))[2]
    imputed = model.get_imputed_values()
    np.testing.assert_allclose(imputed, y, atol=1e-4)
    assert imputed.columns.tolist() == counts.var_names.tolist()
    assert (imputed.to_numpy()[x > 0] != np.log2(1 + x)[x > 0]).all()
    some = model.get_imputed_values(indices=[4], gene_list=[counts.var_names[7]], return_numpy=True)
    np.testing.assert_allclose(some, y[4:5, 7:8], atol=1e-4)
    depth = x.sum(1, keepdims=True) / np.median(x.sum(1))
    expected = np.maximum(np.exp2(y) - 1, 0) * depth
    np.testing.assert_allclose(model.get_denoised_expression(), expected, rtol=1e-3, atol=1e-4)


def test_negative_output_is_no_negative_count(counts):
    model = _trained(counts, epochs=1)
    with torch.no_grad():
        model.network.decoder.bias.fill_(-5.0)
    assert (model.get_imputed_values(return_numpy=True) < 0).all()
    assert (model.get_denoised_expression(return_numpy=True) == 0).all()


def test_penalty_joins_the_plan_and_shrinks_both_weights(counts):
    weak, strong = _trained(counts, 40, penalty=0.0), _trained(counts, 40, penalty=500.0)
    assert weak.fitted.plan.l2 == ()
    assert strong.fitted.plan.l2 == (("encoder.weight", 250 / counts.n_obs), ("decoder.weight", 250 / counts.n_obs))
    for layer in ("encoder.weight", "decoder.weight"):
        assert np.square(_arrays(strong)[layer]).sum() < 0.5 * np.square(_arrays(weak)[layer]).sum()


def test_faithful_training_stops_where_the_error_falls_no_more(counts):
    plan = celbo.AutoImpute.paper_plan(n_cells=counts.n_obs)
    assert (plan.optimizer, plan.learning_rate, plan.max_epochs) == ("rmsprop", 1e-4, 7000)
    assert (plan.stop_on, plan.min_delta, plan.restore_best) == ("train", 1e-4, False)
    model = celbo.AutoImpute(counts, n_hidden=50).train(replace(plan, learning_rate=3e-3))
    error = -model.history["objective_train"].to_numpy()
    assert model.fitted.stopped == "plateau" and len(error) > 20
    falls = -np.diff(error)
    assert falls[-1] <= 1e-4 and (falls[:-1] > 1e-4).all()


def test_saved_model_is_the_same_and_takes_new_cells(counts, tmp_path):
    model = _trained(counts)
    loaded = celbo.load(model.save(tmp_path / "m"), counts)
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    latent = loaded.get_latent_representation(counts[29::-1].copy())
    assert latent.shape == (30, 20) and ((latent > 0) & (latent < 1)).all()
    np.testing.assert_allclose(latent, model.get_latent_representation()[29::-1], atol=1e-6)


@pytest.mark.parametrize(("option", "value"), [("init_std", 0.0), ("penalty", -1.0), ("n_hidden", 0)])
def test_impossible_option_is_named(counts, option, value):
    with pytest.raises(OptionError, match=option):
        celbo.AutoImpute(counts, **{option: value})


def _denoiser(config: AutoImputeConfig, *, faithful: bool, epochs: int | None = None):
    def denoise(seen):
        model = celbo.AutoImpute(ad.AnnData(seen), config=config)
        plan = model.paper_plan(n_cells=seen.shape[0]) if faithful else None
        return model.train(plan, max_epochs=epochs, n_threads=1).get_denoised_expression(return_numpy=True)

    return denoise


def _cortex(data_dir: Path, n_cells: int, n_genes: int):
    adata = ad.read_h5ad(data_dir / "zeisel_cortex_subset_1464c_1000g_ERCC.h5ad")
    x = adata.X[np.random.default_rng(0).permutation(adata.n_obs)[:n_cells]].tocsr()
    shown = np.asarray((x > 0).sum(0)).ravel()
    return x[:, np.sort(np.argsort(-shown, kind="stable")[:n_genes])]


def test_masked_entries_are_found_no_worse_than_by_the_mean_of_the_gene(data_dir):
    x = _cortex(data_dir, 200, 150)
    ours = {"autoimpute": _denoiser(AutoImputeConfig(), faithful=False)}
    table = masked_imputation(ours, x, scale="log2", seeds=(0, 1))
    nmse = {name: rows["nmse"].to_numpy() for name, rows in table.groupby("method")}
    assert nmse["autoimpute"].mean() <= nmse["gene mean"].mean() + np.ptp(nmse["autoimpute"])


def test_first_weights_of_unit_variance_never_leave_their_noise(data_dir):
    """On 30 cells, with the faithful plan for both."""
    x = _cortex(data_dir, 30, 150)
    both = {
        "faithful": _denoiser(AutoImputeConfig.paper(), faithful=True, epochs=200),
        "default": _denoiser(AutoImputeConfig(), faithful=True, epochs=200),
    }
    table = masked_imputation(both, x, scale="log2").set_index("method")["nmse"]
    assert table["faithful"] > 1.0  # worse than all zeros
    assert table["default"] < table["gene mean"] + 0.1
