"""Calibration on a model whose posterior is known, exact or made wrong on purpose, and on every model there is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

import celbo
from celbo import evaluate
from celbo.errors import InputError, NotTrainedError, OptionError
from celbo.evaluate.calibration import calibrate_network
from celbo.evaluate.calibration_ranks import UniformRanks
from linear_gaussian import N_LATENT, SIGMA, FixedNormal, LinearGaussian, as_cells, make_data, make_truth, perturbed

LEVELS = (0.5, 0.8, 0.95)


@pytest.fixture(scope="module")
def cells():
    return make_data(1000)[0]


def network_with(shift: float = 0.0, widen: float = 1.0) -> LinearGaussian:
    return perturbed(LinearGaussian(*make_truth()), shift=shift, widen=widen)


def calibrated(network, data, **options) -> evaluate.Calibration:
    return calibrate_network(network, data, **{"n_cells": 2000, "n_draws": 150, "n_genes": 8, "seed": 2, **options})


def covered(found: evaluate.Calibration, quantity: str, *, source: str = "prior", posterior: str = "q") -> list[float]:
    """Return the coverage at the three levels."""
    table = found.coverage.query("source == @source and posterior == @posterior and quantity == @quantity")
    assert table.level.tolist() == list(LEVELS)
    return table.coverage.tolist()


def rows(found: evaluate.Calibration, quantity: str, *, source: str = "prior", posterior: str = "q") -> pd.DataFrame:
    return found.uniformity.query("source == @source and posterior == @posterior and quantity == @quantity")


@pytest.fixture(scope="module")
def exact(cells):
    return calibrated(network_with(), cells)


@pytest.mark.parametrize("source", ["cells", "prior"])
@pytest.mark.parametrize("quantity", ["latent", "expression", "log_likelihood"])
def test_intervals_of_the_exact_posterior_hold_the_truth_as_often_as_they_say(exact, quantity, source) -> None:
    assert covered(exact, quantity, source=source) == pytest.approx(LEVELS, abs=0.03)


def test_ranks_of_the_exact_posterior_are_uniform(exact) -> None:
    assert len(exact.uniformity) == 2 * (N_LATENT + 8 + 1)
    assert (~exact.uniformity.within_band).sum() <= 1
    assert exact.uniformity.p_value.min() > 1e-3
    assert exact.uniformity.bias.abs().max() < 0.1
    assert exact.uniformity.overconfidence.between(0.93, 1.07).all()
    assert exact.ranks.shape == (24, 2000)
    assert (exact.ranks.min().min(), exact.ranks.max().max()) == (0, 150)


def test_the_summary_says_that_the_exact_posterior_is_right(exact) -> None:
    assert exact.summary().count("as they should") == 4
    assert "wide" not in exact.summary()
    assert repr(exact) == exact.summary()


def test_an_overconfident_encoder_falls_to_the_coverage_of_the_closed_form(cells) -> None:
    found = calibrated(network_with(widen=0.5), cells)
    expected = [2 * norm.cdf(norm.ppf(0.5 + level / 2) / 2) - 1 for level in LEVELS]  # 0.264, 0.478, 0.673
    for quantity in ("latent", "expression"):
        assert covered(found, quantity) == pytest.approx(expected, abs=0.03)
        assert rows(found, quantity).overconfidence.mean() == pytest.approx(2, rel=0.05)
        assert not rows(found, quantity).within_band.any()
    widest = found.coverage.query("source == 'prior' and quantity == 'latent' and level == 0.95")
    assert widest.widening.item() == pytest.approx(2, rel=0.08)
    assert found.summary().count("would have to be") == 4


def test_an_underconfident_encoder_is_said_to_be_wider_than_need_be(cells) -> None:
    found = calibrated(network_with(widen=2), cells, sources="prior")
    assert covered(found, "latent")[0] == pytest.approx(2 * norm.cdf(2 * norm.ppf(0.75)) - 1, abs=0.03)
    assert "wider than need be" in found.summary()


def test_a_biased_encoder_has_the_coverage_and_the_bias_of_the_closed_form(cells) -> None:
    found = calibrated(network_with(shift=1.0), cells, sources="prior")
    half = norm.ppf(0.5 + np.array(LEVELS) / 2)
    assert covered(found, "latent") == pytest.approx(list(norm.cdf(half - 1) - norm.cdf(-half - 1)), abs=0.03)
    assert rows(found, "latent").bias.to_numpy() == pytest.approx(np.full(N_LATENT, -1.0), abs=0.1)
    assert rows(found, "latent").overconfidence.to_numpy() == pytest.approx(np.ones(N_LATENT), abs=0.06)
    assert not rows(found, "latent").within_band.any()


class Noisier(FixedNormal):
    """A likelihood that draws with more noise than its density says."""

    def sample(self, p, generator=None):
        return p.logits + 1.5 * (super().sample(p, generator) - p.logits)


def test_a_likelihood_that_does_not_draw_what_it_says_is_found_out(cells) -> None:
    network = network_with()
    network.likelihood = Noisier(SIGMA)
    found = calibrated(network, cells, sources="prior")
    assert not rows(found, "latent").within_band.any()
    assert covered(found, "latent")[2] < 0.92


def test_an_encoder_that_ignores_the_counts_is_found_out_by_the_likelihood_alone(cells) -> None:
    network = network_with()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # q(z | x) = p(z)
    found = calibrated(network, cells, sources="prior")
    assert rows(found, "latent").within_band.all()
    assert covered(found, "latent") == pytest.approx(LEVELS, abs=0.03)
    assert not rows(found, "log_likelihood").within_band.any()
    assert rows(found, "log_likelihood").p_value.item() < 1e-3


@pytest.mark.parametrize(("shift", "widen"), [(1.0, 1.0), (0.0, 1.8)])
def test_importance_resampling_mends_a_wrong_encoder(cells, shift, widen) -> None:
    found = calibrated(network_with(shift, widen), cells, n_cells=800, n_draws=100, n_importance=1500)
    for source in ("cells", "prior"):
        assert covered(found, "latent", source=source, posterior="importance") == pytest.approx(LEVELS, abs=0.035)
    assert np.abs(np.array(covered(found, "latent")) - LEVELS).max() > 0.1
    assert found.importance.source.tolist() == ["cells", "prior"]
    assert (found.importance["n_proposals"] == 1500).all()
    assert found.importance["median"].between(50, 1200).all()
    assert (found.importance["lowest_tenth"] <= found.importance["median"]).all()


def test_cells_far_from_the_prior_are_calibrated_as_what_they_are() -> None:
    loadings, offset = make_truth()
    rng = np.random.default_rng(0)
    z = np.tile([0.0, 0.0, 4.0], (1000, 1))
    found = calibrated(network_with(), as_cells(z @ loadings.T + offset + SIGMA * rng.normal(size=(1000, len(offset)))))
    variance = 1 / (1 + 0.8**2 / SIGMA**2)
    expected = 4 * (1 - variance) * math.sqrt(variance)  # of z* ~ q(z | x_n), shrunk to the prior once more
    assert rows(found, "latent", source="cells").bias.iloc[2] == pytest.approx(expected, abs=0.1)
    assert rows(found, "latent", source="prior").bias.iloc[2] == pytest.approx(0, abs=0.1)


def test_coverage_is_the_level_for_any_number_of_draws(exact) -> None:
    for n_draws in (1, 4, 9):
        ranks = pd.DataFrame([range(n_draws + 1)], index=exact.ranks.index[:1])
        found = evaluate.Calibration("m", n_draws + 1, n_draws, exact.coverage, exact.uniformity, ranks, None)
        assert found.coverage_at([0.05, 0.5, 0.99]).coverage.tolist() == pytest.approx([0.05, 0.5, 0.99], abs=1e-12)


def test_coverage_of_known_ranks() -> None:
    index = pd.MultiIndex.from_tuples(
        [("cells", "q", "latent", "1")], names=["source", "posterior", "quantity", "name"]
    )
    ranks = pd.DataFrame([[0, 9, 5, 5]], index=index)
    found = evaluate.Calibration("m", 4, 9, pd.DataFrame(), pd.DataFrame(), ranks, None).coverage_at([0.8])
    assert found.coverage.item() == pytest.approx(0.5)  # 0 and 9 of 9 are outside of the middle eight tenths
    assert found.standard_error.item() == pytest.approx(np.std([0, 0, 1, 1], ddof=1) / 2)


def test_p_values_of_uniform_ranks_are_uniform_and_the_band_is_simultaneous() -> None:
    test = UniformRanks(300, 200)
    ranks = np.random.default_rng(5).integers(0, 201, size=(2000, 300))
    p = test.p_values(ranks)
    for level in (0.01, 0.05, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=3.5 * math.sqrt(level * (1 - level) / 2000))
    difference = test.counts(ranks) / 300 - test.points
    lower, upper = test.band()
    outside = ((difference < lower - 1e-12) | (difference > upper + 1e-12)).any(1)
    assert outside.mean() == pytest.approx(0.01, abs=0.008)


@pytest.mark.parametrize("spread", [0.85, 1.2])
def test_ranks_that_are_a_sixth_too_wide_or_too_narrow_are_not_uniform(spread) -> None:
    place = norm.cdf(spread * np.random.default_rng(0).normal(size=1000))
    assert UniformRanks(1000, 200).p_values(np.floor(201 * place).astype(np.int64)[None])[0] < 0.01


def test_rank_differences_hold_a_line_and_a_band_for_each_quantity(exact) -> None:
    table = exact.rank_differences()
    assert len(table) == 24 * 99
    line = table.query("source == 'prior' and quantity == 'latent' and name == '2'")
    ranks = exact.ranks.loc[("prior", "q", "latent", "2")].to_numpy()
    at = line.iloc[40]
    assert at.difference == pytest.approx((ranks < round(at.point * 151)).mean() - at.point)
    assert ((line.lower < 0) & (line.upper > 0)).all()


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated():
    adata = celbo.datasets.simulate(n_cells=200, n_genes=80, n_batches=2, n_cell_types=3, seed=1)
    adata.obs["batch"] = np.where(np.arange(200) < 60, "small", "large")
    return adata


MODELS = {
    "nb": (celbo.SCVI, {"batch_key": "batch"}),
    "zinb": (celbo.SCVI, {"likelihood": "zinb", "dispersion": "gene-batch", "batch_key": "batch"}),
    "poisson": (celbo.SCVI, {"likelihood": "poisson"}),
    "latent library": (celbo.SCVI, {"library": "latent", "batch_key": "batch"}),
    "logistic normal": (celbo.SCVI, {"latent_distribution": "logistic-normal"}),
    "linear": (celbo.LDVAE, {}),
    "mixture": (celbo.SCVAE, {"prior": "gaussian-mixture", "n_components": 3}),
    "bernoulli": (celbo.SCVAE, {"likelihood": "bernoulli"}),
    "gaussian": (celbo.VAE, {"likelihood": "gaussian"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_counts_can_be_calibrated(simulated, name) -> None:
    kind, options = MODELS[name]
    model = kind(simulated, n_latent=3, **options).train(max_epochs=3, n_threads=1, device="cpu", progress=False)
    found = evaluate.calibration(model, n_cells=60, n_draws=40, n_genes=5, n_importance=30)
    quantities = {"latent", "expression", "log_likelihood"}
    quantities |= {"library_size"} if name == "latent library" else set()
    quantities -= {"expression"} if name == "bernoulli" else set()  # it has no shares
    assert set(found.coverage.quantity) == quantities
    assert np.isfinite(found.coverage[["coverage", "standard_error"]].to_numpy()).all()
    assert np.isfinite(found.uniformity[["p_value", "bias", "overconfidence"]].to_numpy()).all()
    assert set(zip(found.uniformity.source, found.uniformity.posterior, strict=True)) == {
        (s, p) for s in ("cells", "prior") for p in ("q", "importance")
    }
    assert kind.__name__ in found.summary()


@pytest.fixture(scope="module")
def blood():
    return celbo.SCVI(celbo.datasets.pbmc(), seed=0).train(max_epochs=5, n_threads=1, device="cpu", progress=False)


def test_a_model_of_real_cells_is_calibrated_alike_by_the_same_seed(blood) -> None:
    first, again, other = (evaluate.calibration(blood, n_cells=100, n_draws=50, seed=s) for s in (4, 4, 5))
    pd.testing.assert_frame_equal(first.ranks, again.ranks)
    pd.testing.assert_frame_equal(first.coverage, again.coverage)
    pd.testing.assert_frame_equal(first.uniformity, again.uniformity)
    assert not first.ranks.equals(other.ranks)
    assert first.coverage.coverage.between(0, 1).all()
    assert len(rows(first, "expression")) == 50


def test_genes_are_those_named_or_spread_over_the_range_of_expression(blood) -> None:
    names = [blood.schema.genes[7], blood.schema.genes[3]]
    found = evaluate.calibration(blood, n_cells=10, n_draws=10, genes=names, sources=["cells"])
    assert rows(found, "expression", source="cells").name.tolist() == names
    chosen = evaluate.calibration(blood, n_cells=10, n_draws=10, n_genes=3, sources=["cells"])
    totals = pd.Series(blood.data.counts.gene_sums(), index=list(blood.schema.genes))
    picked = totals[rows(chosen, "expression", source="cells").name]
    assert {totals[totals > 0].min(), totals.max()} < set(picked)


def test_more_cells_than_the_data_have_are_drawn(blood) -> None:
    n = blood.data.n_cells + 50
    assert evaluate.calibration(blood, n_cells=n, n_draws=5, n_genes=2, sources=["cells"]).n_cells == n


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_cells": 0}, "n_cells=0 is not a whole number"),
        ({"n_draws": 2.5}, "n_draws=2.5 is not a whole number"),
        ({"n_importance": 0}, "n_importance=0 is not a whole number"),
        ({"levels": (0.5, 1.0)}, "levels are not all between 0 and 1"),
        ({"levels": ()}, "levels are not all between 0 and 1"),
        ({"sources": ("cells", "moon")}, "sources is not a choice"),
        ({"sources": ()}, "sources is not a choice"),
        ({"genes": ["no such gene"]}, "names 1 genes that the model does not have"),
        ({"genes": []}, "genes is empty"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_without_sense_are_named(blood, options, message) -> None:
    with pytest.raises(OptionError, match=message):
        evaluate.calibration(blood, **options)


def test_a_model_is_trained_first(simulated) -> None:
    with pytest.raises(NotTrainedError, match="SCVI has not been trained"):
        evaluate.calibration(celbo.SCVI(simulated))


def test_a_model_without_its_data_cannot_be_calibrated(blood, tmp_path) -> None:
    loaded = celbo.load(blood.save(tmp_path / "model"))
    with pytest.raises(InputError, match="was loaded without its data"):
        evaluate.calibration(loaded)


@pytest.mark.parametrize("kind", [celbo.Autoencoder, celbo.DCA, celbo.SCVIS, celbo.HPF])
def test_a_model_without_a_prior_of_counts_is_refused_by_name(simulated, kind) -> None:
    with pytest.raises(OptionError, match=f"model={kind.__name__} has no prior and posterior to draw cells from"):
        evaluate.calibration(kind(simulated))


def test_a_normal_likelihood_that_draws_what_the_encoder_cannot_take_is_refused(simulated) -> None:
    model = celbo.SCVI(simulated, likelihood="normal").train(max_epochs=1, n_threads=1, device="cpu", progress=False)
    with pytest.raises(InputError, match="draws values that its encoder has no logarithm of"):
        evaluate.calibration(model, n_cells=50, n_draws=5)
