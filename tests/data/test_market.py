"""A Matrix Market file is read as its text says, or refused by the line that it does not fit."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import celbo
from celbo.data.content import most_unpacked
from celbo.errors import CelboWarning, ReadError

INTEGER = "%%MatrixMarket matrix coordinate integer general\n"


def folder_of(folder: Path, body: str | bytes, *, head: str = INTEGER, sizes: str | None = None) -> Path:
    """Write a 10x folder of 2 genes and 3 cells with some lines of values."""
    given = body.encode() if isinstance(body, str) else body
    told = sizes or f"2 3 {len([line for line in given.splitlines() if line.strip()])}"
    (folder / "matrix.mtx").write_bytes(head.encode() + told.encode() + b"\n" + given)
    (folder / "features.tsv").write_text("ENSG1\tCD3E\tGene Expression\nENSG2\tLYZ\tGene Expression\n")
    (folder / "barcodes.tsv").write_text("AAAC-1\nAAAG-1\nAAAT-1\n")
    return folder


def values(folder: Path) -> list[list[float]]:
    return celbo.read(folder).X.toarray().T.tolist()


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ("1 1 1e+05\n2 2 1\n", 100_000),
        ("1 1 7.9\n2 2 1\n", 7.9),
        ("1 1 1.5e3\n2 2 1\n", 1500),
        ("1 1 007\n2 2 1\n", 7),
        ("1 1 16777217\n2 2 1\n", 16_777_217),  # more than single precision holds
        ("1 1 -3\n2 2 1\n", -3),
        ("1\t1\t5\r\n2  2 1 \r\n", 5),
        ("\n1 1 5\n\n2 2 1", 5),
        ("1 1 5.\n2 2 .5\n", 5),
    ],
)
def test_a_value_is_what_the_text_says(tmp_path: Path, body: str, first: float) -> None:
    found = values(folder_of(tmp_path, body))
    np.testing.assert_allclose(found[0][0], first, rtol=1e-7)
    assert found[1][1] in {1, 0.5}


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("1 1 5\n2 2 1 9\n", "line 4 is '2 2 1 9'"),
        ("1 1 5\n2 2\n", "line 4 is '2 2'"),
        ("1 1 5\n2 2 1x\n", "line 4 is '2 2 1x'"),
        ("1 1 5\n2 2 1.5.2\n", "line 4 is '2 2 1.5.2'"),
        ("1 1 5\n2 2 1-2\n", "line 4 is '2 2 1-2'"),
        ("1 1 5\n2 2 0x10\n", "line 4 is '2 2 0x10'"),
        ("1 1 5\n2 2 1e\n", "line 4 is '2 2 1e'"),
        ("1 1 5\n2 2 1,5\n", "line 4 is '2 2 1,5'"),
        ("1 1 5\n2 2.0 1\n", "line 4 is '2 2.0 1'"),
        ("1 1 5\n% remark\n2 2 1\n", "line 4 is '% remark'"),
        (b"1 1 5\n2 2 \x001\n", r"line 4.*"),
        (b"1 1 5\n2 2\x0c 1\n", r"line 4.*"),
        ("1 1 5\n0 2 1\n", "Line 4: Row index out of bounds"),
        ("1 1 5\n3 2 1\n", "Line 4: Row index out of bounds"),
    ],
)
def test_a_line_that_is_not_three_numbers_is_named(tmp_path: Path, body: str | bytes, what: str) -> None:
    with pytest.raises(ReadError, match=what):
        celbo.read(folder_of(tmp_path, body))


def test_a_nul_byte_in_a_long_file_does_not_end_the_process(tmp_path: Path) -> None:
    lines = [f"{1 + at % 2} {1 + at % 3} 1\n" for at in range(3000)]
    with pytest.raises(ReadError, match=r"holds a byte that no text has \(0x00\): line 2,003"):
        celbo.read(folder_of(tmp_path, "".join([*lines[:2000], "\0", *lines[2000:]])))


@pytest.mark.parametrize("sizes", ["2 3 1", "2 3 5", "2 3 -1", "2 3", "2 3 4 5", "2.0 3 2", "x"])
def test_another_number_of_lines_is_an_error(tmp_path: Path, sizes: str) -> None:
    with pytest.raises(ReadError):
        celbo.read(folder_of(tmp_path, "1 1 5\n2 2 1\n", sizes=sizes))


@pytest.mark.parametrize(
    "kind", ["coordinate pattern general", "coordinate complex general", "coordinate real hermitian"]
)
def test_a_matrix_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ReadError, match="is not a matrix of counts"):
        celbo.read(folder_of(tmp_path, "1 1 5\n2 2 1\n", head=f"%%MatrixMarket matrix {kind}\n"))


def test_a_header_that_boasts_takes_no_memory(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot hold as many values as it says"):
        celbo.read(folder_of(tmp_path, "1 1 5\n2 2 1\n", sizes="2 3 900000000000"))
    with pytest.raises(ReadError, match="does not fit the names beside it"):
        celbo.read(folder_of(tmp_path, "1 1 5\n2 2 1\n", sizes="900000000000 3 2"))


def test_a_dense_file_is_read_too(tmp_path: Path) -> None:
    head = "%%MatrixMarket matrix array real general\n"
    body = "1\n2\n3e1\n4\n0.5\n6\n"
    assert values(folder_of(tmp_path, body, head=head, sizes="2 3")) == [[1, 30, 0.5], [2, 4, 6]]


def test_a_position_listed_twice_is_said(tmp_path: Path) -> None:
    genes, cells = 40, 10
    lines = [f"{gene} {cell} 1\n" for cell in range(1, cells + 1) for gene in range(1, genes + 1)]
    folder_of(tmp_path, "".join([*lines, "7 3 5\n"]), sizes=f"{genes} {cells} {genes * cells + 1}")
    (tmp_path / "features.tsv").write_text("".join(f"ENSG{gene}\tG{gene}\n" for gene in range(genes)))
    (tmp_path / "barcodes.tsv").write_text("".join(f"CELL{cell}\n" for cell in range(cells)))
    with pytest.warns(CelboWarning, match=r"added up: 1 of 401 stored values, the first is row 6, column 2"):
        read = celbo.read(tmp_path)
    assert read.X[2, 6] == 6
    assert "1 of 401" in str(celbo.check(tmp_path))


def test_many_positions_listed_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="lists the same positions again and again"):
        celbo.read(folder_of(tmp_path, "1 1 5\n1 1 1\n2 2 1\n"))


def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, "1 1 5\n")
    body = INTEGER + "% " + "x" * 150_000_000 + "\n2 3 1\n1 1 5\n"
    with gzip.open(tmp_path / "matrix.mtx.gz", "wt", compresslevel=9) as file:
        file.write(body)
    (tmp_path / "matrix.mtx").unlink()
    assert most_unpacked(tmp_path / "matrix.mtx.gz") < len(body)
    with pytest.raises(ReadError, match="unpacks to too much"):
        celbo.read(tmp_path)


def test_a_file_gzipped_into_itself_ends(tmp_path: Path) -> None:
    text = b"cell,A,B\nx,1,2\n"
    for _ in range(4):
        text = gzip.compress(text)
    (tmp_path / "a.csv.gz").write_bytes(text)
    with pytest.raises(ReadError, match="gzipped three times or more"):
        celbo.read(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("name", ["features.tsv", "barcodes.tsv"])
def test_names_with_a_nul_byte_are_refused(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path, "1 1 5\n")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:3] + b"\0" + whole[4:])
    with pytest.raises(ReadError, match="holds what no text file holds: line 1 has the character 0x00"):
        celbo.read(tmp_path)


def test_a_table_with_a_nul_byte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell,CD3E,LYZ\nc1,1,2\nc2,3,\0004\n")
    with pytest.raises(ReadError, match="line 3 has the character 0x00"):
        celbo.read(tmp_path / "a.csv")
