"""Text tables of counts: cells x genes or genes x cells, told apart by the names and, failing that, by the sizes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from celbo.data.content import open_text
from celbo.data.loaded import Loaded, named, reading
from celbo.data.scan import Matrix
from celbo.data.schema import Orientation
from celbo.data.table_text import Table, is_number, numbered, parsed
from celbo.errors import CelboWarning, ReadError, listed

__all__ = ["guess_orientation", "read_table"]

_CELL_LIKE = re.compile(r"(^|[^A-Za-z])[ACGTN]{8,}([^A-Za-z]|$)|^(cell|barcode|sample|well)[-_. ]?\w*\d", re.IGNORECASE)
_GENE_ID = re.compile(r"^(ENS[A-Z]*G\d{6,}|MT-|mt-|RP[LS]\d|Rp[ls]\d|LINC\d|LOC\d|WBGene\d|FBgn\d|AT[1-5]G\d{5})")
_SYMBOL = re.compile(r"^([A-Z][A-Z0-9]{1,9}|[A-Z][a-z][a-z0-9]{0,8}|C\d+orf\d+)([-.][A-Za-z0-9]{1,6})*$")
_KNOWN = frozenset(
    ["ACTB", "GAPDH", "B2M", "MALAT1", "CD3E", "CD3D", "CD4", "CD8A", "CD14", "CD19", "MS4A1", "NKG7", "LYZ", "PTPRC"]
)


_SYMBOL_COLUMN = re.compile(r"name|symbol", re.IGNORECASE)
_OF_A_CELL = re.compile(
    r"^(n_?count.*|n_?feature.*|n_counts|n_genes(_by_counts)?|total_counts.*|log1p_total_counts|pct_counts.*|"
    r"percent[._](mt|mito|rb|ribo)|seurat_clusters|leiden|louvain|doublet_score.*|s[._]score|g2m[._]score|"
    r"size_?factors?|(umap|tsne|pc)_\d+|Unnamed: \d+)$",
    re.IGNORECASE,
)
"""Columns of numbers that tools keep beside the counts of cells."""
_OF_A_GENE = re.compile(r"^(chr(omosome)?|start|end|strand|(gene_|effective_)?length|gc(_content)?)$", re.IGNORECASE)
"""Columns of numbers that tools keep beside the counts of genes."""
_NO_GENE = frozenset(["ID", "CELL", "CELLS", "BARCODE", "INDEX", "NAME", "X", "SAMPLE", "GENE", "GENES"])


def read_table(path: Path, orientation: Orientation) -> Loaded:
    """Read a .csv, .tsv or .txt of numbers with a line of names and a column of names, perhaps gzipped.

    Columns of text are annotations of the rows: into `obs` where these are cells, into `var` where they are genes.
    Where the first column numbers the rows, or names several the same, the first column of text without repetition
    names them; genes that have an Ensembl identifier and a symbol are named by the symbol.
    """
    with reading(path, "a table of counts"), open_text(path) as file:
        table = parsed(file, path)
    rows, about, told = _named_rows(table, path)
    taken, reason, sure = ("genes" if orientation == "genes" else "cells"), "as asked for", True
    if orientation == "auto":
        taken, reason, sure = guess_orientation(rows, table.columns)
    values, columns, notes = _without_annotations(table, taken, about)
    if taken == "genes":
        rows = _by_symbol(rows, about)
    notes = [*table.notes, *told, *notes, *([_said(taken, reason)] if not sure else [])]
    frame = pd.DataFrame({name: _typed(told) for name, told in about.items()}, index=pd.Index(rows))
    other = pd.DataFrame(index=pd.Index(columns))
    adata = named(values.T.tocsr(), other, frame) if taken == "genes" else named(values, frame, other)
    return Loaded(adata, "table", notes, {"orientation": taken, "reason": reason})


def _said(taken: str, reason: str) -> CelboWarning:
    """Return the warning of a guess, with what to do if it is wrong."""
    other = "cells" if taken == "genes" else "genes"
    fix, flag = (f"Pass {way} if that is wrong." for way in (f"orientation={other!r}", f"--orientation {other}"))
    return CelboWarning(f"Took the rows as {taken}: {reason}.", fix=fix, flag=flag)


def _named_rows(table: Table, path: Path) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Return the names of the rows, the columns of text that are not these names, and a note."""
    about = dict(table.texts)
    counted = all(is_number(name) for name in table.rows)
    unique = next((name for name, told in about.items() if len(set(told)) == len(told) and "" not in told), None)
    if unique is not None and (counted or len(set(table.rows)) < len(table.rows)):
        rows = about.pop(unique)
        if table.corner and not numbered(table.rows):
            about = {table.corner: table.rows, **about}
        return rows, about, [f"The column {unique!r} names the rows."]
    gene = table.corner.upper() not in _NO_GENE and _is_known_gene(table.corner)
    if counted and (len(set(table.rows)) < len(table.rows) or (gene and not numbered(table.rows))):
        value = f"the first column begins {table.rows[:3]}"
        fix = "Its first column must name the rows."
        raise ReadError("has no column of names", where=str(path), value=value, fix=fix)
    return table.rows, about, []


def _without_annotations(
    table: Table, taken: str, about: dict[str, list[str]]
) -> tuple[Matrix, list[str], list[str | CelboWarning]]:
    """Return the counts and their columns, and move columns of numbers that are no counts into `about`."""
    known = _OF_A_GENE if taken == "genes" else _OF_A_CELL
    apart = [at for at, name in enumerate(table.columns) if known.match(name)]
    if taken == "genes" and len(apart) == 1 and not about:
        apart = []  # one column called "end" may well be a sample
    kept = [at for at in range(len(table.columns)) if at not in set(apart)]
    named_so = [*about, *(table.columns[at] for at in apart)]
    dense = table.values[:, apart].toarray()
    for place, at in enumerate(apart):
        if not table.columns[at].startswith("Unnamed"):
            about[table.columns[at]] = [f"{value:.15g}" for value in dense[:, place]]
    slot = "var" if taken == "genes" else "obs"
    notes: list[str | CelboWarning] = [f"Took {listed(named_so, limit=5)} for {slot}, not counts."] if named_so else []
    values = table.values[:, kept] if apart else table.values
    return values, [table.columns[at] for at in kept], notes


def _by_symbol(rows: list[str], about: dict[str, list[str]]) -> list[str]:
    """Return symbols in place of Ensembl identifiers where a column has them; the identifiers go into `gene_ids`."""
    symbols = next((name for name in about if _SYMBOL_COLUMN.search(name)), None)
    if symbols is None or _share(rows, _GENE_ID) < 0.5 or _share(about[symbols], _GENE_ID) > 0.5:
        return rows
    told = about.pop(symbols)
    about["gene_ids"] = rows
    return [symbol or row for symbol, row in zip(told, rows, strict=True)]


def _typed(told: list[str]) -> Any:
    """Return a column of text as truth values or numbers where it holds nothing else."""
    if {value.lower() for value in told} <= {"true", "false"}:
        return pd.Series([value.lower() == "true" for value in told]).array
    numbers = pd.to_numeric(pd.Series(told, dtype=object), errors="coerce")
    return numbers.array if not numbers.isna().any() else pd.Series(told, dtype=object).array


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
