"""Matrix Market files with the names beside them: 10x, old and new layout, STARsolo, kallisto, alevin, Parse."""

from __future__ import annotations

import re
from contextlib import closing
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from celbo.data.beside import Names, is_matrix, names_beside, own_words, read_names, same_names
from celbo.data.loaded import Loaded, gene_expression_only, reading, repeats_told, with_symbols
from celbo.data.market import narrowed, open_market
from celbo.data.scan import Matrix
from celbo.errors import ReadError, listed

__all__ = ["read_mtx", "samples_in"]

_PLAIN = ("matrix.mtx", "matrix.mtx.gz")
_SUMS = ({"spliced", "unspliced"}, {"mature", "nascent"})
"""Parts of the counts of the same cells that together are all of them."""
_PARTS = frozenset(["spliced", "unspliced", "mature", "nascent", "ambiguous", "cell", "nucleus", "total"])
_CELLS_FIRST = re.compile(r"cells_x_genes|quants_mat|^DGE", re.IGNORECASE)
"""Names under which tools write cells x genes."""
_TYPES = re.compile(r"^(Gene Expression|Peaks|Custom|Chromatin Accessibility|.* Capture)$")
_NUMBERED_FROM = (0, 1)


def samples_in(folder: Path) -> tuple[list[tuple[Path, ...]], list[str]]:
    """Return the matrices of a folder, those of the same cells together, and notes.

    A `matrix.mtx` stands for the whole folder. Of a raw and a filtered matrix of one sample, the filtered one is taken.

    Returns
    -------
    samples
        For each sample its matrix, or the matrices of its spliced, unspliced, ... counts.
    notes
        What the user should hear about it.
    """
    plain = [folder / end for end in _PLAIN if (folder / end).is_file()]
    if plain:
        return [(plain[0],)], []
    found = {path.name: path for path in sorted(folder.iterdir()) if is_matrix(path)}
    matrices = [path for name, path in found.items() if not (name.endswith(".gz") and name[:-3] in found)]
    matrices, notes = _without_droplets(matrices)
    if len(matrices) == 1:
        return [(matrices[0],)], notes
    samples: list[tuple[Names, list[Path]]] = []
    for matrix in matrices:
        names = names_beside(matrix)
        same = next((paths for other, paths in samples if same_names(names, other)), None)
        if same is None:
            samples.append((names, [matrix]))
        else:
            same.append(matrix)
    return [tuple(paths) for _, paths in samples], notes


def _without_droplets(matrices: list[Path]) -> tuple[list[Path], list[str]]:
    """Leave out the raw matrix of a sample that has a filtered one."""
    words = {path: own_words(path) for path in matrices}
    filtered = [[w for w in own if w != "filtered"] for own in words.values() if "filtered" in own]
    raw = [p for p, own in words.items() if {"raw", "unfiltered"} & set(own) and _rest(own) in filtered]
    kept = [path for path in matrices if path not in raw]
    return kept, [
        f"Left out {listed([p.name for p in raw], limit=3)}: there is a filtered matrix beside."
    ] if raw else []


def _rest(words: list[str]) -> list[str]:
    return [word for word in words if word not in {"raw", "unfiltered"}]


def read_mtx(matrix: Path, *others: Path) -> Loaded:
    """Read a Matrix Market file with the names beside it.

    Parameters
    ----------
    matrix
        A .mtx or .mtx.gz file.
    others
        Further matrices of the same cells and features: layers of the first, or parts of a sum.

    Raises
    ------
    ReadError
        If names are missing or do not fit, or the file is damaged.
    """
    if others:
        return _read_parts((matrix, *others))
    names = names_beside(matrix)
    features, cells = read_names(names.features), read_names(names.barcodes)
    with reading(matrix, "a Matrix Market file"), closing(open_market(matrix)) as market:
        heads, turned = _lying(market.shape, features, cells, matrix)
        counts, repeated = _by_cell(market.matrix(), matrix, turned=turned)
    features, cells = _headed(features, heads[0]), _headed(cells, heads[1])
    both = zip((names.features, names.barcodes), heads, strict=True)
    notes = _linked(matrix, names)
    notes += [f"Took the first line of {path.name} for a heading." for path, head in both if head]
    if turned and not _CELLS_FIRST.search(matrix.name):
        notes.append("The matrix is cells x genes, not genes x cells as 10x writes it.")
    ids, symbols, types = _feature_columns(features)
    if names.symbols is not None:
        symbols = read_names(names.symbols)[0].to_numpy(object)
        _check_length(symbols, ids, names.symbols, names.features)
    keep, more = gene_expression_only(types, len(ids), names.features)
    var = {"gene_ids": ids[keep], **({} if types is None else {"feature_types": types[keep]})}
    barcodes, obs = _cell_columns(cells)
    adata = with_symbols(counts if keep.all() else counts[:, keep], barcodes, symbols[keep], var)
    for name, values in obs.items():
        adata.obs[name] = values.to_numpy()
    return Loaded(adata, "10x mtx", [*notes, *repeated, *more])


def _linked(matrix: Path, names: Names) -> list[str]:
    """Return notes of files that are links to what lies outside the folder: who made the folder chose what is read."""
    inside = matrix.parent.resolve()
    files = [path for path in (matrix, names.features, names.barcodes, names.symbols) if path is not None]
    outside = [path for path in files if path.is_symlink() and inside not in path.resolve().parents]
    return [f"{path.name} is a link to {path.resolve()}, which was read." for path in outside]


def _read_parts(matrices: tuple[Path, ...]) -> Loaded:
    """Read matrices of the same cells as layers; `X` is their total."""
    common = set.intersection(*(set(own_words(path)) for path in matrices))
    parts = {"_".join(w for w in own_words(path) if w not in common): path for path in matrices}
    main = next((name for name in ("", "total") if name in parts), None)
    sums = next((both for both in _SUMS if both <= set(parts)), set()) if main is None else set()
    if not (set(parts) - {""} <= _PARTS and (main is not None or sums)):
        fix = f"Pass the one to read: {listed(map(str, matrices), limit=5)}."
        where = str(matrices[0].parent)
        raise ReadError(f"holds {len(matrices)} matrices of the same cells", where=where, fix=fix)
    read = {name: read_mtx(path) for name, path in parts.items()}
    whole = read[main] if main is not None else read[next(name for name in parts if name in sums)]
    layers = {name: loaded.adata.X.copy() for name, loaded in read.items() if name not in {"", "total"}}
    if main is None:
        summed = [name for name in layers if name in sums | {"ambiguous"}]
        whole.adata.X = reduce(lambda one, other: one + other, [layers[name] for name in summed]).tocsr()
        whole.notes.append(f"X is the sum of {', '.join(sorted(summed))}; each is a layer, too.")
    whole.adata.layers.update(layers)
    return whole


def _lying(
    shape: tuple[int, int], features: pd.DataFrame, cells: pd.DataFrame, path: Path
) -> tuple[tuple[int, int], bool]:
    """Return how many lines of the tables of names are headings, and whether the matrix lies cells x genes."""
    turns = (True, False) if _CELLS_FIRST.search(path.name) else (False, True)
    for heads in ((0, 0), (1, 1), (1, 0), (0, 1)):
        named = (len(features) - heads[0], len(cells) - heads[1])
        for turned in turns:
            if shape == (named[::-1] if turned else named):
                return heads, turned
    value = f"it is {shape[0]:,} x {shape[1]:,}, the names are of {len(features):,} features and "
    value += f"{len(cells):,} barcodes"
    fix = "Do the files belong together, and is each of them whole?"
    raise ReadError("does not fit the names beside it", where=str(path), value=value, fix=fix)


def _by_cell(found: Matrix, path: Path, *, turned: bool) -> tuple[Matrix, list[str]]:
    """Return the matrix as (cells, features) CSR, and a note of positions that it lists more than once."""
    notes = repeats_told(found, path)
    counts = sp.csr_matrix(found if turned else found.T)
    counts.sort_indices()
    counts.data = narrowed(counts.data)
    return counts, notes


def _headed(table: pd.DataFrame, head: int) -> pd.DataFrame:
    """Return a table of names whose first line, if it is a heading, names the columns; row numbers are left out."""
    if head:
        named = [str(name).strip() or f"column_{at}" for at, name in enumerate(table.iloc[0])]
        table = table.iloc[1:].set_axis(named, axis=1).reset_index(drop=True)
    first = table.iloc[:, 0]
    numbered = any(list(first) == [str(start + i) for i in range(len(first))] for start in _NUMBERED_FROM)
    return table.iloc[:, 1:] if numbered and table.shape[1] > 1 else table


def _feature_columns(
    table: pd.DataFrame,
) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.object_] | None]:
    """Return identifiers, symbols and kinds of the features."""
    columns = [table.iloc[:, at].str.strip().to_numpy(object) for at in range(table.shape[1])]
    ids = columns[0]
    symbols = columns[1] if len(columns) > 1 and not _all_types(columns[1]) else ids
    types = next((values for values in columns[1:] if _all_types(values)), None)
    return ids, symbols, types


def _all_types(values: NDArray[np.object_]) -> bool:
    return all(_TYPES.match(str(kind)) for kind in set(values))


def _cell_columns(table: pd.DataFrame) -> tuple[NDArray[np.object_], pd.DataFrame]:
    """Return the names of cells, and what else a table with a heading says of them."""
    names = table.iloc[:, 0].str.strip().to_numpy(object)
    told = table.iloc[:, 1:] if all(isinstance(name, str) for name in table.columns) else table.iloc[:, :0]
    return names, told.apply(_numbers_if_they_are)


def _numbers_if_they_are(column: pd.Series[Any]) -> pd.Series[Any]:
    numbers = pd.to_numeric(column, errors="coerce")
    return column if numbers.isna().any() else numbers


def _check_length(symbols: NDArray[np.object_], ids: NDArray[np.object_], path: Path, other: Path) -> None:
    if len(symbols) != len(ids):
        value = f"{len(symbols):,} names, {other.name} has {len(ids):,}"
        raise ReadError("does not fit the identifiers beside it", where=str(path), value=value, fix="Copy both again.")
