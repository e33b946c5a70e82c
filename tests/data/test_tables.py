"""Text tables: which way round they lie, and what is counts in them."""

from __future__ import annotations

import csv
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from count_files import (
    CELLS,
    GENES,
    write_table,
)

from celbo.data.read import read
from celbo.data.tables import guess_orientation
from celbo.errors import CelboWarning, ReadError

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


# -- names that are numbers, columns of text, numbers as people write them ---------------------------------------------


def table(folder: Path, text: str, name: str = "a.csv") -> AnnData:
    (folder / name).write_bytes(text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CelboWarning)
        return read(folder / name)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("corner", ["", "gene"])
def test_numbered_cells_are_named_by_their_numbers(start: int, corner: str, tmp_path: Path) -> None:
    numbers = [str(start + i) for i in range(4)]
    adata = table(tmp_path, f"{corner},{','.join(numbers)}\nCD3E,5,1,0,2\nLYZ,0,2,1,1\nACTB,3,0,4,1\n")
    assert (list(adata.obs_names), list(adata.var_names)) == (numbers, ["CD3E", "LYZ", "ACTB"])
    assert adata.X.toarray().tolist() == [[5, 0, 3], [1, 2, 0], [0, 1, 4], [2, 1, 1]]


def test_numbers_that_name_cells_need_not_follow_each_other(tmp_path: Path) -> None:
    adata = table(tmp_path, ",1007,1002,990\nCD3E,5,1,0\nLYZ,0,2,1\n")
    assert list(adata.obs_names) == ["1007", "1002", "990"]


def test_a_first_column_of_counts_names_no_cells(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="has no column of names"):
        table(tmp_path, "CD3E,LYZ,NKG7\n5,0,2\n1,3,0\n")


NUMBERS = {
    "thousands in quotes": (',AAACATACAACC,AAACATTGAGCT\nCD3E,"1,160",3\nLYZ,"2,000,001",0\n', "a.csv"),
    "thousands between tabs": ("\tAAACATACAACC\tAAACATTGAGCT\nCD3E\t1,160\t3\nLYZ\t2,000,001\t0\n", "a.tsv"),
    "thousands with apostrophes": (";AAACATACAACC;AAACATTGAGCT\nCD3E;1'160;3\nLYZ;2'000'001;0\n", "a.csv"),
    "thousands with spaces": (";AAACATACAACC;AAACATTGAGCT\nCD3E;1 160;3\nLYZ;2 000 001;0\n", "a.csv"),
    "scientific": (",AAACATACAACC,AAACATTGAGCT\nCD3E,1.16e+03,3.0\nLYZ,2.000001E6,0e0\n", "a.csv"),
    "quotes": (',"AAACATACAACC","AAACATTGAGCT"\n"CD3E","1160","3"\n"LYZ","2000001","0"\n', "a.csv"),
    "a delimiter at the end of lines": (",AAACATACAACC,AAACATTGAGCT\nCD3E,1160,3,\nLYZ,2000001,0,\n", "a.csv"),
    "a delimiter at the end of all lines": (",AAACATACAACC,AAACATTGAGCT,\nCD3E,1160,3,\nLYZ,2000001,0,\n", "a.csv"),
    "a delimiter at the end of the header": (",AAACATACAACC,AAACATTGAGCT,\nCD3E,1160,3\nLYZ,2000001,0\n", "a.csv"),
    "aligned by spaces": (
        "     AAACATACAACC AAACATTGAGCT\nCD3E         1160            3\nLYZ       2000001            0\n",
        "a.txt",
    ),
    "two spaces": ("x  AAACATACAACC  AAACATTGAGCT\nCD3E  1160  3\nLYZ  2000001  0\n", "a.txt"),
    "a line of names that begins as a comment": (
        "# made by hand\n#gene,AAACATACAACC,AAACATTGAGCT\nCD3E,1160,3\nLYZ,2000001,0\n",
        "a.csv",
    ),
    "no corner": ("AAACATACAACC,AAACATTGAGCT\nCD3E,1160,3\nLYZ,2000001,0\n", "a.csv"),
    "Windows and empty lines": (
        "\ufeff,AAACATACAACC,AAACATTGAGCT\r\nCD3E,1160,3\r\nLYZ,2000001,0\r\n\r\n\r\n",
        "a.csv",
    ),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_are_read_however_they_are_written(kind: str, tmp_path: Path) -> None:
    adata = table(tmp_path, *NUMBERS[kind])
    assert (list(adata.obs_names), list(adata.var_names)) == (["AAACATACAACC", "AAACATTGAGCT"], ["CD3E", "LYZ"])
    assert adata.X.toarray().tolist() == [[1160, 2000001], [3, 0]]


def test_thousands_and_decimal_commas_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(NUMBERS["thousands in quotes"][0])
    with pytest.warns(CelboWarning, match=r"separators of thousands \(1,160 is read as 1160\)"):
        read(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("cell;CD3E;LYZ\nAAACATACAACC;1,5;0\nAAACATTGAGCT;0,125;2,0\n")
    with pytest.warns(CelboWarning, match="decimal commas"):
        adata = read(tmp_path / "b.csv")
    assert adata.X.toarray().tolist() == [[1.5, 0], [0.125, 2]]


def test_a_table_of_excel_in_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("cell\tCD3E\tLYZ\nAAACATACAACC\t1\t2\nAAACATTGAGCT\t3\t4\n".encode("utf-16"))
    assert read(tmp_path / "a.txt").X.toarray().tolist() == [[1, 2], [3, 4]]


def test_columns_of_text_are_obs_and_the_unique_one_names_the_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        ",barcode,CD3E,LYZ,type,doublet\n0,AAACATACAACC,1,2,T,TRUE\n1,AAACATTGAGCT,3,4,T,FALSE\n2,AAACATTGATCA,5,6,B,FALSE\n"
    )
    with pytest.warns(CelboWarning) as caught:
        adata = read(tmp_path / "a.csv")
    told = " ".join(str(warning.message) for warning in caught)
    assert "The column 'barcode' names the rows." in told
    assert "Took 'type', 'doublet' for obs, not counts." in told
    assert list(adata.obs_names) == ["AAACATACAACC", "AAACATTGAGCT", "AAACATTGATCA"]
    assert list(adata.var_names) == ["CD3E", "LYZ"]
    assert (list(adata.obs["type"]), list(adata.obs["doublet"])) == (["T", "T", "B"], [True, False, False])
    assert adata.X.toarray().tolist() == [[1, 2], [3, 4], [5, 6]]
    adata.write_h5ad(tmp_path / "a.h5ad")


def test_a_first_column_that_repeats_itself_is_an_annotation(tmp_path: Path) -> None:
    adata = table(tmp_path, "type,cell,CD3E,LYZ\nT,AAACATACAACC,1,2\nT,AAACATTGAGCT,3,4\nB,AAACATTGATCA,5,6\n")
    assert list(adata.obs_names) == ["AAACATACAACC", "AAACATTGAGCT", "AAACATTGATCA"]
    assert list(adata.obs["type"]) == ["T", "T", "B"]


def test_numbers_that_tools_keep_beside_counts_are_obs(tmp_path: Path) -> None:
    adata = table(
        tmp_path, ",nCount_RNA,percent.mt,CD3E,LYZ,Unnamed: 0\nAAACATACAACC,3,0.5,1,2,0\nAAACATTGAGCT,7,1.5,3,4,1\n"
    )
    assert list(adata.var_names) == ["CD3E", "LYZ"]
    assert adata.obs.to_dict("list") == {"nCount_RNA": [3, 7], "percent.mt": [0.5, 1.5]}


def test_identifiers_and_symbols_of_genes_are_var(tmp_path: Path) -> None:
    ids = ["ENSG00000198851", "ENSG00000090382", "ENSG00000075624"]
    rows = "".join(f"{i},{g},{n},2\n" for n, (i, g) in enumerate(zip(ids, ["CD3E", "LYZ", "LYZ"], strict=True)))
    adata = table(tmp_path, f"gene_id,gene_name,AAACATACAACC,AAACATTGAGCT\n{rows}")
    assert (list(adata.var_names), list(adata.var["gene_ids"])) == (["CD3E", "LYZ", "LYZ-1"], ids)
    assert adata.X.toarray().tolist() == [[0, 1, 2], [2, 2, 2]]


def test_counts_of_featurecounts_keep_what_they_say_of_genes(tmp_path: Path) -> None:
    head = "# Program:featureCounts v2.0.1\nGeneid\tChr\tStart\tEnd\tStrand\tLength\tAAACATACAACC\tAAACATTGAGCT\n"
    rows = "ENSG00000198851\tchr11\t100\t200\t+\t101\t1\t2\nENSG00000090382\tchr12\t1;5\t4;9\t+\t9\t3\t4\n"
    adata = table(tmp_path, head + rows, "a.txt")
    assert list(adata.obs_names) == ["AAACATACAACC", "AAACATTGAGCT"]
    assert list(adata.var["Length"]) == [101, 9]
    assert adata.X.toarray().tolist() == [[1, 3], [2, 4]]


def test_columns_of_text_go_on_over_all_parts_of_a_long_table(tmp_path: Path) -> None:
    rows = "".join(f"{i},cell{i},{i % 3},{'T' if i % 2 else 'B'},{i % 5}\n" for i in range(1200))
    adata = table(tmp_path, f",barcode,CD3E,type,LYZ\n{rows}")
    assert list(adata.obs_names) == [f"cell{i}" for i in range(1200)]
    assert list(adata.obs["type"]) == ["B", "T"] * 600
    assert adata.X.toarray().tolist() == [[i % 3, i % 5] for i in range(1200)]
