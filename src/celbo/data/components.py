"""Log-normalised counts and their principal components, both sparse: no dense (cells, genes) array is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from celbo.errors import InputError, OptionError

if TYPE_CHECKING:
    from celbo.data.counts import CountMatrix

__all__ = ["Components", "covariance", "log_normalised", "principal_components", "with_signs"]

Floats = npt.NDArray[np.float64]
_DENSE_GENES = 512  # up to here the (genes, genes) covariance is made and solved whole
_BLOCK = 1 << 22  # values of a block of cells that is dense at a time


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of cells: directions in gene space of most variance, in descending order."""

    mean: Floats
    """Mean of each gene; (genes,)."""
    loadings: Floats
    """Directions, orthonormal columns; (genes, k). The entry of largest size in each is positive."""
    variance: Floats
    """Variance along each direction over cells - 1, descending; (k,)."""
    total_variance: float
    """Sum of the variances of the genes."""

    @property
    def variance_ratio(self) -> Floats:
        """Share of the total variance that each direction has; (k,)."""
        return self.variance / self.total_variance

    def project(self, values: Any) -> Floats:
        """Return the coordinates (values - mean) loadings of cells, (cells, k), for sparse or dense (cells, genes)."""
        return np.asarray(values @ self.loadings - self.mean @ self.loadings, dtype=np.float64)


def principal_components(matrix: sparse.csr_matrix, n_components: int, *, seed: int) -> Components:
    """Principal components of transformed counts, as exact as a dense singular value decomposition.

    The leading eigenvectors of the covariance of the genes, by Lanczos iterations that multiply with the sparse matrix
    and subtract the mean afterwards. Working memory is a float64 copy of the stored values and a few vectors.

    Parameters
    ----------
    matrix
        Values that are already transformed; (cells, genes) CSR.
    n_components
        How many; at most genes and cells - 1.
    seed
        Of the first Lanczos vector. Another seed changes the result by rounding only, but within directions of the
        same variance, which are not unique.

    Raises
    ------
    OptionError
        If `n_components` is not between 1 and what the cells and genes allow.
    InputError
        If values are not finite, or no gene differs between cells.
    """
    n_cells, n_genes = matrix.shape
    _require_count(n_components, n_cells, n_genes)
    values = matrix.astype(np.float64)
    mean = np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
    if not np.isfinite(mean).all():
        raise InputError("holds values that are not finite", where="the matrix", fix="Run celbo.check to find them.")
    total = float(np.maximum(values.multiply(values).sum() / n_cells - mean @ mean, 0.0) * n_cells / (n_cells - 1))
    if total <= 1e-12 * float(mean @ mean):
        raise InputError("does not differ between cells", where="the matrix", fix="Principal components need variance.")
    variance, loadings = _leading(values, mean, n_components, total, seed)
    return Components(mean, with_signs(loadings), variance, total)


def covariance(matrix: sparse.csr_matrix, mean: Floats) -> Floats:
    """Return the covariance of the genes over cells - 1, (genes, genes), from blocks of cells that are dense in turn.

    Parameters
    ----------
    matrix
        Values that are already transformed; (cells, genes) CSR.
    mean
        Mean of each gene; (genes,).
    """
    n_cells, n_genes = matrix.shape
    total, step = np.zeros((n_genes, n_genes)), max(1, _BLOCK // n_genes)
    for start in range(0, n_cells, step):
        block = matrix[start : start + step].toarray() - mean
        total += block.T @ block
    return total / (n_cells - 1)


def with_signs(directions: Floats) -> Floats:
    """Return columns, (genes, k), turned so that the entry of largest size in each is positive."""
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    return directions * np.where(largest < 0, -1.0, 1.0)


def _require_count(n_components: int, n_cells: int, n_genes: int) -> None:
    most = min(n_cells - 1, n_genes)
    if (
        isinstance(n_components, bool)
        or not isinstance(n_components, int | np.integer)
        or not 1 <= n_components <= most
    ):
        raise OptionError(
            "must be a whole number of at least 1 and at most the genes and the cells less one",
            where="n_components",
            value=f"{n_components!r} for {n_cells} cells and {n_genes} genes",
            fix=f"Ask for at most {most}." if most >= 1 else "Give at least two cells.",
        )


def _leading(values: sparse.csr_matrix, mean: Floats, k: int, total: float, seed: int) -> tuple[Floats, Floats]:
    """Return the k largest eigenvalues of the covariance, descending, and their vectors; (k,) and (genes, k)."""
    n_cells, n_genes = values.shape
    if n_genes <= _DENSE_GENES or k > n_genes // 2:
        found, vectors = np.linalg.eigh(covariance(values, mean))
    else:
        # Directions without variance have an eigenvalue of 0, to which no relative accuracy can be reached: Lanczos
        # would not end. The same small number added to all eigenvalues changes no vector.
        shift = total / n_genes
        across = values.T.tocsr()

        def covariance_times(x: Floats) -> Floats:
            seen = values @ x - mean @ x
            product: Floats = (across @ seen - mean * seen.sum()) / (n_cells - 1) + shift * x
            return product

        operator = LinearOperator((n_genes, n_genes), matvec=covariance_times, dtype=np.float64)
        start = np.random.default_rng(seed).standard_normal(n_genes)
        found, vectors = eigsh(operator, k=k, which="LA", v0=start)
        found = found - shift
    order = np.argsort(found)[::-1][:k]
    return np.maximum(found[order], 0.0), np.ascontiguousarray(vectors[:, order])


def log_normalised(
    counts: CountMatrix | sparse.csr_matrix, *, target: float | None = None, rows: npt.ArrayLike | None = None
) -> sparse.csr_matrix:
    """Return log1p(count x target / total of the cell) as a new CSR matrix, (cells, genes) float32.

    Parameters
    ----------
    counts
        Raw counts, (cells, genes). A cell without counts stays so.
    target
        Counts that every cell is scaled to; None is the median total of the cells that have any. Cells that come
        later must be given the number of the first ones.
    rows
        Positions of the cells to take; (n,) integers. None is all.

    Raises
    ------
    InputError
        If `target` is not a finite number above 0, or no cell has a count.
    """
    matrix = (counts if sparse.issparse(counts) else counts.to_scipy()).tocsr()
    matrix = sparse.csr_matrix(matrix if rows is None else matrix[np.asarray(rows, dtype=np.int64)])
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    if target is None:
        if not (totals > 0).any():
            raise InputError("has any count", where="none of the cells", fix="Leave empty cells out.")
        target = float(np.median(totals[totals > 0]))
    if not (np.isfinite(target) and target > 0):
        raise InputError("must be a finite number above 0", where="target", value=repr(target))
    scale = np.divide(target, totals, out=np.zeros_like(totals), where=totals > 0)
    scaled = matrix.data.astype(np.float32) * np.repeat(scale.astype(np.float32), np.diff(matrix.indptr))
    return sparse.csr_matrix((np.log1p(scaled), matrix.indices, matrix.indptr), shape=matrix.shape, copy=False)
