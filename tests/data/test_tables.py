"""Text tables: which way round they lie, and what is counts in them."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from count_files import (
    CELLS,
    GENES,
    write_table,
)

from celbo.data.read import read
from celbo.data.tables import guess_orientation
from celbo.errors import CelboWarning

# -- tables: which way round -----------------------------------------------------------------------------------------


def numbered(what: str, n: int) -> list[str]:
    return [f"{what}{i}" for i in range(n)]


NAMES = {
    "barcodes in the rows": (CELLS, numbered("x", 9), "cells", "100% of the row names look like barcodes"),
    "barcodes in the columns": (numbered("x", 3), CELLS, "genes", "100% of the column names look like barcodes"),
    "barcodes with a prefix": (["s1_AAACATACAACC", "s2_AAACATTGAGCT"], numbered("x", 9), "cells", "barcodes"),
    "numbered cells": (["cell_1", "cell_2"], numbered("x", 9), "cells", "barcodes"),
    "Ensembl in the rows": (["ENSG00000141510", "ENSG00000012048.1"], ["s", "t", "u"], "genes", "2 row names are gene"),
    "mouse Ensembl in the columns": (["s", "t", "u"], ["ENSMUSG00000059552"] * 2, "cells", "2 column names are gene"),
    "known genes in the rows": (["CD3E", "foo", "bar"], ["s", "t", "u", "v"], "genes", "1 row names are gene"),
    "known mouse genes in the columns": (["s", "t", "u"], ["Cd3e", "Actb"], "cells", "2 column names are gene"),
    "mitochondrial genes": (["MT-CO1", "x"], ["s", "t"], "genes", "gene identifiers"),
    "symbols by their shape": (
        ["ZNF263", "TP53I3", "HLA-DRA"],
        ["a_1_x", "b_2_y", "c_3_z"],
        "genes",
        "100% of the row",
    ),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_tell_which_way_round_a_table_is(kind: str) -> None:
    rows, columns, expected, reason = NAMES[kind]
    taken, why, sure = guess_orientation(rows, columns)
    assert (taken, sure) == (expected, True)
    assert reason in why


@pytest.mark.parametrize(("shape", "expected"), [((50, 9), "genes"), ((9, 50), "cells"), ((9, 9), "cells")])
def test_names_that_tell_nothing_leave_it_to_the_sizes(shape: tuple[int, int], expected: str) -> None:
    taken, _, sure = guess_orientation([f"r_{i}_" for i in range(shape[0])], [f"c_{i}_" for i in range(shape[1])])
    assert (taken, sure) == (expected, False)


def test_a_guess_by_the_sizes_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,q_1_,q_2_,q_3_\nr_1_,1,2,0\nr_2_,1,0,3\n")
    with pytest.warns(CelboWarning, match="Took the rows as cells.*orientation='genes'"):
        adata = read(tmp_path / "a.csv")
    assert list(adata.obs_names) == ["r_1_", "r_2_"]


@pytest.mark.parametrize("orientation", ["cells", "genes"])
def test_the_orientation_asked_for_is_taken(orientation: str, tmp_path: Path) -> None:
    adata = read(write_table(tmp_path, "a.csv"), orientation=orientation)
    assert list(adata.obs_names) == (CELLS if orientation == "cells" else GENES)


def test_what_was_taken_and_why_is_kept_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "celbo"):
        facts = read(write_table(tmp_path, "a.csv", genes_first=True)).uns["celbo_read"]
    assert (facts["orientation"], facts["reason"]) == ("genes", "100% of the column names look like barcodes")
    assert "rows taken as genes (100% of the column names look like barcodes)" in caplog.text


def test_quoted_names_comments_empty_lines_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    text = '\ufeff# made by hand\r\n"cell","CD3E","a, b"\r\n\r\n"AAACATACAACC",1,2\r\n"AAACATTGAGCT",3,4'
    (tmp_path / "a.csv").write_bytes(text.encode())
    adata = read(tmp_path / "a.csv")
    assert (list(adata.obs_names), list(adata.var_names)) == (["AAACATACAACC", "AAACATTGAGCT"], ["CD3E", "a, b"])
    assert adata.X.toarray().tolist() == [[1, 2], [3, 4]]


def test_names_with_quotes_in_them_and_gaps_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('cell,CD3E,LYZ\n"AAACATACAACC ""x"", 1",1,\n"AAACATTGAGCT",3,"4"\n')
    adata = read(tmp_path / "a.csv")
    assert list(adata.obs_names) == ['AAACATACAACC "x", 1', "AAACATTGAGCT"]
    assert np.array_equal(adata.X.toarray(), [[1, np.nan], [3, 4]], equal_nan=True)


@pytest.mark.parametrize(("text", "values"), [("cell,A\nx,1\ny,\n", [[1], [np.nan]]), ("cell,A\nx,\n", [[np.nan]])])
def test_a_line_without_a_number_is_kept(text: str, values: list[list[float]], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    np.testing.assert_array_equal(read(tmp_path / "a.csv", orientation="cells").X.toarray(), values)


def test_a_long_table_is_read_in_parts_of_few_lines(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(0.3, (1500, 7))
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["", *GENES, "X"])
        out.writerows([f"cell{i}", *row] for i, row in enumerate(counts))
    assert np.array_equal(read(tmp_path / "a.tsv").X.toarray(), counts)


def test_large_and_fractional_values_of_a_table_are_exact(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell,CD3E,LYZ\nAAACATACAACC,16777217,0.1\nAAACATTGAGCT,0,\n")
    values = read(tmp_path / "a.csv").X.toarray()
    assert (values[0].tolist(), values[1, 0], np.isnan(values[1, 1])) == ([16777217, 0.1], 0, True)
