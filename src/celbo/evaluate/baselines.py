"""Denoising by simple means: what any model has to beat. And the form in which every denoiser hands back its result.

A denoiser is any callable that takes counts, (cells, genes) CSR, and returns the counts expected of the same cells and
genes at the same depth: a dense array, a CSR matrix, or blocks of consecutive cells one after the other, each dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from celbo.data.components import log_normalised, principal_components
from celbo.data.counts import CountMatrix
from celbo.data.scan import is_sparse
from celbo.errors import InputError, OptionError
from celbo.evaluate.neighbours import neighbours

__all__ = ["Denoiser", "Expected", "expected_blocks", "gene_mean", "knn_smoothing", "no_denoising"]

Floats = npt.NDArray[np.float64]
Expected = npt.NDArray[Any] | sparse.csr_matrix | Iterable[npt.NDArray[Any]]
"""Expected counts: (cells, genes), dense, CSR, or dense blocks of consecutive cells."""
Denoiser = Callable[[sparse.csr_matrix], Expected]
BLOCK = 1 << 19  # entries of a block of cells: 4 MB in float64


def no_denoising(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the counts as they are: each cell is its own expectation."""
    return counts


def gene_mean(counts: sparse.csr_matrix) -> Iterator[Floats]:
    """Total of the cell times the share of the gene in all counts: what is expected if all cells were alike.

    It is the maximum-likelihood Poisson model of rank one.

    Parameters
    ----------
    counts
        Raw counts, (cells, genes).

    Yields
    ------
    Expected counts of the next cells, (cells of the block, genes) float64.
    """
    single = checked_counts(counts)
    library, share = _margins(single)
    for low, high in _ranges(*single.shape):
        yield np.outer(library[low:high], share)


def knn_smoothing(
    counts: sparse.csr_matrix,
    *,
    n_neighbors: int | None = None,
    n_components: int = 20,
    prior_cells: float = 1.0,
    seed: int = 0,
) -> Iterator[Floats]:
    """Shares of genes pooled over a cell and its nearest neighbours, times the total of the cell.

        x_ng = L_n (sum_j x_jg + m p_g) / (sum_j L_j + m)        j: the cell n and its neighbours

    Pooling counts is averaging shares with the cells' totals as weights, the maximum-likelihood estimate where the
    neighbours share one profile. m counts at the mean shares p keep a gene that no neighbour shows above zero.
    Neighbours are Euclidean, on the principal components of log-normalised counts (Wagner et al. 2017 for the idea,
    doi:10.1101/217737; this is not their stepwise algorithm).

    Parameters
    ----------
    counts
        Raw counts, (cells, genes).
    n_neighbors
        Neighbours of each cell besides itself. None is the square root of the number of cells, at most 100: molecular
        cross-validation is flat around it on real sets.
    n_components
        Principal components, fewer where cells or genes allow no more.
    prior_cells
        m, in cells of median total; 0 is the plain mean.
    seed
        Of the principal components.

    Yields
    ------
    Expected counts of the next cells, (cells of the block, genes) float64.

    Raises
    ------
    OptionError
        If a number is out of range.
    InputError
        If there are fewer than two cells, or no gene differs between cells.
    """
    single = checked_counts(counts)
    n_cells, n_genes = single.shape
    k = max(1, min(round(n_cells**0.5), 100)) if n_neighbors is None else n_neighbors
    for name, value, least in (
        ("n_neighbors", k, 1),
        ("n_components", n_components, 1),
        ("prior_cells", prior_cells, 0),
    ):
        if not (np.isfinite(value) and value >= least):
            raise OptionError("is too small", where=name, value=repr(value), fix=f"Give at least {least}.")
    if n_cells < 2:
        raise InputError("has too few cells", where="the counts", value=str(n_cells), fix="Give at least two.")
    return _smoothed(single, min(k, n_cells - 1), min(n_components, n_cells - 1, n_genes), prior_cells, seed)


def _smoothed(counts: sparse.csr_matrix, k: int, n_components: int, prior_cells: float, seed: int) -> Iterator[Floats]:
    values = log_normalised(counts)
    near = neighbours(principal_components(values, n_components, seed=seed).project(values), k)[1]
    n_cells, n_genes = counts.shape
    near = np.concatenate([np.arange(n_cells)[:, None], near], axis=1)
    library, share = _margins(counts)
    prior = prior_cells * float(np.median(library[library > 0]))
    start = np.arange(0, near.size + 1, near.shape[1])
    pool = sparse.csr_matrix((np.ones(near.size), near.ravel(), start), shape=(n_cells, n_cells))
    pooled: Floats = np.asarray(pool @ library, dtype=np.float64)
    weight = library / np.maximum(pooled + prior, np.finfo(float).tiny)
    single = counts.astype(np.float64)
    for low, high in _ranges(n_cells, n_genes):
        block: Floats = (pool[low:high] @ single).toarray()
        block += prior * share
        block *= weight[low:high, None]
        yield block


def expected_blocks(expected: Expected, n_cells: int, n_genes: int, *, where: str = "expected") -> Iterator[Floats]:
    """Walk over expected counts in blocks of cells, each checked, in float64.

    Parameters
    ----------
    expected
        What a denoiser returned.
    n_cells, n_genes
        The shape that it must have.
    where
        Its name in messages.

    Yields
    ------
    Expected counts of the next cells, (cells of the block, genes). A block may be written to.

    Raises
    ------
    InputError
        If the shape is another or a value is not finite.
    """
    at = 0
    for block in _pieces(expected, n_cells, n_genes, where):
        shape = np.shape(block)
        if len(shape) != 2 or shape[1] != n_genes or at + shape[0] > n_cells:
            raise _wrong_shape(where, f"a block of shape {shape} after {at} cells", n_cells, n_genes)
        if block.dtype.kind not in "biuf":
            raise InputError("does not hold numbers", where=where, value=f"dtype {block.dtype}")
        values = np.array(block, dtype=np.float64)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            value = f"row {at + row}, column {column} is {values[row, column]}"
            raise InputError("holds values that are not finite", where=where, value=value, fix="Expect finite counts.")
        at += shape[0]
        yield values
    if at != n_cells:
        raise _wrong_shape(where, f"{at} cells", n_cells, n_genes)


def _pieces(expected: Expected, n_cells: int, n_genes: int, where: str) -> Iterator[npt.NDArray[Any]]:
    """Yield expected counts in blocks of bounded size."""
    if not (is_sparse(expected) or isinstance(expected, np.ndarray)):
        if not isinstance(expected, Iterable) or isinstance(expected, str | bytes):
            raise _wrong_shape(where, type(expected).__name__, n_cells, n_genes)
        blocks: Iterable[Any] = expected
        for block in blocks:
            rows = block.toarray() if is_sparse(block) else np.asarray(block)
            fits = rows.ndim == 2 and rows.shape[1] == n_genes
            yield from (rows[low:high] for low, high in _ranges(*rows.shape)) if fits else [rows]
        return
    matrix: Any = expected
    if matrix.shape != (n_cells, n_genes):
        raise _wrong_shape(where, f"shape {matrix.shape}", n_cells, n_genes)
    matrix = matrix.tocsr() if is_sparse(matrix) else matrix
    for low, high in _ranges(n_cells, n_genes):
        yield matrix[low:high].toarray() if is_sparse(matrix) else matrix[low:high]


def _wrong_shape(where: str, value: str, n_cells: int, n_genes: int) -> InputError:
    fix = f"Return expected counts of all cells and genes, ({n_cells}, {n_genes}), or blocks of them in order."
    return InputError("has the wrong shape", where=where, value=value, fix=fix)


def _ranges(n_cells: int, n_genes: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK // max(n_genes, 1))
    return ((low, min(low + step, n_cells)) for low in range(0, n_cells, step))


def _margins(counts: sparse.csr_matrix) -> tuple[Floats, Floats]:
    """Return the total of each cell and the share of each gene; (cells,) and (genes,)."""
    library = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    if not total.sum() > 0:
        raise InputError("are all zero", where="the counts", fix="Give cells that have counts.")
    return library, total / total.sum()


def checked_counts(counts: object) -> sparse.csr_matrix:
    """Return counts as canonical CSR in int64, (cells, genes); a CountsError names the first value that is none."""
    matrix = counts if isinstance(counts, CountMatrix) else CountMatrix.from_scipy(counts)
    index = np.int32 if matrix.n_stored < np.iinfo(np.int32).max else np.int64
    parts: Any = (matrix.values.astype(np.int64), matrix.indices.astype(index), matrix.indptr.astype(index))
    return sparse.csr_matrix(parts, shape=matrix.shape)


def with_values(matrix: sparse.csr_matrix, values: npt.NDArray[np.int64]) -> sparse.csr_matrix:
    """Return a copy of a matrix with other stored values, (stored,); those that are zero are not kept."""
    parts: Any = (values, matrix.indices.copy(), matrix.indptr.copy())
    made = sparse.csr_matrix(parts, shape=matrix.shape)
    made.eliminate_zeros()
    return made


def as_floats(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a copy in the floating type that tools expect: float32 where it is exact."""
    exact = counts.nnz == 0 or counts.data.max() <= 1 << 24
    return counts.astype(np.float32 if exact else np.float64)


def require_share(name: str, value: float) -> None:
    """Raise unless an option is above 0 and below 1."""
    if not 0 < value < 1:
        raise OptionError("is not a share", where=name, value=repr(value), fix="Give a number above 0 and below 1.")


def check_denoisers(denoisers: Mapping[str, Denoiser]) -> None:
    """Raise unless all can be called and none has the name of a baseline."""
    for name, denoiser in denoisers.items():
        if name in {"no denoising", "gene mean"}:
            raise OptionError("is the name of a baseline", where="denoisers", value=repr(name), fix="Choose another.")
        if not callable(denoiser):
            fix = "Give a function from counts to expected counts."
            raise OptionError("is not callable", where=f"denoiser {name!r}", value=repr(denoiser)[:80], fix=fix)
