"""Writing results: slots of an AnnData and files."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from celbo import results
from celbo.errors import CelboWarning, InputError, OptionError, WriteError


@pytest.fixture
def adata() -> anndata.AnnData:
    obs = pd.DataFrame({"a": pd.Categorical(["x", "y", "x"])}, index=["c1", "c2", "c3"])
    return anndata.AnnData(
        sparse.csr_matrix(np.eye(3, 2, dtype=np.float32)), obs=obs, var=pd.DataFrame(index=["g1", "g2"])
    )


def test_latent_goes_into_its_slot(adata: anndata.AnnData) -> None:
    results.write_latent(adata, "X_scvi", np.ones((3, 4)))
    assert adata.obsm["X_scvi"].shape == (3, 4)


def test_latent_of_other_cells_is_refused(adata: anndata.AnnData) -> None:
    with pytest.raises(InputError, match=r"'X_scvi' does not match the cells: 2 for 3 cells"):
        results.write_latent(adata, "X_scvi", np.ones((2, 4)))


def test_numbered_clusters_are_ordered_as_numbers(adata: anndata.AnnData) -> None:
    results.write_clusters(adata, "leiden", [10, 2, 1])
    assert adata.obs["leiden"].cat.categories.tolist() == ["1", "2", "10"]


def test_column_of_other_values_is_not_replaced_silently(adata: anndata.AnnData) -> None:
    results.write_clusters(adata, "leiden", [10, 2, 1])
    results.write_clusters(adata, "leiden", ["10", "2", "1"])  # the same: nothing is lost
    with pytest.warns(CelboWarning, match=r"obs\['leiden'\] held other values and is replaced"):
        results.write_clusters(adata, "leiden", ["a", "2", "1"])


def test_column_that_no_file_can_hold_is_converted_beside_a_matrix(adata: anndata.AnnData, tmp_path: Path) -> None:
    obs = pd.DataFrame({"odd": [1, "a", None]}, index=list("abc"))
    with (
        pytest.warns(CelboWarning, match=r"obs\['odd'\] .* written as text"),
        results.write_matrix_h5ad(
            tmp_path / "m.h5ad", obs=obs, var=pd.DataFrame(index=["g"]), note={"values": "v"}
        ) as write,
    ):
        write(0, np.ones((3, 1)))
    assert anndata.read_h5ad(tmp_path / "m.h5ad").obs["odd"].tolist()[:2] == ["1", "a"]


def test_files_of_a_run_and_inputs_are_not_written_over(tmp_path: Path) -> None:
    for out, model, data in (
        (tmp_path / "cells.h5ad", "", [str(tmp_path / "x" / ".." / "cells.h5ad")]),
        (tmp_path / "result.h5ad", tmp_path, []),
        (tmp_path / "model" / "weights.npy", tmp_path, []),
    ):
        with pytest.raises(OptionError, match="would be written over"):
            results.refuse_inputs(out, model, data)
    results.refuse_inputs(tmp_path / "denoised.h5ad", tmp_path, [str(tmp_path / "cells.h5ad")])


def test_named_clusters_are_ordered_as_texts(adata: anndata.AnnData) -> None:
    results.write_clusters(adata, "type", ["b", "10", "a"])
    assert adata.obs["type"].cat.categories.tolist() == ["10", "a", "b"]


def test_table_is_written_twice_with_its_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"v": [1.5, 2.0], "k": pd.Categorical(["p", None])}, index=pd.Index(["a", "b"], name="cell"))
    parquet, csv = results.write_table(frame, tmp_path / "t")
    assert pd.read_parquet(parquet)["k"].astype(object).fillna("missing").tolist() == ["p", "missing"]
    assert csv.read_text() == "cell,v,k\na,1.5,p\nb,2.0,\n"


def test_floats_survive_the_csv(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=50)
    results.write_frame(pd.DataFrame({"v": values}), tmp_path / "t.csv")
    read = pd.read_csv(tmp_path / "t.csv", index_col=0, float_precision="round_trip")
    np.testing.assert_array_equal(read["v"], values)


def test_table_with_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.csv, \.tsv or \.parquet"):
        results.write_frame(pd.DataFrame({"v": [1]}), tmp_path / "t.xlsx")


def test_table_in_a_missing_folder_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"t\.csv. cannot be written"):
        results.write_frame(pd.DataFrame({"v": [1]}), tmp_path / "no" / "t.csv")


def test_anndata_that_cannot_be_written_leaves_the_old_file(adata: anndata.AnnData, tmp_path: Path) -> None:
    (tmp_path / "r.h5ad").write_text("old")
    adata.uns["bad"] = object()
    with pytest.raises(InputError, match=r"cannot be written as \.h5ad"):
        results.write_h5ad(adata, tmp_path / "r.h5ad")
    assert (tmp_path / "r.h5ad").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_matrix_written_in_blocks_is_read_as_anndata(adata: anndata.AnnData, tmp_path: Path) -> None:
    with results.write_matrix_h5ad(tmp_path / "m.h5ad", obs=adata.obs, var=adata.var, note={"values": "test"}) as write:
        write(0, np.full((2, 2), 1.0))
        write(2, np.full((1, 2), 5.0))
    read = anndata.read_h5ad(tmp_path / "m.h5ad")
    assert read.X.tolist() == [[1, 1], [1, 1], [5, 5]]
    assert read.obs["a"].tolist() == ["x", "y", "x"]
    assert read.uns["celbo"]["values"] == "test"


def test_matrix_that_fails_half_way_leaves_no_file(adata: anndata.AnnData, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        results.write_matrix_h5ad(tmp_path / "m.h5ad", obs=adata.obs, var=adata.var, note={}) as write,
    ):
        write(0, np.ones((1, 2)))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_versions_name_celbo_and_torch() -> None:
    assert {"celbo", "python", "torch", "numpy", "scanpy"} <= set(results.versions())


def test_versions_yaml_has_one_entry_a_process() -> None:
    assert results.versions_yaml("celbo run", {"celbo": "1", "numpy": "2"}) == (
        '"celbo run":\n    celbo: "1"\n    numpy: "2"\n'
    )


def test_multiqc_general_has_a_header_for_each_number() -> None:
    content = results.multiqc_general("s", {"cells": 3}, {"cells": ("Cells", "How many")})
    assert content["pconfig"] == [{"cells": {"title": "Cells", "description": "How many", "namespace": "celbo"}}]
    assert content["data"] == {"s": {"cells": 3}}


def test_multiqc_curve_is_that_of_the_training_cells_where_none_is_held_out() -> None:
    history = pd.DataFrame({"elbo_train": [-3.0, -2.0], "elbo_validation": [np.nan, np.nan]})
    assert results.multiqc_lines("s", history)["data"] == {"s": {"0": -3.0, "1": -2.0}}
