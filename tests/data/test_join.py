"""Several files: how they are joined, and how their batches are called."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from count_files import (
    CELLS,
    COUNTS,
    anndata_of,
    write_10x_h5,
    write_h5ad,
    write_mtx,
    write_table,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from celbo.data.naming import batch_names
from celbo.data.read import read
from celbo.errors import CelboWarning, OptionError, ReadError

# -- several files ---------------------------------------------------------------------------------------------------


def write_two(folder: Path, second: AnnData) -> list[Path]:
    anndata_of().write_h5ad(folder / "one.h5ad")
    second.write_h5ad(folder / "two.h5ad")
    return [folder / "one.h5ad", folder / "two.h5ad"]


def test_files_are_joined_on_the_genes_they_share_in_the_order_of_the_first(tmp_path: Path) -> None:
    genes = ["NEW", "LYZ", "CD3E", "NKG7", "OTHER", "MS4A1"]
    with pytest.warns(CelboWarning, match="Kept the 4 genes that all files share, of 6, 6"):
        adata = read(write_two(tmp_path, anndata_of(genes=genes)))
    assert list(adata.var_names) == ["CD3E", "MS4A1", "NKG7", "LYZ"]
    assert np.array_equal(adata.X.toarray(), np.vstack([COUNTS[:, :4], COUNTS[:, [2, 5, 3, 1]]]))
    assert adata.X.format == "csr"


def test_the_file_is_the_batch_and_begins_the_names_of_its_cells(tmp_path: Path) -> None:
    adata = read(write_two(tmp_path, anndata_of()))
    assert list(adata.obs["batch"]) == ["one"] * 5 + ["two"] * 5
    assert list(adata.obs_names) == [f"one_{c}" for c in CELLS] + [f"two_{c}" for c in CELLS]


def test_a_column_that_only_one_file_has_is_empty_in_the_other(tmp_path: Path) -> None:
    second = anndata_of()
    second.obs["doublet"] = [True, False, True, False, True]
    adata = read(write_two(tmp_path, second))
    assert adata.obs["doublet"].isna().tolist() == [True] * 5 + [False] * 5
    adata.write_h5ad(tmp_path / "joined.h5ad")
    assert read(tmp_path / "joined.h5ad").n_obs == 10


def test_a_batch_column_of_the_files_is_kept_under_another_name(tmp_path: Path) -> None:
    second = anndata_of()
    second.obs["batch"] = "lane 3"
    with pytest.warns(CelboWarning, match="batch_in_file"):
        adata = read(write_two(tmp_path, second))
    assert adata.obs["batch_in_file"].tolist()[5:] == ["lane 3"] * 5


def test_files_of_different_formats_are_joined(tmp_path: Path) -> None:
    paths = [write_mtx(tmp_path / "m"), write_10x_h5(tmp_path), write_table(tmp_path, "t.csv")]
    adata = read(paths)
    assert np.array_equal(adata.X.toarray(), np.vstack([COUNTS] * 3))
    assert list(adata.obs["batch"].cat.categories) == ["m", "a", "t"]


def test_files_that_share_no_genes_say_how_each_begins(tmp_path: Path) -> None:
    paths = write_two(tmp_path, anndata_of(genes=[f"ENSG{i}" for i in range(6)]))
    with pytest.raises(
        ReadError, match=r"share too few genes: 0 of 6; one.h5ad begins 'CD3E', two.h5ad begins 'ENSG0'"
    ):
        read(paths)


def test_files_with_repeated_genes_are_joined_on_the_unique_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell,CD3E,CD3E\nAAACATACAACC,1,2\nAAACATTGAGCT,3,4\n")
    (tmp_path / "b.csv").write_text("cell,CD3E,CD3E\nAAACATACAACC,5,6\nAAACATTGAGCT,7,8\n")
    with pytest.warns(CelboWarning, match="Gene names that occur more than once"):
        adata = read([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert list(adata.var_names) == ["CD3E", "CD3E-1"]
    assert adata.X.toarray().tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_joining_keeps_what_all_files_have_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    first, second = anndata_of(), anndata_of()
    for adata in (first, second):
        adata.layers["counts"] = adata.X.copy()
        adata.obsm["X_spatial"] = np.ones((5, 2), "float32")
    first.layers["spliced"], first.obsm["X_pca"], first.uns["colours"] = first.X.copy(), np.ones((5, 3)), "red"
    first.var["mean"], second.var["mean"] = 1.0, 2.0
    first.var["gene_ids"] = [f"ENSG{i}" for i in range(6)]
    first.raw = first.copy()
    first.write_h5ad(tmp_path / "first.h5ad")
    second.write_h5ad(tmp_path / "second.h5ad")
    told = r"Left out in joining.*: layers \('spliced'\), obsm \('X_pca'\), var \('mean'\), uns \('colours'\), raw\."
    with pytest.warns(CelboWarning, match=told):
        adata = read([tmp_path / "first.h5ad", tmp_path / "second.h5ad"])
    assert (list(adata.layers), list(adata.obsm), list(adata.var)) == (["counts"], ["X_spatial"], ["gene_ids"])
    assert np.array_equal(adata.layers["counts"].toarray(), np.vstack([COUNTS, COUNTS]))


def test_joined_files_are_joined_again(tmp_path: Path) -> None:
    once = read(write_two(tmp_path, anndata_of()))
    for name in ("x", "y"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            once.write_h5ad(tmp_path / f"{name}.h5ad")
    with pytest.warns(CelboWarning, match="batch_in_file"):
        twice = read([tmp_path / "x.h5ad", tmp_path / "y.h5ad"])
    twice.write_h5ad(tmp_path / "z.h5ad")
    with pytest.warns(CelboWarning, match="batch_in_file_2"):
        again = read([tmp_path / "z.h5ad", tmp_path / "x.h5ad"])
    assert again.obs["batch_in_file"].isna().sum() == 10
    assert set(again.obs["batch_in_file_2"]) == {"x", "y", "one", "two"}


CELL_RANGER = "outs/per_sample_outs/{}/count/sample_filtered_feature_bc_matrix"
NAMES_OF_BATCHES = [
    (["x/pbmc.h5ad", "x/tonsil.csv.gz"], ["pbmc", "tonsil"]),
    (["x/a.h5ad", "y/a.h5ad"], ["x", "y"]),
    (["s1/outs/filtered_feature_bc_matrix", "s2/outs/filtered_feature_bc_matrix.h5"], ["s1", "s2"]),
    (["x/GSM1_matrix.mtx.gz", "x/GSM2_matrix.mtx.gz"], ["GSM1", "GSM2"]),
    (["GSM1_A_filtered_feature_bc_matrix.h5", "GSM2_B_filtered_feature_bc_matrix.h5"], ["GSM1_A", "GSM2_B"]),
    (["x/a.h5ad", "x/a.csv"], ["a.h5ad", "a.csv"]),
    (["v1.2.h5ad", "v1.3.h5ad"], ["v1.2", "v1.3"]),
    ([f"{CELL_RANGER}.h5".format(d) for d in ("Donor_A", "Donor_B")], ["Donor_A", "Donor_B"]),
    ([CELL_RANGER.format(d) + "/" for d in ("Donor_A", "Donor_B")], ["Donor_A", "Donor_B"]),
    ([CELL_RANGER.format("Donor_A"), CELL_RANGER.format("Donor_B") + ".h5"], ["Donor_A", "Donor_B"]),
    (["r1/outs/D1/count/m.h5", "r2/outs/D1/count/m.h5", "r2/outs/D2/count/m.h5"], ["r1_D1", "r2_D1", "r2_D2"]),
    (
        [f"S/{kind}_feature_bc_matrix.h5" for kind in ("raw", "filtered")],
        [f"{kind}_feature_bc_matrix" for kind in ("raw", "filtered")],
    ),
    (["A/outs/filtered_gene_bc_matrices/hg19", "B/outs/filtered_gene_bc_matrices/hg19/"], ["A", "B"]),
    (["S1/counts_unfiltered/cells_x_genes.mtx", "S2/counts_unfiltered/cells_x_genes.mtx"], ["S1", "S2"]),
    (["S1/Solo.out/Gene/filtered/matrix.mtx", "S2/Solo.out/Gene/raw/matrix.mtx"], ["S1", "S2"]),
    (["matrix_s1.mtx", "matrix_s2.mtx"], ["s1", "s2"]),
    (["P1/tumour.h5ad", "P2/tumour.h5ad", "P3/normal.h5ad"], ["P1_tumour", "P2_tumour", "P3_normal"]),
    (["sample_1.h5", "sample_2.h5"], ["sample_1", "sample_2"]),
    (["A_counts.csv", "A_raw.csv"], ["A_counts", "A_raw"]),
    (["b/a", "b/a.zarr"], ["a", "a.zarr"]),
]


@pytest.mark.parametrize(("paths", "names"), NAMES_OF_BATCHES)
def test_the_name_of_a_batch_is_the_part_of_the_paths_that_differs(paths: list[str], names: list[str]) -> None:
    assert batch_names([Path(path) for path in paths]) == names


@pytest.mark.parametrize(("paths", "names"), NAMES_OF_BATCHES)
def test_names_of_batches_hang_neither_on_the_order_nor_on_where_one_stands(
    paths: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = [tmp_path / path for path in paths]
    assert batch_names(absolute[::-1]) == names[::-1]
    assert batch_names([Path(paths[0]), *absolute[1:]]) == names


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "b", "outs", "count", "raw_matrix", "a.b", "a_b", "m.h5", "m.h5ad"]), min_size=1
        ),
        min_size=2,
        max_size=6,
    ).filter(lambda paths: len({"/".join(path) for path in paths}) == len(paths))
)
def test_no_two_batches_have_the_same_name(paths: list[list[str]]) -> None:
    names = batch_names([Path(*path) for path in paths])
    assert len(set(names)) == len(names)
    assert all(names)


def test_a_link_names_a_batch_and_is_the_same_file_all_the_same(tmp_path: Path) -> None:
    for folder in ("store1", "store2"):
        (tmp_path / folder).mkdir()
        write_h5ad(tmp_path / folder)
    (tmp_path / "ctrl.h5ad").symlink_to(tmp_path / "store1" / "a.h5ad")
    (tmp_path / "stim.h5ad").symlink_to(tmp_path / "store2" / "a.h5ad")
    adata = read([tmp_path / "ctrl.h5ad", tmp_path / "stim.h5ad"])
    assert list(adata.obs["batch"].cat.categories) == ["ctrl", "stim"]
    with pytest.raises(OptionError, match="names a file twice"):
        read([tmp_path / "ctrl.h5ad", tmp_path / "store1" / "a.h5ad"])
