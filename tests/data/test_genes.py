"""Gene selection and cell filters."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from celbo.data.datasets import pbmc
from celbo.data.genes import filter_cells, select_genes
from celbo.data.simulate import simulate
from celbo.errors import CelboWarning, CountsError, GenesError, InputError, OptionError, SchemaError


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate(n_cells=900, n_genes=600, n_cell_types=4, seed=5, expression_sd=1.0)


def chosen(adata: AnnData) -> list[str]:
    return list(adata.var_names[adata.var["highly_variable"]])


def scanpys(adata: AnnData, **options: object) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(adata, flavor="seurat_v3", inplace=False, **options)
    return list(adata.var_names[table["highly_variable"].to_numpy()])


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_the_genes_are_scanpys_seurat_v3(cells: AnnData, batch_key: str | None) -> None:
    adata = cells.copy()
    select_genes(adata, n_top_genes=150, batch_key=batch_key)
    assert chosen(adata) == scanpys(cells, n_top_genes=150, batch_key=batch_key)
    assert len(chosen(adata)) == 150


def test_ranks_begin_at_zero_and_the_chosen_have_one(cells: AnnData) -> None:
    adata = cells.copy()
    select_genes(adata, n_top_genes=100)
    rank = adata.var["highly_variable_rank"]
    assert sorted(rank[adata.var["highly_variable"]]) == list(range(100))
    assert rank[~adata.var["highly_variable"]].isna().all()


def test_changed_genes_are_found(cells: AnnData) -> None:
    adata = cells.copy()
    select_genes(adata, n_top_genes=150, batch_key="batch")
    fold = adata.uns["truth"]["log2_fold_change"].abs().max(axis=1)
    assert fold[adata.var["highly_variable"]].mean() > 1.5 * fold[~adata.var["highly_variable"]].mean()


def test_no_gene_is_removed_and_counts_stay(cells: AnnData) -> None:
    adata = cells.copy()
    select_genes(adata, n_top_genes=10)
    assert adata.shape == cells.shape
    assert (adata.X != cells.X).nnz == 0
    assert set(adata.var.columns) - set(cells.var.columns) == {"highly_variable", "highly_variable_rank"}


@pytest.mark.parametrize("n_top_genes", [600, 2000])
def test_where_there_are_fewer_genes_all_are_marked(cells: AnnData, n_top_genes: int) -> None:
    adata = cells.copy()
    select_genes(adata, n_top_genes=n_top_genes)
    assert adata.var["highly_variable"].all()


@pytest.mark.parametrize("form", ["csc", "dense", "int", "view"])
def test_the_way_of_storing_does_not_matter(cells: AnnData, form: str) -> None:
    plain, adata = cells.copy(), cells.copy()
    convert = {"csc": sparse.csc_matrix, "dense": lambda x: x.toarray(), "int": lambda x: x.astype(np.int64)}
    if form == "view":
        adata = adata[np.arange(adata.n_obs)]
    else:
        adata.X = convert[form](adata.X)
    for each in (plain, adata):
        select_genes(each, n_top_genes=100, batch_key="batch")
    assert chosen(adata) == chosen(plain)


def test_counts_come_from_the_layer(cells: AnnData) -> None:
    plain, adata = cells.copy(), cells.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    select_genes(plain, n_top_genes=100)
    select_genes(adata, n_top_genes=100, layer="counts")
    assert chosen(adata) == chosen(plain)
    with pytest.raises(CountsError):
        select_genes(adata, n_top_genes=100)


def test_genes_of_raw_are_marked_where_var_has_them(cells: AnnData) -> None:
    whole = cells.copy()
    select_genes(whole, n_top_genes=300)
    adata = cells.copy()
    adata.raw = adata
    adata = adata[:, ::-3].copy()
    adata.X = adata.X.log1p()
    select_genes(adata, n_top_genes=300, layer="raw")
    assert chosen(adata) == [gene for gene in adata.var_names if whole.var.loc[gene, "highly_variable"]]


def test_a_tiny_batch_is_left_out_and_named(cells: AnnData) -> None:
    batch = cells.obs["batch"].to_numpy()
    large = cells[batch != "batch_2"].copy()
    few = np.flatnonzero(batch == "batch_2")[:3]
    adata = cells[np.sort(np.concatenate([np.flatnonzero(batch != "batch_2"), few]))].copy()
    with pytest.warns(CelboWarning, match=r"batches 'batch_2'.*no say"):
        select_genes(adata, n_top_genes=100, batch_key="batch")
    assert chosen(adata) == scanpys(large, n_top_genes=100, batch_key="batch")


def test_few_cells_get_a_smoother_trend(cells: AnnData) -> None:
    adata = cells[:8].copy()
    with pytest.warns(CelboWarning, match="A smoother one"):
        select_genes(adata, n_top_genes=50)
    assert len(chosen(adata)) == 50


def test_where_no_trend_can_be_fitted_variance_over_mean_ranks() -> None:
    counts = np.array([[4, 0, 1], [0, 1, 1], [4, 1, 2]], np.float32)
    adata = AnnData(counts, obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=["x", "y", "z"]))
    with pytest.warns(CelboWarning, match="variance over mean"):
        select_genes(adata, n_top_genes=1)
    assert chosen(adata) == ["x"]


def test_a_list_of_genes_is_marked_in_its_order(cells: AnnData) -> None:
    adata = cells.copy()
    select_genes(adata, genes=["gene_300", "gene_002", "gene_300"])
    assert chosen(adata) == ["gene_002", "gene_300"]
    assert adata.var.loc[["gene_300", "gene_002"], "highly_variable_rank"].tolist() == [0, 1]
    assert adata.var["highly_variable_rank"].notna().sum() == 2


def test_unknown_genes_are_listed_with_the_nearest_name(cells: AnnData) -> None:
    with pytest.raises(GenesError, match=r"2 of 3 gene\(s\).*'gene-300', 'FOXP3'.*Did you mean 'gene_300'"):
        select_genes(cells.copy(), genes=["gene_001", "gene-300", "FOXP3"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_top_genes": 0}, OptionError, "n_top_genes must be a whole number of at least 1"),
        ({"n_top_genes": "all"}, OptionError, "n_top_genes must be a whole number of at least 1"),
        ({"genes": "gene_001"}, OptionError, "list of gene names"),
        ({"genes": []}, OptionError, "list of gene names"),
        ({"batch_key": "bacth"}, SchemaError, "Did you mean 'batch'"),
        ({"layer": "counts"}, SchemaError, "counts"),
    ],
)
def test_impossible_options_are_named(
    cells: AnnData, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        select_genes(cells.copy(), **options)  # type: ignore[arg-type]


def mito() -> AnnData:
    counts = np.array([[10, 0, 5], [100, 0, 0], [1, 1, 0], [0, 0, 0], [40, 10, 50]], np.float32)
    names = ["CD3E", "GAPDH", "MT-CO1"]
    return AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(index=list("abcde")), var=pd.DataFrame(index=names))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"min_counts": 3}, "abe"),
        ({"min_counts": 100}, "be"),
        ({"min_genes": 2}, "ace"),
        ({"max_percent_mito": 40}, "abcd"),
        ({"max_percent_mito": 100 / 3}, "abcd"),
        ({"max_percent_mito": 33}, "bcd"),
        ({"min_counts": 3, "min_genes": 2, "max_percent_mito": 40}, "a"),
        ({}, "abcde"),
    ],
)
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_cells_that_pass_every_filter_stay(options: dict[str, float], kept: str, form: str) -> None:
    adata = mito()
    adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}[form](adata.X)
    assert "".join(filter_cells(adata, **options).obs_names) == kept  # type: ignore[arg-type]


def test_mouse_names_of_mitochondrial_genes_count() -> None:
    adata = mito()
    adata.var_names = ["Cd3e", "Gapdh", "mt-Co1"]
    assert "".join(filter_cells(adata, max_percent_mito=33).obs_names) == "bcd"


@pytest.mark.parametrize("raw", [False, True])
def test_the_filter_knows_mitochondrial_genes_by_their_symbols_and_by_ensembl(raw: bool) -> None:
    adata = mito()
    adata.var_names = ["ENSG00000198851", "ENSG00000111640", "ENSG00000999999"]
    adata.var["gene_symbols"] = ["CD3E", "GAPDH", "MT-CO1"]
    if raw:
        adata.raw = adata.copy()
        adata = adata[:, :1].copy()
    assert "".join(filter_cells(adata, max_percent_mito=33, layer="raw" if raw else None).obs_names) == "bcd"
    known = mito()
    known.var_names = ["ENSG00000198851", "ENSG00000111640", "ENSG00000198804"]
    assert "".join(filter_cells(known, max_percent_mito=33).obs_names) == "bcd"


def test_the_filter_tells_how_many_fail() -> None:
    told = filter_cells(mito(), min_counts=3, max_percent_mito=40).uns["filter_cells"]
    assert told == {"n_before": 5, "n_after": 2, "min_counts": 2, "max_percent_mito": 1}


def test_the_filter_returns_a_copy() -> None:
    adata = mito()
    kept = filter_cells(adata, min_counts=3)
    kept.X[0, 0] = 99
    assert adata.X[0, 0] == 10
    assert "filter_cells" not in adata.uns


def test_the_filter_counts_in_the_layer() -> None:
    adata = mito()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0
    assert "".join(filter_cells(adata, min_counts=3, layer="counts").obs_names) == "abe"


def test_removing_all_cells_is_an_error() -> None:
    with pytest.raises(InputError, match=r"all 5 cells: 5 fail min_counts=1000, 2 fail min_genes=2"):
        filter_cells(mito(), min_counts=1000, min_genes=2)


def test_without_mitochondrial_genes_the_filter_warns() -> None:
    with pytest.warns(CelboWarning, match="No gene's name begins with MT-"):
        kept = filter_cells(mito()[:, :2].copy(), max_percent_mito=5)
    assert kept.n_obs == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_counts": -1}, "min_counts"),
        ({"min_counts": "500"}, "min_counts"),
        ({"max_percent_mito": 101}, "max_percent_mito"),
        ({"min_genes": -2}, "min_g"),
    ],
)
def test_thresholds_out_of_range_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        filter_cells(mito(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_values_that_are_no_counts_are_refused(value: float) -> None:
    adata = mito()
    adata.X[0, 0] = value
    with pytest.raises(CountsError, match="negative or not finite"):
        filter_cells(adata, min_counts=1)


def test_real_cells_pass_as_their_totals_say() -> None:
    adata = pbmc()
    kept = filter_cells(adata, min_counts=600)
    assert kept.n_obs == (np.asarray(adata.X.sum(1)).ravel() >= 600).sum() < 700


@pytest.mark.parametrize("function", [select_genes, filter_cells])
def test_only_an_anndata_is_taken(function: object) -> None:
    with pytest.raises(OptionError, match="adata is not an AnnData: a str"):
        function("cells.h5ad")  # type: ignore[operator]


def test_genes_to_keep_are_marked_beside_the_most_variable(cells: AnnData) -> None:
    plain, adata = cells.copy(), cells.copy()
    select_genes(plain, n_top_genes=50)
    quiet = list(plain.var_names[~plain.var["highly_variable"]][:3])
    select_genes(adata, n_top_genes=50, keep=[*quiet, chosen(plain)[0]])
    assert set(chosen(adata)) == set(chosen(plain)) | set(quiet)
    assert adata.var["highly_variable_rank"].equals(plain.var["highly_variable_rank"])
    select_genes(adata, genes=quiet[:1], keep=quiet[1:])
    assert chosen(adata) == quiet


def test_genes_to_keep_that_are_not_there_are_named(cells: AnnData) -> None:
    adata = cells.copy()
    name = str(adata.var_names[7])
    with pytest.warns(CelboWarning, match=r"keep names 1 of 2 gene\(s\) that the data do not have: 'NOPE'"):
        select_genes(adata, n_top_genes=50, keep=[name, "NOPE"])
    assert name in chosen(adata)
    with pytest.raises(GenesError, match=r"names 2 of 2 gene\(s\).*'NOPE', 'NO'"):
        select_genes(adata, n_top_genes=50, keep=["NOPE", "NO"])
    with pytest.raises(OptionError, match="must be a list of gene names"):
        select_genes(adata, n_top_genes=50, keep=name)


def test_marks_go_to_the_column_asked_for(cells: AnnData) -> None:
    adata = cells.copy()
    adata.var["highly_variable"] = "mine"
    select_genes(adata, n_top_genes=50, key_added="mine")
    assert int(adata.var["mine"].sum()) == 50
    assert adata.var["mine_rank"].notna().sum() == 50
    assert set(adata.var["highly_variable"]) == {"mine"}
