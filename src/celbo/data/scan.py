"""One full pass over a matrix: every stored value is looked at, none is copied, nothing is made dense.

The pass runs in blocks on threads of plain NumPy, which lets go of the interpreter lock: nothing is compiled first, and
Numba's threading layer is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = [
    "KINDS",
    "BadValues",
    "Kind",
    "Matrix",
    "Scan",
    "check_sparse",
    "is_sparse",
    "native",
    "scan_matrix",
    "workable",
]

Matrix: TypeAlias = Any  # a scipy CSR or CSC matrix, or a NumPy array, of shape (cells, genes)
Kind = Literal["nan", "inf", "negative", "fractional", "large"]
KINDS: tuple[Kind, ...] = ("nan", "inf", "negative", "fractional", "large")
LARGEST_COUNT = 2**32 - 1  # single precision rounds it up: values are compared with the next number, which it has
BLOCK = 1 << 17  # values a block: small enough for the cache, large enough to hide the cost of a Python call
_LARGEST_TABLE = 500_000_000  # groups x genes beyond which groups are not told apart


@dataclass(frozen=True)
class _Block:
    """Values with the cell and the gene of each."""

    values: NDArray[Any]
    cells: NDArray[np.int64]
    genes: NDArray[np.int64]


@dataclass(frozen=True)
class _Run:
    """Stored values in a row of whole or cut cells: what a block is made of, in a seventh of its bytes."""

    values: NDArray[Any]
    genes: NDArray[Any]
    """Gene of each value; (values,) of any integer type."""
    first: int
    """The first of the cells."""
    lengths: NDArray[np.int64]
    """Values of each cell from the first on; (cells,)."""

    def holds_counts(self) -> bool:
        """Return whether every value is a count over 0; False for a NaN."""
        values = self.values
        if not (values.size and values.min() > 0 and values.max() < LARGEST_COUNT + 1):
            return False
        return values.dtype.kind in "biu" or bool((np.floor(values) == values).all())

    def block(self) -> _Block:
        """Return the run with a cell for each value."""
        cells = np.repeat(np.arange(self.first, self.first + self.lengths.size), self.lengths)
        return _Block(self.values, cells, self.genes)


@dataclass(frozen=True)
class BadValues:
    """The values of one kind that are not counts: how many, and the first in order of cells, then genes."""

    kind: Kind
    n: int
    cell: int
    gene: int
    value: float


@dataclass(frozen=True)
class Scan:
    """What one pass over a matrix found."""

    n_nonzero: int
    """Values that are not zero."""
    bad: dict[Kind, BadValues]
    """By kind, the values that are not counts."""
    totals: NDArray[np.float64]
    """Sum of each cell; (cells,) counts."""
    gene_totals: NDArray[np.float64]
    """Sum of each gene; (genes,) counts."""
    detected: NDArray[np.bool_]
    """Whether a gene is non-zero anywhere in a group of cells; (groups, genes)."""
    occupied: NDArray[np.bool_]
    """Whether a cell has a non-zero value; (cells,)."""
    largest: float
    """Largest finite value, 0 where there is none."""


class _Tally:
    """What the blocks of a pass write to, from several threads at once."""

    def __init__(self, shape: tuple[int, int], groups: NDArray[np.int64] | None, n_groups: int) -> None:
        told_apart = groups is not None and n_groups * shape[1] <= _LARGEST_TABLE
        self.offsets = groups * shape[1] if groups is not None and told_apart else None  # of each cell in `detected`
        self.detected = np.zeros((n_groups if told_apart else 1, shape[1]), bool)
        self.occupied = np.zeros(shape[0], bool)
        self.totals = np.zeros(shape[0])
        self.gene_totals = np.zeros(shape[1])
        self.lock = Lock()

    def add(self, block: _Block) -> None:
        """Add non-zero values to their cells and set the flags of their positions."""
        first = int(block.cells.min())
        sums = np.bincount(block.cells - first, weights=block.values)
        self._add_sums(first, sums.astype(np.float64, copy=False), block)
        self.occupied[block.cells] = True  # no lock: every thread writes the same True
        flat = block.genes if self.offsets is None else self.offsets[block.cells] + block.genes
        self.detected.reshape(-1)[flat] = True

    def add_run(self, run: _Run) -> None:
        """Do what `add` does without an array of cells."""
        held = np.flatnonzero(run.lengths)
        starts = run.lengths.cumsum() - run.lengths
        sums = np.zeros(run.lengths.size)
        sums[held] = np.add.reduceat(run.values, starts[held], dtype=np.float64)
        self._add_sums(run.first, sums, run)
        self.occupied[run.first + held] = True
        flat: NDArray[Any] = run.genes
        if self.offsets is not None:
            flat = np.repeat(self.offsets[run.first : run.first + run.lengths.size], run.lengths)
            flat += run.genes
        self.detected.reshape(-1)[flat] = True

    def _add_sums(self, first: int, sums: NDArray[np.float64], part: _Block | _Run) -> None:
        by_gene, size = np.zeros_like(self.gene_totals), max(self.gene_totals.size, 1 << 14)
        for at in range(0, part.genes.size, size):  # in pieces, since bincount makes wide copies
            piece = slice(at, at + size)
            by_gene += np.bincount(part.genes[piece], weights=part.values[piece], minlength=by_gene.size)
        with self.lock:
            self.totals[first : first + sums.size] += sums
            self.gene_totals += by_gene


_Reader = Callable[[], _Block | _Run]


@dataclass(frozen=True)
class _Part:
    """What one block found."""

    n_nonzero: int
    bad: dict[Kind, BadValues]
    largest: float


def is_sparse(matrix: Matrix) -> bool:
    """Return whether a matrix is a scipy one."""
    return bool(sp.issparse(matrix))


def scan_matrix(matrix: Matrix, *, groups: NDArray[np.int64] | None = None, n_groups: int = 1) -> Scan:
    """Look at every stored value of a matrix once.

    Parameters
    ----------
    matrix
        CSR, CSC or dense; (cells, genes), of a real number type.
    groups
        Group (batch) of each cell, to tell in which groups a gene is seen; (cells,).
    n_groups
        Number of groups.

    Raises
    ------
    IndexError
        If a sparse matrix points outside its shape.
    """
    tally = _Tally(matrix.shape, groups, n_groups)
    blocks = _sparse_blocks(matrix) if is_sparse(matrix) else _dense_blocks(matrix)
    bad: dict[Kind, BadValues] = {}
    n_nonzero, largest = 0, 0.0
    for part in _in_threads(lambda read: _scan_block(read(), tally), blocks):
        n_nonzero += part.n_nonzero
        largest = max(largest, part.largest)
        for kind, found in part.bad.items():
            bad[kind] = _joined(bad[kind], found) if kind in bad else found
    return Scan(n_nonzero, bad, tally.totals, tally.gene_totals, tally.detected, tally.occupied, largest)


def _in_threads(work: Callable[[_Reader], _Part], blocks: list[_Reader]) -> Iterable[_Part]:
    threads = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if len(blocks) < 2 or threads < 2:
        return map(work, blocks)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, blocks))


def _joined(one: BadValues, other: BadValues) -> BadValues:
    first = min(one, other, key=lambda found: (found.cell, found.gene))
    return BadValues(one.kind, one.n + other.n, first.cell, first.gene, first.value)


def _sparse_blocks(matrix: Matrix) -> list[_Reader]:
    """Return readers of runs of stored values."""
    by_cell = matrix.format == "csr"
    n_minor = matrix.shape[1] if by_cell else matrix.shape[0]
    starts = _starts(matrix)

    def reader(low: int) -> _Reader:
        def read() -> _Block | _Run:
            high = min(low + BLOCK, int(starts[-1]))
            minor = matrix.indices[low:high]
            _check_minor(minor, n_minor)
            first = int(np.searchsorted(starts, low, "right")) - 1
            last = int(np.searchsorted(starts, high, "left"))
            edges = np.clip(starts[first : last + 1], low, high)
            run = _Run(matrix.data[low:high], minor, first, edges[1:] - edges[:-1])
            return run if by_cell else _Block(run.values, minor, run.block().cells)

        return read

    return [reader(low) for low in range(0, int(starts[-1]), BLOCK)]


def check_sparse(matrix: Matrix) -> None:
    """Raise an IndexError if a CSR or CSC matrix points outside its shape, which scipy does not look for."""
    stored = int(_starts(matrix)[-1])
    for low in range(0, stored, BLOCK):
        _check_minor(matrix.indices[low : min(low + BLOCK, stored)], matrix.shape[1 if matrix.format == "csr" else 0])


def workable(matrix: Matrix) -> Matrix:
    """Return a CSR or CSC matrix, known to be whole, in types that SciPy's compiled code knows.

    These are signed pointers, and values in the byte order of the machine that are no half precision. It is the same
    object where it has them.
    """
    kinds = {matrix.indptr.dtype, matrix.indices.dtype}
    values = native(matrix.data)
    if len(kinds) == 1 and kinds <= {np.dtype(np.int32), np.dtype(np.int64)}:
        if values is matrix.data:
            return matrix
        parts = (values, matrix.indices, matrix.indptr)
    else:
        narrow = max(int(matrix.indptr[-1]), *matrix.shape) < np.iinfo(np.int32).max
        kind = np.int32 if narrow else np.int64
        parts = (values, matrix.indices.astype(kind), matrix.indptr.astype(kind))
    return type(matrix)(parts, shape=matrix.shape, copy=False)


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in the byte order of the machine, in single or double precision; the same object if they are."""
    if values.dtype.kind == "f" and values.dtype.itemsize not in {4, 8}:
        return values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _starts(matrix: Matrix) -> NDArray[np.int64]:
    for name, part in (("pointers", matrix.indptr), ("positions", matrix.indices)):
        if part.dtype.kind not in "iu" or part.ndim != 1:
            raise IndexError(f"the {name} of the sparse matrix are {part.dtype}, not whole numbers")
    if matrix.data.ndim != 1 or matrix.data.size != matrix.indices.size:
        raise IndexError(f"the sparse matrix has {matrix.data.size:,} values, {matrix.indices.size:,} positions")
    n_major = matrix.shape[0 if matrix.format == "csr" else 1]
    if matrix.indptr.size != n_major + 1:
        raise IndexError(f"the sparse matrix has {matrix.indptr.size - 1:,} pointers for {n_major:,} rows or columns")
    starts: NDArray[np.int64] = matrix.indptr.astype(np.int64, copy=False)
    if starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] > min(matrix.data.size, matrix.indices.size):
        raise IndexError("the row pointers of the sparse matrix are out of order")
    return starts


def _check_minor(minor: NDArray[Any], n_minor: int) -> None:
    if minor.min() < 0 or minor.max() >= n_minor:
        raise IndexError("an index of the sparse matrix lies outside its shape")


def _dense_blocks(matrix: NDArray[Any]) -> list[_Reader]:
    """Return readers of runs of rows: their non-zero values, each with its cell and its gene."""
    n_rows = max(1, BLOCK // max(1, matrix.shape[1]))

    def reader(low: int) -> _Reader:
        def read() -> _Block:
            rows = matrix[low : low + n_rows]
            cells, genes = np.nonzero(rows)
            return _Block(rows[cells, genes], cells + low, genes)

        return read

    return [reader(low) for low in range(0, matrix.shape[0] if matrix.shape[1] else 0, n_rows)]


def _scan_block(found: _Block | _Run, tally: _Tally) -> _Part:
    with np.errstate(all="ignore"):
        if isinstance(found, _Run):
            if found.holds_counts():
                tally.add_run(found)
                return _Part(found.values.size, {}, float(found.values.max()))
            found = found.block()
        nonzero = found.values != 0
        if not nonzero.all():
            found = _Block(found.values[nonzero], found.cells[nonzero], found.genes[nonzero])
        if found.values.size == 0:
            return _Part(0, {}, 0.0)
        tally.add(found)
        return _Part(found.values.size, *_bad_values(found))


def _bad_values(block: _Block) -> tuple[dict[Kind, BadValues], float]:
    values, cells, genes = block.values, block.cells, block.genes
    largest = float(values.max())
    if largest < LARGEST_COUNT + 1 and (values.dtype.kind in "bu" or bool(_are_counts(values).all())):
        return {}, largest  # the comparison is False for a NaN
    at = np.flatnonzero(~_are_counts(values))
    kinds = _kinds_of(values[at])
    bad: dict[Kind, BadValues] = {}
    for code in np.unique(kinds):
        chosen = at[kinds == code]
        chosen_cells = cells[chosen]
        in_first_cell = chosen[chosen_cells == chosen_cells.min()]
        first = in_first_cell[genes[in_first_cell].argmin()]
        kind = KINDS[code]
        bad[kind] = BadValues(kind, chosen.size, int(cells[first]), int(genes[first]), float(values[first]))
    finite = values[np.isfinite(values)]
    return bad, float(finite.max()) if finite.size else 0.0


def _are_counts(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind == "b":
        return np.ones(values.shape, bool)
    fine = (values >= 0) & (values < LARGEST_COUNT + 1)
    return cast("NDArray[np.bool_]", fine & (np.floor(values) == values) if values.dtype.kind == "f" else fine)


def _kinds_of(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the position in `KINDS` of values that are not counts."""
    return np.select([np.isnan(values), np.isinf(values), values < 0, np.floor(values) != values], [0, 1, 2, 3], 4)
