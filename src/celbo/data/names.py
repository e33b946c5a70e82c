"""What the names of genes and cells tell: that they are none, were spoilt on the way, or are not of genes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.findings import Finding, error, note, warning
from celbo.errors import SchemaError, listed

__all__ = ["Genomes", "check_names", "genomes_of"]

Names = NDArray[np.object_]
_QUOTED = re.compile(r"""b?(["']).*\1""", re.DOTALL)
_NUMBER = re.compile(r"\d+(\.0)?")
_PLACEHOLDER = re.compile(r"(g|v|var|gene|feature|c|cell|obs)[ ._-]?\d+", re.IGNORECASE)
_MONTH = "jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sept?|oct|okt|nov|dec|dez"
_DATE = re.compile(
    rf"\d{{1,2}}[-. /]{{1,2}}({_MONTH})\.?([-. /]\d{{2,4}})?|({_MONTH})[-. /]\d{{1,4}}"
    r"|(19|20)\d\d-[01]\d-[0-3]\d([ T]00:00:00)?|\d{1,2}/\d{1,2}/(\d\d){1,2}|\d\.\d+E\+\d+",
    re.IGNORECASE,
)
_PEAK = re.compile(r"\w[\w.]*[:_-]\d{2,}[-_]\d{2,}")
_ANTIBODY = re.compile(
    r"(ADT|HTO|CITE|AB|Ab|adt|hto|prot|protein)[_:-].+|.+[_. -](ADT|HTO|adt|hto|prot|TotalSeq[A-D]?)|.*TotalSeq.*"
    r"|(?i:hash-?tag)[ _-]?\d+.*|anti-(human|mouse).*"
)
_GUIDE = re.compile(r"(sgRNA|gRNA|sg|crispr|CRISPR)[_-].+|sg[A-Z0-9]{3,}.*|(?i:(non|safe)[_-]?target(ing)?)[_-].*")
_SPIKE_IN = re.compile(r"ERCC-\d{5}")
_SUMMARY = re.compile(
    r"__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)"
    r"|N_(unmapped|multimapping|noFeature|ambiguous)|Unassigned_\w+"
    r"|(?i:(grand[ _.]?)?totals?|sum|n_?counts?|n_?genes|n(Count|Feature)_RNA|library[ _.]?size)"
    r"|(?i:total[ _.](counts|reads|umis?))"
)
"""Rows that HTSeq, STAR and featureCounts, spreadsheets and Seurat write beside the genes."""
_TYPE_COLUMNS = ("feature_types", "feature_type", "modality")
_GENE_TYPES = {"gene expression", "gene", "genes", "rna", "gex", "mrna", "expression", "nan", ""}
_ENSEMBL = re.compile(r"(?:.*_)?(ENS[A-Z]*?)G\d{6,}")
_ASSEMBLY = re.compile(
    r"(GRC[a-z]\d{1,2}|hg\d{2}|mm\d{1,2}|rn\d|danRer\d+|human|mouse|rat|hsapiens|mmusculus|hs|mm)[_-]+(?=\w)",
    re.IGNORECASE,
)
_SPECIES = {"ENS": "human", "ENSMUS": "mouse", "ENSRNO": "rat", "ENSDAR": "zebrafish", "ENSMMU": "macaque"}
_UPPER = re.compile(r"(?!ENS[A-Z]*\d{6}|LOC\d|[A-Z]{1,2}\d{5})[A-Z][A-Z0-9-]*[A-Z][A-Z0-9-]*")
"""Human symbols, but no identifiers and accessions, which are in capitals in every species."""
_TITLE = re.compile(r"[A-Z][a-z][a-zA-Z0-9-]+")
_FEWEST, _SHARE = 20, 0.05
"""Genes of a second species, and their share, before it is one: transgenes and viruses are fewer."""
_LOOKED_AT = 20_000
"""Cells whose names are looked at: what spoils one spoils them all."""


def check_names(adata: AnnData, genes: Names) -> Iterable[Finding]:
    """Check that cells and genes have names, no two the same, which name genes and cells.

    Parameters
    ----------
    adata
        The data; (cells, genes).
    genes
        Names of the genes of the matrix that is checked; (genes,) str.
    """
    cells = np.array([name if type(name) is str else str(name) for name in adata.obs_names], dtype=object)
    for names, what, slot in ((genes, "genes", "var"), (cells, "cells", "obs")):
        yield from _check_there(names, what, slot)
        some = names if names.size <= _LOOKED_AT else names[np.linspace(0, names.size - 1, _LOOKED_AT).astype(np.int64)]
        yield from _check_spelling(some, what, slot)
    yield from _check_numbers(genes, cells, adata.var)
    yield from _check_dates(genes)
    yield from _check_kinds(genes, adata.var)


def _check_there(names: Names, what: str, slot: str) -> Iterable[Finding]:
    """Find names that are empty or occur more than once."""
    where = f"adata.{slot}_names"
    empty = np.flatnonzero([name.strip().lower() in {"", "nan"} for name in names])
    if empty.size:
        value = f"{empty.size:,}, the first at position {empty[0]}"
        fix, flag = f"Give each a name in adata.{slot}_names.", f"Name all {what} in the file."
        yield error(SchemaError, f"holds {what} without a name", where=where, value=value, fix=fix, flag=flag)
    twice = [name for name, n in Counter(names).items() if n > 1 and name.strip()]
    if twice:
        fix = f"Make them unique: adata.{slot}_names_make_unique()."
        flag = f"Give each of the {what} its own name in the file."
        value = listed(twice, limit=5)
        yield error(SchemaError, f"names several {what} the same", where=where, value=value, fix=fix, flag=flag)


def _check_spelling(names: Names, what: str, slot: str) -> Iterable[Finding]:
    """Find names in quotes, or with blanks around them: they match no other list of names."""
    where = f"adata.{slot}_names"
    quoted = _those(names, _QUOTED.fullmatch)
    if quoted.size:
        fix = "They match no other list of names. "
        call = f"""Take the quotes off: adata.{slot}_names = adata.{slot}_names.str.strip("b'\\"")."""
        if not any(name.startswith("b") for name in quoted):
            call = f"""Take the quotes off: adata.{slot}_names = adata.{slot}_names.str.strip("'\\"")."""
        flag = "Write the file again without quotes (in R: write.table(..., quote = FALSE))."
        yield warning(
            SchemaError,
            f"holds {what} in quotes",
            where=where,
            value=_share(quoted, names),
            fix=fix + call,
            flag=fix + flag,
        )
    padded = _those(names, lambda name: name != name.strip() and name.strip())
    if padded.size:
        fix = "They match no other list of names. "
        call = f"Take them off: adata.{slot}_names = adata.{slot}_names.str.strip()."
        flag = "Write the file again without them."
        what = f"holds {what} with blanks before or after the name"
        yield warning(SchemaError, what, where=where, value=_share(padded, names), fix=fix + call, flag=fix + flag)


def _check_numbers(genes: Names, cells: Names, var: pd.DataFrame) -> Iterable[Finding]:
    """Find genes and cells that have a number in place of a name."""
    numbers = _those(genes, _NUMBER.fullmatch)
    if numbers.size >= max(1, min(10, 0.01 * genes.size)):
        fix = "Lists of marker genes will be numbers, and mitochondrial genes are not found. "
        column = _column_of_names(var)
        call = "Put the names back: adata.var_names = [...]."
        if column is not None:
            call = f"Is it adata.var[{column!r}]? Then adata.var_names = adata.var[{column!r}].astype(str)."
        flag = "Write the file again with the names of the genes" + (f" (its column {column!r}?)." if column else ".")
        value, what = _share(numbers, genes), "holds numbers in place of gene names"
        # counted from 0 they are AnnData's own, of an array without names: nothing was lost on the way
        usual = column is None and list(genes) == [str(at) for at in range(genes.size)]
        says = note if usual else warning
        yield says(SchemaError, what, where="adata.var_names", value=value, fix=fix + call, flag=fix + flag)
    elif genes.size >= 10 and _those(genes, _PLACEHOLDER.fullmatch).size >= 0.9 * genes.size:
        fix = "Nothing needs to be done, but lists of marker genes will name no gene that a reader knows."
        value = listed(genes, limit=3)
        yield note(
            SchemaError, "holds numbered names, not those of genes", where="adata.var_names", value=value, fix=fix
        )
    numbers = _those(cells, _NUMBER.fullmatch)
    if numbers.size > 0.5 * cells.size:
        fix = "They match no other table of these cells, such as one of cell types; barcodes would. "
        call, flag = (
            "Put them back: adata.obs_names = [...].",
            "Write the file again with the barcodes, if you have them.",
        )
        value, what = listed(cells, limit=3), "holds numbers in place of cell names"
        yield note(SchemaError, what, where="adata.obs_names", value=value, fix=fix + call, flag=fix + flag)


def _check_dates(genes: Names) -> Iterable[Finding]:
    dates = _those(genes, _DATE.fullmatch)
    if dates.size:
        fix = (
            "A spreadsheet did that: MARCH1 became 1-Mar, SEPT2 2-Sep, DEC1 1-Dec. Take the file as it was before it "
            "was opened there; two genes may share one date, so the names cannot all be told."
        )
        what = "holds gene names that are dates"
        yield warning(SchemaError, what, where="adata.var_names", value=_share(dates, genes), fix=fix)


# ------------------------------------------------------------------------------------------------- what is not a gene


def _check_kinds(genes: Names, var: pd.DataFrame) -> Iterable[Finding]:
    """Find features that are not genes: by the column that says so, or else by their names."""
    column = next((name for name in _TYPE_COLUMNS if name in var.columns and len(var) == genes.size), None)
    typed = pd.Series(dtype=object) if column is None else var[column].astype(str)
    other = ~typed.str.strip().str.lower().isin(_GENE_TYPES).to_numpy(bool)
    if other.any():
        yield _other_features(typed, other, str(column))
        return
    for what, pattern in (("peaks", _PEAK), ("antibodies", _ANTIBODY), ("guide RNAs", _GUIDE)):
        found = _those(genes, pattern.fullmatch)
        if found.size >= min(2, genes.size):
            yield _not_genes(what, found, genes)
    summaries = _those(genes, _SUMMARY.fullmatch)
    if summaries.size:
        fix = "They would be trained on as genes are, and change the total of every cell. "
        call = f"Leave them out: adata = adata[:, ~adata.var_names.isin({summaries[:8].tolist()})].copy()."
        flag = "Take them out of the file, or name the genes to train on in --genes."
        what, value = "holds sums or reads without a gene among the genes", _share(summaries, genes)
        yield warning(SchemaError, what, where="adata.var_names", value=value, fix=fix + call, flag=fix + flag)
    spiked = _those(genes, _SPIKE_IN.fullmatch)
    if spiked.size:
        fix = "They count towards the total of a cell. If you do not want that, "
        call = "leave them out: adata[:, ~adata.var_names.str.startswith('ERCC-')].copy()."
        flag = "name the genes to train on in --genes."
        what = "holds spike-ins among the genes"
        value = _share(spiked, genes)
        yield note(SchemaError, what, where="adata.var_names", value=value, fix=fix + call, flag=fix + flag)


def _other_features(types: pd.Series[str], other: NDArray[np.bool_], column: str) -> Finding:
    sizes = types[other].value_counts()
    value = ", ".join(f"{n:,} {name!r}" for name, n in sizes.items()) + f" of {other.size:,}"
    genes = types[~other]
    fix = "celbo's models are of the counts of genes. "
    if genes.empty:
        call = flag = "Take what it says of these with care, or give it the matrix of the genes."
    else:
        name = genes.value_counts().index[0]
        call = f"Keep these: adata = adata[:, adata.var[{column!r}] == {name!r}].copy()."
        flag = f"Give a file that holds only the {name!r} features, or name the genes to train on in --genes."
    what = "holds features that are not genes"
    return warning(SchemaError, what, where=f"adata.var[{column!r}]", value=value, fix=fix + call, flag=fix + flag)


def _not_genes(what: str, found: Names, genes: Names) -> Finding:
    whole = found.size == genes.size
    fix = f"celbo's models are of the counts of genes; {what} have another depth and other noise. "
    call = "Leave them out: adata = adata[:, ~adata.var_names.isin(names)].copy()."
    flag = "Give a file without them, or name the genes to train on in --genes."
    if whole:
        call = flag = "Take what it says of them with care, or give it the matrix of the genes."
    told = f"holds {what}, not genes" if whole else f"holds {what} among the genes"
    return warning(
        SchemaError, told, where="adata.var_names", value=_share(found, genes), fix=fix + call, flag=fix + flag
    )


# -------------------------------------------------------------------------------------------------------- two species


@dataclass(frozen=True)
class Genomes:
    """The genes of two species in one matrix."""

    names: tuple[str, str]
    """The species, that with more genes first."""
    first: NDArray[np.bool_]
    """Genes of the first; (genes,)."""
    second: NDArray[np.bool_]
    """Genes of the second; (genes,)."""


def genomes_of(genes: Names) -> Genomes | None:
    """Tell the genes of two species apart: by the assembly before the name, the Ensembl prefix, or capital letters.

    Human symbols are in capitals (CD3E), those of mouse and rat begin with one (Cd3e).

    Parameters
    ----------
    genes
        Names; (genes,) str.
    """
    for kind_of in (_assembly, _ensembl, _case):
        kinds = np.array([kind_of(name) for name in genes], dtype=object)
        sizes = Counter(kind for kind in kinds if kind).most_common(2)
        if len(sizes) == 2 and sizes[1][1] >= max(_FEWEST, _SHARE * genes.size):
            names = sizes[0][0], sizes[1][0]
            return Genomes(names, kinds == names[0], kinds == names[1])
    return None


def _assembly(name: str) -> str:
    found = _ASSEMBLY.match(name)
    return found[1] if found else ""


def _ensembl(name: str) -> str:
    found = _ENSEMBL.match(name)
    return _SPECIES.get(found[1], found[1]) if found else ""


def _case(name: str) -> str:
    if _TITLE.fullmatch(name):
        return "mouse (or rat)"
    return "human" if len(name) > 2 and _UPPER.fullmatch(name) else ""


# ------------------------------------------------------------------------------------------------------------- helpers


def _those(names: Names, matches: Callable[[str], object]) -> Names:
    found: Names = names[np.fromiter((bool(matches(name)) for name in names), bool, names.size)]
    return found


def _share(found: Names, names: Names) -> str:
    return f"{found.size:,} of {names.size:,}: {listed(found, limit=5)}"


def _column_of_names(var: pd.DataFrame) -> str | None:
    """Return the first column of `var` with words that differ from gene to gene."""
    for name in var.columns:
        words = var[name].astype(str)
        if words.str.contains("[A-Za-z]{2}").mean() > 0.9 and words.nunique() > 0.9 * len(words):
            return str(name)
    return None
