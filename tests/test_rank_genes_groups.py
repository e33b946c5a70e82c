"""Tables of differential expression in scanpy's layout: its functions work on them, and files keep them."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import celbo
from celbo.errors import GenesError, InputError, SchemaError
from made_tables import compared, one_versus_rest, vanilla

GROUPS = ["T", "B cells", "NK"]
GENES = [f"GENE{i}" for i in range(30)]
TABLE = one_versus_rest(GROUPS, n_genes=30, share=0.5)


@pytest.fixture
def adata() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(1.0, (60, 30)).astype(np.float32))
    obs = pd.DataFrame(
        {"type": pd.Categorical(np.array(GROUPS)[np.arange(60) % 3])}, index=[f"c{i}" for i in range(60)]
    )
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


def scanpy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("scanpy")


def test_scanpy_reads_the_numbers_of_the_table(adata: anndata.AnnData) -> None:
    celbo.to_rank_genes_groups(TABLE, adata=adata, groupby="type")
    found = scanpy().get.rank_genes_groups_df(adata, group="B cells").set_index("names")
    rows = TABLE[TABLE["group1"] == "B cells"].loc[found.index]
    np.testing.assert_allclose(found["logfoldchanges"], rows["lfc_median"], rtol=1e-6)
    np.testing.assert_allclose(found["pvals"], 1 - rows["proba_de"], atol=1e-12)
    np.testing.assert_allclose(found["pvals_adj"], rows["expected_fdr"])
    np.testing.assert_allclose(found["pct_nz_group"], rows["detection1"])
    np.testing.assert_allclose(found["pct_nz_reference"], rows["detection2"])
    np.testing.assert_allclose(found["scores"], rows["marker_score"], rtol=1e-6)


def test_genes_surely_higher_lead_and_genes_surely_lower_are_last(adata: anndata.AnnData) -> None:
    written = celbo.to_rank_genes_groups(TABLE, adata=adata, groupby="type")
    for group in GROUPS:
        rows = TABLE[TABLE["group1"] == group].loc[written["names"][group]]
        assert (np.diff(written["scores"][group]) <= 0).all()
        sure = np.sign(rows["marker_score"].to_numpy())
        assert (np.diff(sure) <= 0).all() and sure[0] == 1 and sure[-1] == -1
        unsure = rows[rows["marker_score"] == 0]
        evidence = np.sign(unsure["lfc_median"]) * np.logaddexp(0, unsure["bayes_factor"])
        assert len(unsure) > 3 and (np.diff(evidence) <= 0).all()


def test_scanpy_draws_it(adata: anndata.AnnData) -> None:
    sc = scanpy()
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    celbo.to_rank_genes_groups(TABLE, adata=adata, groupby="type", key="celbo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pl.rank_genes_groups(adata, key="celbo", n_genes=5, show=False)
        title = [ax.get_title() for ax in pyplot.gcf().axes]
        drawn = sc.pl.rank_genes_groups_dotplot(adata, key="celbo", n_genes=2, dendrogram=False, return_fig=True)
        folds = sc.pl.rank_genes_groups_dotplot(
            adata, key="celbo", n_genes=2, dendrogram=False, values_to_plot="logfoldchanges", return_fig=True
        )
    pyplot.close("all")
    assert title == [f"{group} vs. rest" for group in GROUPS]
    assert drawn.var_names == [gene for group in GROUPS for gene in adata.uns["celbo"]["names"][group][:2]]
    first = adata.uns["celbo"]["names"]["T"][0]
    expected = TABLE[TABLE["group1"] == "T"].loc[first, "lfc_median"]
    assert np.asarray(folds.dot_color_df.loc["T", first]).ravel()[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("names", [GROUPS, ["CD4+/CD25", "B cells", "<b>NK</b>"]])
def test_files_keep_it(adata: anndata.AnnData, names: list[str], tmp_path: Path) -> None:
    adata.obs["type"] = adata.obs["type"].cat.rename_categories(dict(zip(GROUPS, names, strict=True)))
    table = TABLE.replace({"group1": dict(zip(GROUPS, names, strict=True))})
    written = celbo.to_rank_genes_groups(table, adata=adata, groupby="type")
    celbo.results.write_h5ad(adata, tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad").uns["rank_genes_groups"]
    for field in ("names", "scores", "logfoldchanges", "pvals", "pvals_adj"):
        for group in names:
            assert read[field][group].tolist() == written[field][group].tolist()
    assert read["params"]["groupby"] == "type" and "no p-value" in read["params"]["fields"]
    assert ("pts" in read) == ("/" not in names[0])  # anndata writes no column of that name


def test_one_comparison_of_two_groups_names_its_reference(adata: anndata.AnnData) -> None:
    written = celbo.to_rank_genes_groups(compared("T", "NK", n_genes=30), adata=adata, groupby="type")
    assert written["params"]["reference"] == "NK" and written["names"].dtype.names == ("T",)
    assert len(scanpy().get.rank_genes_groups_df(adata, group="T")) == 30


def test_probabilities_next_to_one_are_told_apart(adata: anndata.AnnData) -> None:
    odds = np.linspace(700, 40, 30)
    table = compared("T", n_genes=30).assign(bayes_factor=odds, proba_de=1.0, lfc_median=1.0, marker_score=1.0)
    found = celbo.to_rank_genes_groups(table, adata=adata, groupby="type")
    np.testing.assert_allclose(np.log(found["pvals"]["T"]), -odds)
    assert found["names"]["T"].tolist() == table.index.tolist()


def test_mode_vanilla_has_the_probability_of_a_wrong_direction(adata: anndata.AnnData) -> None:
    table = vanilla(group1="T", n_genes=30)
    found = celbo.to_rank_genes_groups(table, adata=adata, groupby="type")
    rows = table.loc[found["names"]["T"]]
    np.testing.assert_allclose(found["scores"]["T"], rows["marker_score"], rtol=1e-6)
    wrong = np.minimum(rows["proba_higher"], 1 - rows["proba_higher"]).to_numpy()
    np.testing.assert_allclose(found["pvals"]["T"], wrong)
    expected = [wrong[wrong <= w].mean() for w in wrong]
    distinct = np.unique(wrong).size == wrong.size
    assert not distinct or found["pvals_adj"]["T"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("table", "groupby", "error", "told"),
    [
        (TABLE, "typ", SchemaError, "Did you mean 'type'"),
        (TABLE.replace("NK", "Mono"), "type", SchemaError, "lacks groups of the table: 'Mono'"),
        (TABLE.rename(index={"GENE3": "GENE3x"}), "type", GenesError, "'GENE3x'"),
        (TABLE.head(0), "type", InputError, "has no rows"),
        (TABLE.drop(columns="expected_fdr"), "type", InputError, "lacks columns: 'expected_fdr'"),
        (TABLE.groupby("group1").head(5), "type", InputError, "Give the whole table"),
        (pd.concat([TABLE, TABLE]), "type", InputError, "each gene once"),
        (TABLE.assign(group2=["a", "b"] * 45), "type", InputError, "compares with several groups: 'a', 'b'"),
    ],
)
def test_what_does_not_fit_is_a_named_error(adata, table, groupby, error, told) -> None:
    with pytest.raises(error, match=told):
        celbo.to_rank_genes_groups(table, adata=adata, groupby=groupby)
    assert "rank_genes_groups" not in adata.uns
