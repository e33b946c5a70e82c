"""Text tables of counts: cells x genes or genes x cells, told apart by the names and, failing that, by the sizes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from celbo.data.content import open_text
from celbo.data.loaded import Loaded, named, reading
from celbo.data.scan import Matrix
from celbo.errors import CelboWarning, ReadError

__all__ = ["Orientation", "guess_orientation", "read_table"]

Orientation = Literal["auto", "cells", "genes"]
"""What the rows of a table are."""

_LINES = 512  # lines of a table that are dense at once
_DELIMITERS = (",", "\t", ";", " ")
_CELL_LIKE = re.compile(r"(^|[^A-Za-z])[ACGTN]{8,}([^A-Za-z]|$)|^(cell|barcode|sample|well)[-_. ]?\w*\d", re.IGNORECASE)
_GENE_ID = re.compile(r"^(ENS[A-Z]*G\d{6,}|MT-|mt-|RP[LS]\d|Rp[ls]\d|LINC\d|LOC\d|WBGene\d|FBgn\d|AT[1-5]G\d{5})")
_SYMBOL = re.compile(r"^([A-Z][A-Z0-9]{1,9}|[A-Z][a-z][a-z0-9]{0,8}|C\d+orf\d+)([-.][A-Za-z0-9]{1,6})*$")
_KNOWN = frozenset(
    ["ACTB", "GAPDH", "B2M", "MALAT1", "CD3E", "CD3D", "CD4", "CD8A", "CD14", "CD19", "MS4A1", "NKG7", "LYZ", "PTPRC"]
)


@dataclass(frozen=True)
class _Table:
    values: Matrix
    """(rows, columns) CSR."""
    rows: list[str]
    columns: list[str]


def read_table(path: Path, orientation: Orientation) -> Loaded:
    """Read a .csv, .tsv or .txt of numbers with a line of names and a column of names, perhaps gzipped."""
    with reading(path, "a table of counts"), open_text(path) as file:
        table = _parsed(file, path)
    _check_row_names(table, path)
    taken, reason, sure = ("genes" if orientation == "genes" else "cells"), "as asked for", True
    if orientation == "auto":
        taken, reason, sure = guess_orientation(table.rows, table.columns)
    turned = taken == "genes"
    counts = table.values.T.tocsr() if turned else table.values
    cells, genes = (table.columns, table.rows) if turned else (table.rows, table.columns)
    adata = named(counts, pd.DataFrame(index=pd.Index(cells)), pd.DataFrame(index=pd.Index(genes)))
    said = f"Took the rows as {taken}: {reason}."
    other = "cells" if turned else "genes"
    notes: list[str | CelboWarning] = []
    if not sure:
        fix, flag = (f"Pass {way} if that is wrong." for way in (f"orientation={other!r}", f"--orientation {other}"))
        notes.append(CelboWarning(said, fix=fix, flag=flag))
    return Loaded(adata, "table", notes, {"orientation": taken, "reason": reason})


def _parsed(file: io.TextIOWrapper, path: Path) -> _Table:
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip() and not line.startswith("#"))
    head = list(islice(lines, 2))
    if len(head) < 2:
        fix = "It needs a line of names and at least one line of counts."
        raise ReadError("holds no counts", where=str(path), fix=fix)
    delimiter = max(_DELIMITERS, key=head[1][1].count)  # of those that occur as often, the first
    header, first = _fields(head[0][1], delimiter), _fields(head[1][1], delimiter)
    if len(first) < 2:
        fix = "Separate the values by commas, tabs or semicolons."
        raise ReadError(
            "is not a table", where=str(path), value=f"line {head[1][0]} is {head[1][1].strip()[:60]!r}", fix=fix
        )
    columns = header if len(header) == len(first) - 1 else header[1:]  # R leaves out the name of the names
    if all(_is_number(name) for name in columns):
        fix = "Its first line must name the columns, its first column the rows."
        raise ReadError("has no line of names", where=str(path), value=f"it begins {header[:3]}", fix=fix)
    rows: list[str] = []
    blocks: list[Matrix] = []
    for block in _blocks(iter([head[1]]), lines):
        names, values = _numbers(block, delimiter, columns, path)
        rows += names
        blocks.append(values)
    return _Table(sp.vstack(blocks, format="csr"), rows, columns)


def _blocks(first: Iterator[tuple[int, str]], rest: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    block = [*first, *islice(rest, _LINES)]
    while block:
        yield block
        block = list(islice(rest, _LINES))


def _fields(line: str, delimiter: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(block: list[tuple[int, str]], delimiter: str, columns: list[str], path: Path) -> tuple[list[str], Matrix]:
    """Return the names and the values, (lines, columns) CSR, of some lines."""
    for number, line in block:
        n = line.count(delimiter) + 1 if '"' not in line else len(_fields(line, delimiter))
        if n != len(columns) + 1:
            value = f"line {number} has {n} fields, the first {len(columns) + 1}"
            fix = "It is cut short there, or a name holds the separator; write it again."
            raise ReadError("is not a whole table", where=str(path), value=value, fix=fix)
    lines = [line for _, line in block]
    names, dense = _plain_numbers(lines, delimiter) or _any_numbers(lines, delimiter, columns, path)
    with np.errstate(over="ignore"):
        narrow = dense.astype(np.float32)
    return names, sp.csr_matrix(narrow if np.array_equal(narrow, dense, equal_nan=True) else dense)


def _plain_numbers(lines: list[str], delimiter: str) -> tuple[list[str], NDArray[np.float64]] | None:
    """Read lines of a name and numbers, quickly even where they are long; None where there is more to them."""
    names, rests = [], []
    for line in lines:
        name, _, rest = line.partition(f'"{delimiter}' if line.startswith('"') else delimiter)
        names.append(name.removeprefix('"').strip())
        rests.append(rest)
    try:
        values = np.loadtxt(rests, dtype=np.float64, comments=None, delimiter=delimiter, ndmin=2)
    except ValueError:
        return None
    return (names, values) if len(values) == len(lines) else None  # a line without a number is skipped


def _any_numbers(
    lines: list[str], delimiter: str, columns: list[str], path: Path
) -> tuple[list[str], NDArray[np.float64]]:
    """Read lines that may have quotes and gaps."""
    text = io.StringIO("".join(line if line.endswith("\n") else line + "\n" for line in lines))
    frame = pd.read_csv(text, sep=delimiter, header=None, dtype={0: str})
    names = ["" if pd.isna(name) else str(name).strip() for name in frame[0]]
    values = frame.drop(columns=0)
    _check_numeric(values, names, columns, path)
    return names, values.to_numpy(np.float64)


def _check_numeric(values: pd.DataFrame, names: list[str], columns: list[str], path: Path) -> None:
    for at, dtype in enumerate(values.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            column = values.iloc[:, at]
            row = int(np.flatnonzero(pd.to_numeric(column, errors="coerce").isna() & column.notna())[0])
            value = f"row {names[row][:60]!r}, column {columns[at][:60]!r} is {str(column.iloc[row])[:60]!r}"
            fix = "Keep one column of names and one line of names; everything else must be numbers."
            raise ReadError("holds text among the counts", where=str(path), value=value, fix=fix)


def _check_row_names(table: _Table, path: Path) -> None:
    """Refuse a table whose first column can only be counts."""
    if all(_is_number(name) for name in table.rows) and len(set(table.rows)) < len(table.rows):
        value = f"the first column begins {table.rows[:3]}"
        fix = "Its first column must name the rows."
        raise ReadError("has no column of names", where=str(path), value=value, fix=fix)


def guess_orientation(rows: list[str], columns: list[str]) -> tuple[Literal["cells", "genes"], str, bool]:
    """Tell what the rows of a table are.

    Barcodes are looked for first, then gene identifiers and well-known genes, then the shape of gene symbols; where
    names tell nothing, the longer side is taken for the genes.

    Returns
    -------
    What the rows are, why, and whether the names told.
    """
    of_rows, of_columns = _share(rows, _CELL_LIKE), _share(columns, _CELL_LIKE)
    if max(of_rows, of_columns) >= 0.5 and max(of_rows, of_columns) > 2 * min(of_rows, of_columns):
        side, share = ("row", of_rows) if of_rows > of_columns else ("column", of_columns)
        return ("cells" if side == "row" else "genes"), f"{share:.0%} of the {side} names look like barcodes", True
    n_rows, n_columns = (sum(_is_known_gene(name) for name in names) for names in (rows, columns))
    if max(n_rows, n_columns) > 2 * min(n_rows, n_columns):
        side, n = ("row", n_rows) if n_rows > n_columns else ("column", n_columns)
        return ("genes" if side == "row" else "cells"), f"{n:,} {side} names are gene identifiers or known genes", True
    of_rows, of_columns = _share(rows, _SYMBOL), _share(columns, _SYMBOL)
    if max(of_rows, of_columns) >= 0.6 and max(of_rows, of_columns) > 2 * min(of_rows, of_columns):
        side, share = ("row", of_rows) if of_rows > of_columns else ("column", of_columns)
        return ("genes" if side == "row" else "cells"), f"{share:.0%} of the {side} names look like gene symbols", True
    taken: Literal["cells", "genes"] = "genes" if len(rows) > len(columns) else "cells"
    return taken, f"the names do not tell, and {len(rows):,} rows x {len(columns):,} columns usually lie so", False


def _is_known_gene(name: str) -> bool:
    return name.upper() in _KNOWN or _GENE_ID.match(name) is not None


def _share(names: list[str], pattern: re.Pattern[str]) -> float:
    return sum(bool(pattern.search(name)) for name in names) / max(1, len(names))
