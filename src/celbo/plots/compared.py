"""What the figures read from a table of differential expression: comparisons, calls, evidence and top genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from celbo.data.groups import REST
from celbo.errors import InputError, OptionError, listed

__all__ = [
    "REST", "called", "comparisons_of", "evidence", "expression_of", "one_comparison", "ranked_genes",
    "require", "top_genes",
]  # fmt: skip

Doubles = NDArray[np.float64]

_CLEAR = 3.0
"""Log odds (about 20 to 1) from which a gene is taken as surely different where the table has no calls."""


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise where a table lacks a column.

    Raises
    ------
    InputError
        Naming the columns that are missing, or saying that it is no table at all.
    """
    if not isinstance(table, pd.DataFrame):
        fix = "Give what model.differential_expression(...) returns."
        raise InputError("is not a DataFrame", where="the table", value=type(table).__name__, fix=fix)
    missing = [name for name in columns if name not in table]
    if missing:
        fix = "Give what model.differential_expression(...) returns."
        raise InputError(f"lacks columns: {listed(missing)}", where="the table of differential expression", fix=fix)


def comparisons_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the names (group1, group2) of the comparisons of a table, in its order."""
    require(table, ["group1", "group2"])
    pairs = zip(table["group1"].astype(str), table["group2"].astype(str), strict=True)
    return list(dict.fromkeys(pairs))


def one_comparison(table: pd.DataFrame, comparison: str | Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows of one comparison, in their order.

    Parameters
    ----------
    table
        `model.differential_expression(...)`.
    comparison
        Name of group 1, or the names of both groups; None where the table holds one comparison only.

    Raises
    ------
    OptionError
        If there are several comparisons and none is named, or none or several of that name.
    InputError
        If the table is empty or lacks a column.
    """
    known = comparisons_of(table)
    if not known:
        raise InputError("has no rows", where="the table of differential expression")
    wanted = [comparison] if isinstance(comparison, str) else None if comparison is None else [*map(str, comparison)]
    found = known if wanted is None else [pair for pair in known if list(pair[: len(wanted)]) == wanted]
    if len(found) != 1:
        what = "names several comparisons" if len(found) > 1 else "names no comparison of the table"
        fix = f"Name group 1, or (group 1, group 2), of: {listed(found or known)}."
        raise OptionError(what, where="comparison", value=repr(comparison), fix=fix)
    one, other = found[0]
    return table[(table["group1"].astype(str) == one) & (table["group2"].astype(str) == other)]


def evidence(rows: pd.DataFrame) -> Doubles:
    """Return the natural log odds that each gene differs, (rows,); of P(higher), that its direction is right."""
    odds = rows["bayes_factor"].to_numpy(np.float64)
    return np.abs(odds) if "proba_higher" in rows else odds


def called(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return 1 for a gene that is called higher in group 1, -1 for lower, 0 for one that is not called; (rows,)."""
    is_de = rows["is_de"].to_numpy(bool) if "is_de" in rows else evidence(rows) >= _CLEAR
    return np.where(is_de, np.sign(rows["lfc_median"].to_numpy(np.float64)), 0).astype(np.int64)


def top_genes(rows: pd.DataFrame, n_genes: int = 3, *, higher: bool = True) -> list[str]:
    """Return the genes that tell a group apart best, the best first: the first of `ranked_genes`.

    Parameters
    ----------
    rows
        The rows of one comparison.
    n_genes
        Genes to return; fewer where fewer are on that side of zero.
    higher
        Genes higher in group 1; False: those higher in group 2.
    """
    return [str(gene) for gene in dict.fromkeys(ranked_genes(rows, higher=higher).index)][:n_genes]


def ranked_genes(rows: pd.DataFrame, *, higher: bool | None = True) -> pd.DataFrame:
    """Return the genes of a comparison, those that tell its groups apart best first: the one ranking of markers.

    The called ones come first, by the column `marker_score` (`celbo.posterior.markers`) or, in a table without it, by
    the end of the credible interval of the fold change that is nearer to zero; where these are equal, by evidence.

    Parameters
    ----------
    rows
        The rows of one comparison.
    higher
        Genes higher in group 1; False: those higher in group 2; None: both.
    """
    if higher is not None:
        rows = rows[(1 if higher else -1) * rows["lfc_median"].to_numpy(np.float64) > 0]
    size = _size(rows)
    return rows.iloc[np.lexsort((np.arange(len(rows)), -evidence(rows), -size, called(rows) == 0))]


def _size(rows: pd.DataFrame) -> Doubles:
    """Return the size of the score of each gene; (rows,)."""
    if "marker_score" in rows:
        score: Doubles = np.abs(rows["marker_score"].to_numpy(np.float64))
        return score
    ends = [name for name in ("lfc_lower", "lfc_upper") if name in rows] or ["lfc_median"]
    sign = np.sign(rows["lfc_median"].to_numpy(np.float64))
    size: Doubles = np.min([sign * rows[name].to_numpy(np.float64) for name in ends], axis=0)
    return size


def expression_of(
    table: pd.DataFrame, genes: Sequence[str] | None = None, *, n_genes: int = 3
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean expression and detection of genes in each group that a table compares: what a dot plot shows.

    Parameters
    ----------
    table
        `model.differential_expression(...)`, with all genes of each comparison.
    genes
        Names; None takes the `n_genes` of each group that stand for it (see `top_genes`).
    n_genes
        Genes of each group.

    Returns
    -------
    Log1p of the expected share times 10,000, and share of cells with a count; (groups, genes) each. The groups are
    those that are compared, in the table's order; "rest" is one where a single group is compared with it.

    Raises
    ------
    InputError
        If the table lacks a column, or one of the genes in a comparison.
    """
    columns = ["scale1", "scale2", "detection1", "detection2"]
    require(table, [*columns, "bayes_factor", "lfc_median"])
    parts = {pair: one_comparison(table, pair) for pair in comparisons_of(table)}
    chosen = list(dict.fromkeys(genes if genes is not None else _standing(parts, n_genes)))
    mean: dict[str, Any] = {}
    fraction: dict[str, Any] = {}
    for side in (1, 2):
        for pair, rows in parts.items():
            group = pair[side - 1]
            if group in mean or (group == REST and len(parts) > 1):
                continue
            absent = [gene for gene in chosen if gene not in rows.index]
            if absent:
                fix = "Give the whole table, and genes of the model."
                raise InputError(f"lacks genes: {listed(absent)}", where=f"the comparison {pair}", fix=fix)
            found = rows[~rows.index.duplicated()].loc[chosen]
            mean[group] = np.log1p(1e4 * found[f"scale{side}"].to_numpy(np.float64))
            fraction[group] = found[f"detection{side}"].to_numpy(np.float64)
    first, second = (pd.DataFrame.from_dict(d, orient="index", columns=pd.Index(chosen)) for d in (mean, fraction))
    return first, second


def _standing(parts: dict[tuple[str, str], pd.DataFrame], n_genes: int) -> list[str]:
    """Return the genes that stand for the groups; those higher in group 2 only where it is a group of its own."""
    taken: list[str] = []
    for (_, other), rows in parts.items():
        for higher in (True, False) if other != REST or len(parts) == 1 else (True,):
            ranked = top_genes(rows, n_genes + len(taken), higher=higher)
            taken += [gene for gene in ranked if gene not in taken][:n_genes]
    return taken
