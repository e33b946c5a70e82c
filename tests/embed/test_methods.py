"""The reductions for an AnnData: slots, genes by name, the constants of the fit, and errors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData, read_h5ad
from scipy import sparse

import celbo
from celbo.embed import METHODS
from celbo.errors import CountsError, GenesError, InputError, OptionError, SchemaError

SLOTS = {
    "pca": "X_pca",
    "ica": "X_ica",
    "factor_analysis": "X_fa",
    "tsne": "X_tsne",
    "umap": "X_umap",
    "forceatlas2": "X_draw_graph_fa",
    "diffusion_map": "X_diffmap",
}
QUICK: dict[str, dict[str, Any]] = {
    "pca": {"n_components": 5},
    "ica": {"n_components": 3},
    "factor_analysis": {"n_components": 3},
    "tsne": {"perplexity": 10, "n_iter": 20},
    "umap": {"n_epochs": 20},
    "forceatlas2": {"n_iter": 10},
    "diffusion_map": {"n_components": 4},
}


@pytest.mark.parametrize("method", SLOTS)
def test_writes_the_usual_slot_and_what_it_was_made_with(method: str, cells: AnnData, tmp_path) -> None:
    before = cells.X.copy()
    found = METHODS[method](cells, **QUICK[method])
    slot = cells.obsm[SLOTS[method]]
    assert found.key == SLOTS[method]
    assert slot.dtype == np.float32
    np.testing.assert_allclose(slot, found.coordinates, rtol=1e-6)
    kept = cells.uns["draw_graph" if method == "forceatlas2" else SLOTS[method].removeprefix("X_")]["params"]
    assert {name: kept[name] for name in QUICK[method]} == QUICK[method]
    assert kept["target_counts"] == np.median(before.toarray().sum(1))
    assert (before != cells.X).nnz == 0
    cells.write_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(read_h5ad(tmp_path / "out.h5ad").obsm[SLOTS[method]], slot)


@pytest.mark.parametrize("method", SLOTS)
def test_key_added_names_the_slot(method: str, cells: AnnData) -> None:
    METHODS[method](cells, use_rep="X_rep", key_added="mine", **QUICK[method])
    assert set(cells.obsm) == {"X_rep", "mine"}
    assert set(cells.uns) == {"mine"}
    assert cells.uns["mine"]["params"]["use_rep"] == "X_rep"


@pytest.mark.parametrize("method", ["pca", "ica", "factor_analysis"])
def test_cells_of_the_fit_get_their_coordinates(method: str, cells: AnnData) -> None:
    found = METHODS[method](cells, **QUICK[method])
    np.testing.assert_allclose(found.transform(cells), found.coordinates, atol=1e-10)
    np.testing.assert_allclose(found.transform(cells[[7, 3]]), found.coordinates[[7, 3]], atol=1e-10)


def test_pca_is_laid_out_as_scanpy_does(cells: AnnData) -> None:
    celbo.embed.pca(cells, n_components=5, n_top_genes=60)
    theirs = cells.copy()
    sc.pp.normalize_total(theirs)
    sc.pp.log1p(theirs)
    theirs.var["highly_variable"] = (cells.varm["PCs"] != 0).any(1)
    assert theirs.var["highly_variable"].sum() == 60
    sc.pp.pca(theirs, n_comps=5)
    assert set(cells.uns["pca"]) == set(theirs.uns["pca"])
    np.testing.assert_allclose(cells.uns["pca"]["variance"], theirs.uns["pca"]["variance"], rtol=1e-4)
    np.testing.assert_allclose(cells.uns["pca"]["variance_ratio"], theirs.uns["pca"]["variance_ratio"], rtol=1e-4)
    turn = np.sign((cells.varm["PCs"] * theirs.varm["PCs"]).sum(0))
    np.testing.assert_allclose(cells.varm["PCs"], theirs.varm["PCs"] * turn, atol=1e-4)
    np.testing.assert_allclose(cells.obsm["X_pca"], theirs.obsm["X_pca"] * turn, atol=1e-3)


def test_chosen_genes_are_those_of_select_genes(cells: AnnData) -> None:
    found = celbo.embed.pca(cells, n_top_genes=30)
    assert "highly_variable" not in cells.var
    celbo.select_genes(cells, n_top_genes=30)
    assert list(found.genes) == list(cells.var_names[cells.var["highly_variable"]])
    assert list(celbo.embed.pca(cells, n_top_genes=None).genes) == list(cells.var_names)


def test_new_cells_have_their_genes_found_by_name_and_the_scale_of_the_fit(cells: AnnData) -> None:
    found = celbo.embed.pca(cells[:80], n_components=4, n_top_genes=50)
    new = cells[80:]
    dense = new.X.toarray().astype(float)
    target = np.median(cells[:80].X.toarray().sum(1))
    logged = np.log1p(dense * target / dense.sum(1, keepdims=True))[:, found.source.chosen]
    want = (logged - found.fit.components.mean) @ found.fit.loadings
    np.testing.assert_allclose(found.transform(new), want, atol=1e-5)
    order = np.random.default_rng(0).permutation(90)
    extra = AnnData(sparse.csr_matrix(np.full((40, 2), 9.0)), obs=new.obs, var=pd.DataFrame(index=["new1", "new2"]))
    wider = AnnData(
        sparse.csr_matrix(sparse.hstack([new.X[:, order], extra.X])),
        obs=new.obs,
        var=pd.DataFrame(index=[*new.var_names[order], "new1", "new2"]),
    )
    np.testing.assert_allclose(found.transform(wider), found.transform(new), atol=1e-10)


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_new_cells_land_near_their_type(method: str, cells: AnnData) -> None:
    options = {"tsne": {"perplexity": 10}, "umap": {}}[method]
    found = METHODS[method](cells[::2], **options)
    placed = found.transform(cells[1::2])
    near = ((placed[:, None] - found.coordinates[None]) ** 2).sum(-1).argmin(1)
    types = cells.obs["type"].to_numpy()
    assert (types[::2][near] == types[1::2]).mean() > 0.95


@pytest.mark.parametrize("method", ["forceatlas2", "diffusion_map"])
def test_methods_without_a_place_for_new_cells_say_so(method: str, cells: AnnData) -> None:
    with pytest.raises(InputError, match="cannot place new cells"):
        METHODS[method](cells, **QUICK[method]).transform(cells)


def test_layers_raw_and_views_are_taken_where_they_are(cells: AnnData) -> None:
    want = celbo.embed.pca(cells.copy(), n_components=3).coordinates
    cells.raw = cells.copy()
    cells.layers["counts"] = cells.X.toarray()
    cells.X = cells.X.multiply(0.5).tocsr()
    np.testing.assert_allclose(celbo.embed.pca(cells, layer="counts", n_components=3).coordinates, want, atol=1e-10)
    fewer = cells[:, :20]
    np.testing.assert_allclose(celbo.embed.pca(fewer, layer="raw", n_components=3).coordinates, want, atol=1e-10)
    assert fewer.varm["PCs"].shape == (20, 3)
    with pytest.raises(CountsError, match=r"pass layer='counts' or layer='raw'"):
        celbo.embed.pca(cells)


def test_missing_genes_of_new_cells_are_named(cells: AnnData) -> None:
    found = celbo.embed.pca(cells, n_components=3)
    with pytest.raises(GenesError, match="lack 2 of the 90 genes of the fit: 'g3', 'g7'"):
        found.transform(cells[:, [i for i in range(90) if i not in {3, 7}]])


def test_new_cells_without_a_count_of_the_fit_are_named(cells: AnnData) -> None:
    found = celbo.embed.pca(cells[:, :50], n_components=3)
    new = cells[:5].copy()
    dense = new.X.toarray()
    dense[2, :50] = 0
    new.X = sparse.csr_matrix(dense)
    with pytest.raises(CountsError, match=r"holds 1 cell.* without a count of the fit's genes: 'cell2'"):
        found.transform(new)


@pytest.mark.parametrize("method", SLOTS)
def test_bad_input_is_a_named_error(method: str, cells: AnnData) -> None:
    embed = METHODS[method]
    with pytest.raises(OptionError, match="adata is not an AnnData: a str"):
        embed("counts.h5ad")
    with pytest.raises(SchemaError, match=r"obsm\['X_rpe'\] does not exist. Did you mean 'X_rep'"):
        embed(cells, use_rep="X_rpe")
    with pytest.raises(SchemaError, match="layer 'count' does not exist"):
        embed(cells, layer="count")
    with pytest.raises(OptionError, match="layer and use_rep cannot both be given"):
        embed(cells, layer="count", use_rep="X_rep")
    with pytest.raises(OptionError, match="n_top_genes must be"):
        embed(cells, n_top_genes=0)
    with pytest.raises(InputError):
        embed(cells[:1])
    cells.obsm["X_rep"][4, 2] = np.nan
    with pytest.raises(InputError, match=r"obsm\['X_rep'\] holds numbers that are not finite: 1 cell.*'cell4'"):
        embed(cells, use_rep="X_rep")
    cells.X = cells.X.astype(float) * 0.3
    with pytest.raises(CountsError, match="not counts"):
        embed(cells)


def test_too_many_components_and_too_large_perplexity_are_named(cells: AnnData) -> None:
    with pytest.raises(OptionError, match=r"n_components must be .*: 91 for 120 cells and 90 genes\. Ask"):
        celbo.embed.pca(cells, n_components=91)
    with pytest.raises(OptionError, match=r"perplexity must be a number from 1 to 6.33333: 30"):
        celbo.embed.tsne(cells[:20])


def test_importing_it_imports_no_heavy_package() -> None:
    heavy = ("torch", "umap", "openTSNE", "fa2_modified", "scanpy", "sklearn")
    code = f"import celbo.embed, sys; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
