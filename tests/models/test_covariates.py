"""The unit of a continuous covariate does not matter: it is centred and scaled by the training cells."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import celbo
from celbo.data.cells import open_anndata
from celbo.data.scales import scales_of
from celbo.data.schema import Scale
from celbo.errors import CelboWarning, InputError, ModelFileError, SchemaError, TrainingError

N = 200
UNITS = {"years": (2022.0, 2.6), "unix time": (1.7e9, 3e7), "tiny": (0.0, 1e-9), "huge": (-3e200, 1e200)}
PLAN = {"max_epochs": 4, "progress": False, "n_threads": 1}


def cells(column: Any, *, seed: int = 0) -> ad.AnnData:
    counts = np.random.default_rng(seed).poisson(2.0, (N, 25)).astype(np.float32)
    obs = pd.DataFrame({"age": column, "kind": ["a", "b"] * (N // 2)}, index=[f"cell{i}" for i in range(N)])
    return ad.AnnData(counts, obs, pd.DataFrame(index=[f"g{i}" for i in range(25)]))


def standard() -> np.ndarray:
    return np.random.default_rng(5).normal(size=N)


def model_of(column: Any, kind: str = "SCVI", **options: Any) -> Any:
    return getattr(celbo, kind)(cells(column), continuous_covariate_keys=("age",), seed=3, **options)


@pytest.mark.parametrize("kind", ["SCVI", "LDVAE", "SCVAE"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_column_in_any_unit_gives_the_model_of_the_standard_one(kind: str, unit: str) -> None:
    mean, sd = UNITS[unit]
    options = {"encode_covariates": True} if kind == "SCVI" else {}
    plain = model_of(standard(), kind, **options).train(**PLAN)
    other = model_of(mean + sd * standard(), kind, **options).train(**PLAN)
    assert other.get_elbo() == pytest.approx(plain.get_elbo(), abs=1e-3)
    np.testing.assert_allclose(other.data.continuous, plain.data.continuous, atol=1e-5)


def test_mean_and_sd_are_those_of_the_training_cells() -> None:
    column = 1.7e9 + np.arange(N) * 60.0
    model = model_of(column).train(**PLAN)
    own = column[model.train_indices]
    assert model.schema.scales["age"] == pytest.approx(Scale(own.mean(), own.std()), rel=1e-12)
    seen = model.data.continuous[model.train_indices, 0].astype(np.float64)
    assert abs(seen.mean()) < 1e-6 and seen.std() == pytest.approx(1, abs=1e-6)
    assert np.unique(model.data.continuous).size == N  # float32 would hold two minutes of a Unix time as one


def test_a_saved_model_keeps_both_numbers_and_uses_them_for_other_cells(tmp_path: Path) -> None:
    model = model_of(2020 + standard(), encode_covariates=True).train(**PLAN)
    new = cells(2021 + standard(), seed=9)
    expected = model.get_latent_representation(new)
    folder = model.save(tmp_path / "model")
    loaded = celbo.load(folder)
    assert loaded.schema.scales == model.schema.scales
    np.testing.assert_array_equal(loaded.get_latent_representation(new), expected)
    one_by_one = np.concatenate([loaded.get_latent_representation(new[i : i + 1].copy()) for i in range(3)])
    np.testing.assert_allclose(one_by_one, expected[:3], atol=1e-5)  # not scaled by the new cells themselves


def test_a_model_saved_before_there_were_scales_takes_the_column_as_it_is(tmp_path: Path) -> None:
    folder = model_of(standard()).train(**PLAN).save(tmp_path / "model")
    described = json.loads((folder / "model.json").read_text())
    del described["schema"]["scales"], described["config"]["scale_covariates"]
    (folder / "model.json").write_text(json.dumps(described))
    model = celbo.load(folder, cells(7 + standard()))
    np.testing.assert_allclose(model.data.continuous[:, 0], 7 + standard(), rtol=1e-6)


@pytest.mark.parametrize("saved", [[1.0], [0.0, -1.0], [float("nan"), 1.0], [0.0, float("inf")], "ab", None])
def test_scales_that_no_model_has_are_a_damaged_file(saved: Any, tmp_path: Path) -> None:
    folder = model_of(standard()).train(**PLAN).save(tmp_path / "model")
    described = json.loads((folder / "model.json").read_text())
    described["schema"]["scales"] = {"age": saved}
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(ModelFileError, match="damaged"):
        celbo.load(folder)


def test_resuming_scales_by_the_same_cells(tmp_path: Path) -> None:
    column = 2000 + 5 * standard()
    whole = model_of(column).train(**PLAN)
    model_of(column).train(**PLAN, checkpoint_dir=tmp_path / "c")
    again = model_of(column).train(**PLAN, checkpoint_dir=tmp_path / "c", resume=True)
    assert all(torch.equal(v, again.network.state_dict()[k]) for k, v in whole.network.state_dict().items())


def test_training_further_keeps_the_scales() -> None:
    model = model_of(100 + standard()).train(**PLAN)
    scales = model.schema.scales
    model.train(**PLAN, train_indices=np.arange(20))
    assert model.schema.scales == scales


@pytest.mark.parametrize("value", [0.0, 0.1, 2018.0, 1.7e9, 1e300])
def test_a_constant_column_says_nothing_and_is_said_so(value: float) -> None:
    model = model_of(np.full(N, value))
    with pytest.warns(CelboWarning, match="'age' has the same value"):
        model.train(**PLAN)
    assert not model.data.continuous.any() and np.isfinite(model.get_elbo())


def test_a_column_that_varies_by_rounding_alone_is_constant() -> None:
    assert scales_of((0.1 + np.arange(5) * 1e-17)[:, None], ["x"])["x"].sd == 0
    assert scales_of((1e9 + np.array([0, 1e-6, 0, 0]))[:, None], ["x"])["x"].sd == 0


def test_one_value_that_looks_like_a_code_is_named() -> None:
    column = 40 + standard()
    column[7] = -99999.0
    model = model_of(column)
    with pytest.warns(CelboWarning, match=r"'age' is -99999 in cell 'cell7'.*mean .*SD .*missing"):
        model.train(**PLAN, train_size=1.0)


def test_new_cells_in_another_unit_are_said() -> None:
    model = model_of(50 + 3 * standard()).train(**PLAN)
    with pytest.warns(CelboWarning, match=r"'age' of these cells lies .* from the cells"):
        model.get_latent_representation(cells(12 * (50 + 3 * standard())))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_refused_before_training(bad: float) -> None:
    column = standard()
    column[3] = bad
    with pytest.raises(SchemaError, match="is not finite: cell 'cell3'"):
        model_of(column)


def test_new_cells_that_no_float32_can_hold_are_named() -> None:
    model = model_of(standard()).train(**PLAN)
    column = standard()
    column[4] = 1e60
    with pytest.raises(SchemaError, match="'age' is too large for a number of a network: cell 'cell4' has 1e\\+60"):
        model.get_latent_representation(cells(column))


@pytest.mark.parametrize("preset", [celbo.SCVIConfig.scvi_tools(), celbo.SCVIConfig.paper_2018()])
def test_a_preset_of_a_peer_takes_the_column_as_it_is_and_says_so(preset: celbo.SCVIConfig) -> None:
    model = model_of(70 + 4 * standard(), config=preset)
    with pytest.warns(CelboWarning, match=r"own units, as in scvi-tools: 'age' \(mean \d+\.\d+, SD \d\.\d+\)"):
        model.train(**PLAN)
    np.testing.assert_allclose(model.data.continuous[:, 0], 70 + 4 * standard(), rtol=1e-6)
    assert model.schema.scales == {}


def test_a_preset_of_a_peer_is_quiet_about_a_column_that_is_scaled() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model_of(standard(), config=celbo.SCVIConfig.scvi_tools()).train(**PLAN)


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
def test_an_error_of_training_names_the_covariate_whose_size_is_the_likely_cause() -> None:
    model = model_of(3e37 * (1 + 0.1 * standard()), config=celbo.SCVIConfig.scvi_tools(), batch_norm="none")
    with pytest.raises(
        TrainingError, match=r"covariate 'age', .* in cell 'cell\d+' \(mean .*SD .*likely cause"
    ) as told:
        model.train(**PLAN)
    assert "Centre and scale that covariate" in str(told.value) and "gene" not in str(told.value)


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
def test_de_does_not_advise_the_likelihood_that_the_model_has() -> None:
    model = model_of(standard()).train(**PLAN)
    with torch.no_grad():
        model.network.decoder.head("mean").weight.fill_(float("inf"))
    with pytest.raises(InputError, match="expects infinite counts") as told:
        model.differential_expression(groupby="kind", group1="a", group2="b")
    assert "nb" not in str(told.value)


def test_the_cells_of_a_model_are_left_as_they_are() -> None:
    adata = cells(2000 + standard())
    celbo.SCVI(adata, continuous_covariate_keys=("age",), seed=0).train(**PLAN)
    np.testing.assert_array_equal(adata.obs["age"], 2000 + standard())


def test_before_training_the_covariates_are_as_the_data_have_them() -> None:
    data = open_anndata(cells(2000 + standard()), celbo.SCVI(cells(standard())).schema.keys)
    assert data.continuous.shape == (N, 0)
    assert model_of(2000 + standard()).data.covariates.dtype == np.float64
