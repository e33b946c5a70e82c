"""The simulator draws from the model it states, and its truth is what the counts show."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

from celbo.data.simulate import simulate
from celbo.errors import OptionError

ALPHA = 1e-3  # seeds are fixed: a test that passes once passes always


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Return 6,000 cells of 3 batches with 2 samples each, 5 types, and every effect but dropout."""
    return simulate(
        n_cells=6000,
        n_genes=500,
        n_cell_types=5,
        n_samples_per_batch=2,
        sample_effect=0.1,
        latent_effect=0.2,
        type_concentration=5.0,
        expression_sd=1.0,
        with_rates=True,
        seed=11,
    )


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray().astype(np.float64)


def truth(adata: AnnData, table: str) -> np.ndarray:
    return adata.uns["truth"][table].to_numpy()


def expected(adata: AnnData) -> np.ndarray:
    """Return the expected counts of cells given type, sample and library, averaged over the variation within."""
    shares = truth(adata, "share").T[adata.obs["cell_type"].cat.codes]
    effect = 2.0 ** truth(adata, "log2_sample_effect").T[adata.obs["sample"].cat.codes]
    return shares * effect * adata.obs["library_size"].to_numpy()[:, None]


def test_the_shares_of_every_type_sum_to_one_in_every_sample(cells: AnnData) -> None:
    sums = (2.0 ** truth(cells, "log2_sample_effect").T) @ truth(cells, "share")
    np.testing.assert_allclose(sums, 1, rtol=1e-12)
    np.testing.assert_allclose(truth(cells, "share").sum(0), 1, rtol=1e-12)


def test_the_rates_of_a_cell_sum_to_its_library(cells: AnnData) -> None:
    sums = cells.layers["true_rate"].sum(1, dtype=np.float64)
    np.testing.assert_allclose(sums, cells.obs["library_size"], rtol=1e-5)


def test_a_gene_that_no_type_changes_has_a_fold_change_of_exactly_zero(cells: AnnData) -> None:
    unchanged = ~truth(cells, "changed").any(axis=1)
    assert unchanged.sum() > 200
    assert (truth(cells, "log2_fold_change")[unchanged] == 0).all()


def test_a_gene_that_a_type_leaves_alone_has_its_baseline_share_to_the_last_bit(cells: AnnData) -> None:
    share, left = truth(cells, "share"), ~truth(cells, "changed")
    baseline = np.broadcast_to(cells.var["baseline_share"].to_numpy()[:, None], share.shape)
    assert (share[left] == baseline[left]).all()
    assert (share[~left] != baseline[~left]).all()


def test_fold_changes_are_shares_over_the_mean_share_of_the_other_cells(cells: AnnData) -> None:
    share, n = truth(cells, "share"), cells.obs["cell_type"].value_counts(sort=False).to_numpy()
    for k in range(5):
        others = np.arange(5) != k
        rest = share[:, others] @ n[others] / n[others].sum()
        np.testing.assert_allclose(truth(cells, "log2_fold_change")[:, k], np.log2(share[:, k] / rest), atol=1e-12)


def test_planted_changes_have_the_size_asked_for(cells: AnnData) -> None:
    fold = np.log2(truth(cells, "share") / cells.var["baseline_share"].to_numpy()[:, None])
    for k in range(5):
        planted = fold[truth(cells, "changed")[:, k], k]
        assert planted.size == 50
        assert np.abs(planted).min() > 0.32 - 0.02
        assert np.abs(planted).max() < 2 + 0.02
        assert 10 <= (planted > 0).sum() <= 40


def test_no_share_of_changed_genes_is_no_truth() -> None:
    adata = simulate(n_cells=50, n_genes=60, n_cell_types=2, de_fraction=0.0)
    assert (truth(adata, "log2_fold_change") == 0).all()


def test_one_type_has_no_rest() -> None:
    adata = simulate(n_cells=50, n_genes=60, n_cell_types=1)
    assert np.isnan(truth(adata, "log2_fold_change")).all()


def test_gene_totals_have_the_mean_and_variance_stated(cells: AnnData) -> None:
    rate, theta = cells.layers["true_rate"].astype(np.float64), cells.var["inverse_dispersion"].to_numpy()
    z = (dense(cells) - rate).sum(0) / np.sqrt((rate + rate**2 / theta).sum(0))
    assert 2 * min(stats.chi2.cdf((z**2).sum(), 500), stats.chi2.sf((z**2).sum(), 500)) > ALPHA
    assert abs(z.mean()) * np.sqrt(500) < stats.norm.isf(ALPHA / 2)


def test_counts_have_the_variance_of_the_negative_binomial(cells: AnnData) -> None:
    rate, theta = cells.layers["true_rate"].astype(np.float64), cells.var["inverse_dispersion"].to_numpy()
    variance = rate + rate**2 / theta
    # kurtosis of the negative binomial: 3 + 6 / theta + 1 / variance
    ratio = ((dense(cells) - rate) ** 2 / variance).mean(0)
    spread = np.sqrt((2 + 6 / theta + 1 / variance).sum(0)) / 6000
    z = (ratio - 1) / spread
    usual = (rate.mean(0) > 0.3) & (theta > 0.5)  # where 6,000 cells make a mean of squares normal
    assert usual.sum() > 250
    assert abs(z[usual].mean()) < 0.25
    assert 0.8 < z[usual].std() < 1.2


def test_zeros_are_as_many_as_the_negative_binomial_has(cells: AnnData) -> None:
    rate, theta = cells.layers["true_rate"].astype(np.float64), cells.var["inverse_dispersion"].to_numpy()
    p0 = (theta / (theta + rate)) ** theta
    z = ((dense(cells) == 0) - p0).sum(0) / np.sqrt((p0 * (1 - p0)).sum(0))
    assert 2 * min(stats.chi2.cdf((z**2).sum(), 500), stats.chi2.sf((z**2).sum(), 500)) > ALPHA


def test_the_variation_within_a_type_has_the_mean_and_size_stated(cells: AnnData) -> None:
    factor = cells.layers["true_rate"] / expected(cells)
    z = (factor.mean(0) - 1) / (factor.std(0) / np.sqrt(6000))
    np.testing.assert_allclose(factor.mean(0), 1, atol=5 * 0.4 / np.sqrt(6000))
    assert (z**2).mean() < 2  # the genes share three dimensions: no chi-square
    assert np.sqrt((factor.std(0) ** 2).mean()) == pytest.approx(0.2, rel=0.03)
    assert factor.min() > 0


def test_empirical_shares_match_the_truth_within_their_standard_error() -> None:
    adata = simulate(
        n_cells=8000, n_genes=400, n_batches=1, batch_effect=0.0, n_cell_types=4, expression_sd=1.0, seed=2
    )
    counts, library = dense(adata), adata.obs["library_size"].to_numpy()
    theta, share = adata.var["inverse_dispersion"].to_numpy(), truth(adata, "share")
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    for k in range(4):
        mine, rest = codes == k, codes != k
        a, b = counts[mine].sum(0) / library[mine].sum(), counts[rest].sum(0) / library[rest].sum()
        mean = library[:, None] * share.T[codes]
        noise = mean + mean**2 / theta
        error = [np.sqrt(noise[g].sum(0)) / library[g].sum() for g in (mine, rest)]
        se = np.hypot(error[0] / a, error[1] / b) / np.log(2)
        z = (np.log2(a / b) - truth(adata, "log2_fold_change")[:, k]) / se
        assert stats.chi2.sf((z**2).sum(), 400) > ALPHA


def test_effects_of_batch_and_sample_have_the_size_stated(cells: AnnData) -> None:
    log = truth(cells, "log2_sample_effect") * np.log(2)  # (genes, samples), two samples a batch
    within = (log[:, 0::2] - log[:, 1::2]) / np.sqrt(2)
    assert within.std() == pytest.approx(0.1, rel=0.05)
    assert log.std(0).mean() == pytest.approx(np.hypot(0.3, 0.1), rel=0.05)


def test_without_a_batch_effect_batches_are_alike() -> None:
    adata = simulate(n_cells=50, n_genes=100, batch_effect=0.0)
    np.testing.assert_allclose(truth(adata, "log2_sample_effect"), 0, atol=1e-12)


def test_libraries_are_log_normal(cells: AnnData) -> None:
    log = np.log(cells.obs["library_size"])
    centred = log - log.groupby(cells.obs["batch"], observed=True).transform("mean")
    assert centred.std() == pytest.approx(0.4, rel=0.03)
    assert stats.kstest(centred / 0.4, "norm").pvalue > ALPHA


def test_inverse_dispersions_are_log_normal_about_their_median() -> None:
    theta = simulate(n_cells=10, n_genes=4000, inverse_dispersion=2.0, inverse_dispersion_sd=0.5).var[
        "inverse_dispersion"
    ]
    assert stats.kstest(np.log(theta / 2) / 0.5, "norm").pvalue > ALPHA


def test_types_are_equally_frequent_unless_asked() -> None:
    n = simulate(n_cells=8000, n_genes=60, n_batches=1, n_cell_types=8).obs["cell_type"].value_counts()
    assert stats.chisquare(n).pvalue > ALPHA


def test_a_small_concentration_makes_samples_differ_in_types() -> None:
    adata = simulate(n_cells=3000, n_genes=60, n_cell_types=4, type_concentration=0.5)
    table = pd.crosstab(adata.obs["batch"], adata.obs["cell_type"])
    assert stats.chi2_contingency(table + 1).pvalue < 1e-10


def test_samples_lie_within_batches(cells: AnnData) -> None:
    table = pd.crosstab(cells.obs["sample"], cells.obs["batch"])
    assert table.shape == (6, 3)
    assert ((table > 0).sum(axis=1) == 1).all()
    assert ((table > 0).sum(axis=0) == 2).all()


def test_zero_inflation_drops_what_it_states() -> None:
    options = {"n_cells": 4000, "n_genes": 300, "expression_sd": 1.0, "seed": 4, "with_rates": True}
    adata = simulate(zero_inflation=0.3, **options)  # type: ignore[arg-type]
    pi, theta = adata.var["dropout_probability"].to_numpy(), adata.var["inverse_dispersion"].to_numpy()
    rate = adata.layers["true_rate"].astype(np.float64)
    p0 = pi + (1 - pi) * (theta / (theta + rate)) ** theta
    z = ((dense(adata) == 0) - p0).sum(0) / np.sqrt((p0 * (1 - p0)).sum(0))
    assert 2 * min(stats.chi2.cdf((z**2).sum(), 300), stats.chi2.sf((z**2).sum(), 300)) > ALPHA
    assert pi.mean() == pytest.approx(0.3, abs=0.03)


def test_the_same_seed_gives_the_same_counts(cells: AnnData) -> None:
    options = {"n_cells": 200, "n_genes": 100}
    a, b, c = (simulate(seed=seed, **options) for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert (a.X != b.X).nnz == 0
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.uns["truth"]["log2_fold_change"], b.uns["truth"]["log2_fold_change"])
    assert (a.X != c.X).nnz > 1000


def test_asking_for_rates_does_not_change_the_counts() -> None:
    options = {"n_cells": 200, "n_genes": 100}
    a, b = (simulate(with_rates=keep, **options) for keep in (True, False))  # type: ignore[arg-type]
    assert (a.X != b.X).nnz == 0


def test_the_defaults_look_like_droplet_data() -> None:
    adata = simulate(n_cells=2000)
    assert adata.shape == (2000, 2000)
    assert 0.1 < adata.X.nnz / 4e6 < 0.2
    assert 500 < np.median(np.asarray(adata.X.sum(1))) < 1200
    assert adata.X.data.max() < 1000


def test_counts_are_canonical_csr(cells: AnnData) -> None:
    again = sparse.csr_matrix((cells.X.data, cells.X.indices, cells.X.indptr), shape=cells.shape)
    assert again.has_canonical_format
    assert cells.X.data.min() >= 1
    assert cells.X.dtype == np.float32


def test_the_truth_survives_a_file(cells: AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    for table in ("share", "log2_fold_change", "changed", "log2_sample_effect"):
        pd.testing.assert_frame_equal(back.uns["truth"][table], cells.uns["truth"][table], check_names=False)
    assert back.uns["truth"]["parameters"]["n_latent"] == 3


@pytest.mark.parametrize("n_genes", [15, 40])
def test_few_genes_keep_every_promise(n_genes: int) -> None:
    for seed in range(10):
        adata = simulate(n_cells=30, n_genes=n_genes, n_batches=2, n_cell_types=3, latent_effect=0.5, seed=seed)
        effect = 2.0 ** truth(adata, "log2_sample_effect").T
        np.testing.assert_allclose(effect @ truth(adata, "share"), 1, rtol=1e-9)
        assert effect.min() > 0
        unchanged = ~truth(adata, "changed").any(axis=1)
        assert (truth(adata, "log2_fold_change")[unchanged] == 0).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_cells", 0),
        ("n_cells", 10.5),
        ("n_genes", "many"),
        ("seed", -1),
        ("seed", None),
        ("type_concentration", "low"),
        ("log2_fold_change_range", 2.0),
        ("log2_fold_change_range", (0.0, "x")),
        ("library_size", float("nan")),
        ("batch_effect", None),
        ("n_cell_types", 0),
        ("n_batches", -1),
        ("n_genes", 24),
        ("de_fraction", 1.5),
        ("zero_inflation", 1.0),
        ("library_size", 0.0),
        ("inverse_dispersion", -1.0),
        ("type_concentration", 0.0),
        ("batch_effect", -0.1),
        ("latent_effect", -0.1),
        ("log2_fold_change_range", (2.0, 1.0)),
        ("log2_fold_change_range", (-1.0, 1.0)),
    ],
)
def test_impossible_options_are_named(option: str, value: object) -> None:
    with pytest.raises(OptionError, match=option):
        simulate(**{option: value})  # type: ignore[arg-type]
