"""The files of names beside a matrix: 10x, STARsolo, kallisto, alevin, Parse, and what GEO and R make of them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from celbo.data.content import open_text, refuse_controls
from celbo.data.loaded import reading
from celbo.errors import ReadError, listed

__all__ = ["Names", "is_matrix", "names_beside", "own_words", "read_names", "same_names"]

_TABLE = re.compile(r"\.(tsv|txt|csv|tab)(\.gz)?$", re.IGNORECASE)
_MATRIX = re.compile(r"\.mtx(\.gz)?$", re.IGNORECASE)
_BREAK = re.compile(r"[-_. ]+")
_ROLES = {
    "symbols": ("genes_names", "gene_names", "gene_symbols", "symbols"),
    "features": (
        "features",
        "feature",
        "genes",
        "gene",
        "gene_ids",
        "all_genes",
        "quants_mat_cols",
        "var",
        "var_names",
    ),
    "barcodes": (
        *("barcodes", "barcode", "cells", "cell_names", "cell_ids", "cellids", "cell_barcodes", "cell_metadata"),
        *("quants_mat_rows", "obs", "obs_names"),
    ),
}
"""Words that say what a table of names holds: at the end of its name, or at its beginning."""
_LONGEST_NAMES, _MOST_TIMES = 1 << 25, 20  # characters of a table of names, and how often it may be packed
_MATRIX_WORDS = ("matrix", "mtx", "counts", "count_matrix", "quants_mat")
_NAMES = {
    "features": "features.tsv[.gz] or genes.tsv[.gz]",
    "barcodes": "barcodes.tsv[.gz]",
}
"""What the files are called in errors."""


@dataclass(frozen=True)
class Names:
    """The files of names of one matrix."""

    features: Path
    barcodes: Path
    symbols: Path | None = None
    """kallisto keeps identifiers and symbols in two files."""


def is_matrix(path: Path) -> bool:
    """Tell whether a file is a Matrix Market file by its name."""
    return _MATRIX.search(path.name) is not None and not path.name.startswith(".") and path.is_file()


def names_beside(matrix: Path) -> Names:
    """Return the files with the names of features and cells of a matrix.

    Of several, the one that shares most of its own name with the matrix is taken; one that serves all matrices of a
    folder may have any name.

    Raises
    ------
    ReadError
        If there is none, or several that could be meant.
    """
    roles = _roles_in(matrix.parent)
    own = own_words(matrix)
    symbols = [path for path, words in roles["symbols"] if words == own[: len(words)]]
    features = roles["features"] or roles["symbols"]
    return Names(
        features=_chosen(matrix, own, features, "features"),
        barcodes=_chosen(matrix, own, roles["barcodes"], "barcodes"),
        symbols=symbols[0] if symbols and roles["features"] else None,
    )


def same_names(one: Names, other: Names) -> bool:
    """Tell whether two matrices are of the same cells and features."""
    return (one.features, one.barcodes) == (other.features, other.barcodes)


def _roles_in(folder: Path) -> dict[str, list[tuple[Path, list[str]]]]:
    """Return the tables of names of a folder by what they hold, with the words that are their own."""
    found: dict[str, list[tuple[Path, list[str]]]] = {role: [] for role in _ROLES}
    for path in sorted(folder.iterdir()):
        stem = _TABLE.sub("", path.name)
        if stem == path.name or path.name.startswith(".") or not path.is_file():
            continue
        words = _BREAK.split(stem.lower())
        told = _role(words)
        if told is not None:
            found[told[0]].append((path, told[1]))
    for role, files in found.items():  # genes.tsv beside genes.tsv.gz is the same table twice: the plain one is taken
        found[role] = [(p, words) for p, words in files if p.suffix != ".gz" or p.with_suffix("") not in dict(files)]
    return found


def _role(words: list[str]) -> tuple[str, list[str]] | None:
    """Return what a table holds by the words of its name, and the other words."""
    for role, phrases in _ROLES.items():
        for phrase in sorted(phrases, key=len, reverse=True):
            tail = phrase.split("_")
            if words[-len(tail) :] == tail:
                return role, words[: -len(tail)]
            if words[: len(tail)] == tail:
                return role, words[len(tail) :]
    return None


def own_words(matrix: Path) -> list[str]:
    """Return the words of a matrix's name without those that say that it is one."""
    words = _BREAK.split(_MATRIX.sub("", matrix.name).lower())
    for phrase in sorted(_MATRIX_WORDS, key=len, reverse=True):
        part = phrase.split("_")
        if words[-len(part) :] == part:
            return words[: -len(part)]
        if words[: len(part)] == part:
            return words[len(part) :]
    return words


def _chosen(matrix: Path, own: list[str], files: list[tuple[Path, list[str]]], what: str) -> Path:
    fitting = [(len(words), path) for path, words in files if words == own[: len(words)]]
    longest = max((n for n, _ in fitting), default=0)
    best = [path for n, path in fitting if n == longest]
    if best:
        return best[0]  # of features.tsv and genes.tsv the first
    best = [path for path, _ in files]
    if len(best) == 1:
        return best[0]
    if not best:
        fix = "The three files belong in one folder, with the same prefix if they have one."
        raise ReadError(f"has no {_NAMES[what]} beside it", where=str(matrix), fix=fix)
    fix = "Give each matrix a folder of its own, or let the files of names begin as the matrix does."
    value = listed([path.name for path in best], limit=5)
    raise ReadError(f"has several files of {what} beside it", where=str(matrix), value=value, fix=fix)


def read_names(path: Path) -> pd.DataFrame:
    """Read a table of names without a header: one row a name, text columns 0, 1, ...

    Raises
    ------
    ReadError
        If it is empty or no table.
    """
    with reading(path, "a table of names"):
        if path.stat().st_size == 0:
            raise ReadError("is empty", where=str(path), fix="Copy or download it again.")
        with open_text(path) as file:
            text = _whole_text(file, path)
            first = text.partition("\n")[0]
            separator = "\t" if "\t" in first or "," not in first or ".csv" not in path.name.lower() else ","
            quoting: Literal[0, 3] = 3 if separator == "\t" and '"' not in first else 0
            return pd.read_csv(
                io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False, quoting=quoting
            )


def _whole_text(file: io.TextIOWrapper, path: Path) -> str:
    """Return all of a table of names, once it is known to be a text and of a size that names have."""
    most = max(_LONGEST_NAMES, _MOST_TIMES * path.stat().st_size)
    text = file.read(most)
    if file.read(1):
        value = f"{path.stat().st_size:,} bytes to more than {most:,}"
        fix = "If it is what you think it is, unpack it yourself (gunzip) and give that."
        raise ReadError("unpacks to too much", where=str(path), value=value, fix=fix)
    refuse_controls(text, path, 1)
    return text
