"""The names that people read for genes: symbols where the file has them beside its identifiers."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["SYMBOL_COLUMNS", "display_names", "other_names", "symbol_column", "with_symbols"]

SYMBOL_COLUMNS = (
    "gene_symbols",
    "gene_symbol",
    "symbols",
    "symbol",
    "gene_names",
    "gene_name",
    "feature_name",
    "feature_names",
    "gene_short_name",
    "hgnc_symbol",
    "mgi_symbol",
    "external_gene_name",
    "genesymbol",
    "genename",
    "gene",
    "name",
)
"""Columns of `var` that hold symbols, the surest first; upper and lower case are the same, as are dots and spaces."""
_MISSING = {"", "nan", "none", "na", "n/a", "<na>", "-", "."}
_ACCESSION = re.compile(
    r"^(ENS[A-Z]*[GTP]\d{6,}|(FBgn|WBGene|RGD|MGI|HGNC|GeneID|LOC|NM_|NR_|XM_)[:_]?\d{3,}|\d+)(\.\d+)?$", re.I
)
_MOSTLY = 0.5
"""Share of the names that must look like accessions for the column to be one of them."""


def symbol_column(var: pd.DataFrame) -> str | None:
    """Return the column of `var` that holds the genes' symbols; None where there is none, or the names are symbols.

    Parameters
    ----------
    var
        Table of the genes, indexed by their names.
    """
    known = {re.sub(r"[\s.\-]+", "_", str(column).strip().lower()): column for column in reversed(list(var.columns))}
    names = pd.Series(var.index.astype(str))
    for wanted in SYMBOL_COLUMNS:
        column = known.get(wanted)
        if column is None:
            continue
        symbols = _texts(var[column])
        present = symbols.notna().to_numpy()
        if present.any() and not _accessions(symbols[present]) and (symbols[present] != names[present]).any():
            return str(column)
    return None


def display_names(var: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Return the name that is shown of each gene, each one once.

    That is its symbol where `var` has one (see `SYMBOL_COLUMNS`), else its name in `var_names`. A symbol that several
    genes have is followed by the gene's own name: "TBCE (ENSG00000285053)".

    Parameters
    ----------
    var
        Table of the genes, indexed by their names.

    Returns
    -------
    Names, (genes,), in the order of `var`.
    """
    names = pd.Series(var.index.astype(str))
    column = symbol_column(var)
    if column is None:
        return names.to_numpy(object)
    symbols = _texts(var[column])
    shown = symbols.where(symbols.notna(), names)
    several = shown.duplicated(keep=False) & (shown != names)
    # what was made unique already ("TBCE-1") says all by itself
    own = [a.startswith(b) for a, b in zip(names, shown, strict=True)]
    both = np.where(own, names, shown + " (" + names + ")")
    return np.asarray(np.where(several, both, shown), object)


def other_names(var: pd.DataFrame) -> dict[str, str]:
    """Return what is shown of each gene whose name in `var` is not what people read.

    Parameters
    ----------
    var
        Table of the genes, indexed by their names.
    """
    pairs = zip(var.index.astype(str), display_names(var), strict=True)
    return {name: str(shown) for name, shown in pairs if name != shown}


def with_symbols(table: pd.DataFrame, var: pd.DataFrame) -> pd.DataFrame:
    """Return a table of genes with their symbols as the first column, "symbol", where `var` names them otherwise.

    Parameters
    ----------
    table
        Any table indexed by names of genes.
    var
        Table of the genes, indexed by their names.
    """
    named = other_names(var)
    if not named or table.empty or "symbol" in table:
        return table
    out = table.copy()
    out.insert(0, "symbol", [named.get(str(gene), str(gene)) for gene in table.index])
    return out


def _texts(column: pd.Series[str]) -> pd.Series[str]:
    """The values of a column as strings, None for the missing; indexed by position."""
    values = column.astype(object).reset_index(drop=True)
    texts = values.map(lambda value: value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))
    texts = texts.str.strip()
    return texts.where(values.notna() & ~texts.str.lower().isin(_MISSING), None)


def _accessions(values: pd.Series[str]) -> bool:
    """Whether most of the values are numbers in a database, not symbols."""
    return bool(values.str.match(_ACCESSION).mean() > _MOSTLY)
