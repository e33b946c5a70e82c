"""Minibatches: a few cells' counts as CSR on torch tensors, with their library sizes and covariates."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Minibatch", "SparseRows"]


@dataclass(frozen=True)
class SparseRows:
    """Counts of some cells, as the rows of a CSR matrix.

    The dense view is made once, and only when it is asked for.
    """

    indptr: Tensor
    """Start of each row in `indices`; (cells + 1,) int64."""
    indices: Tensor
    """Gene of each stored count, ascending within a row; (stored,) int64."""
    values: Tensor
    """The counts; (stored,) floating."""
    n_genes: int

    @property
    def n_cells(self) -> int:
        """Number of rows."""
        return self.indptr.shape[0] - 1

    @cached_property
    def row_of(self) -> Tensor:
        """Row of each stored count; (stored,) int64."""
        return torch.repeat_interleave(
            torch.arange(self.n_cells, device=self.indptr.device), self.indptr.diff(), output_size=self.values.shape[0]
        )

    @cached_property
    def dense(self) -> Tensor:
        """The counts as (cells, genes), in the dtype of `values`."""
        out = torch.zeros(self.n_cells, self.n_genes, dtype=self.values.dtype, device=self.values.device)
        out[self.row_of, self.indices] = self.values
        return out

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SparseRows:
        """Return the rows on another device and, for the values only, in another dtype."""
        return SparseRows(
            self.indptr.to(device), self.indices.to(device), self.values.to(device=device, dtype=dtype), self.n_genes
        )

    @classmethod
    def from_dense(cls, counts: Tensor) -> SparseRows:
        """Return the rows of a dense (cells, genes) tensor."""
        stored = counts != 0
        indptr = torch.zeros(counts.shape[0] + 1, dtype=torch.int64, device=counts.device)
        indptr[1:] = stored.sum(1).cumsum(0)
        return cls(indptr, stored.nonzero()[:, 1], counts[stored], counts.shape[1])


@dataclass(frozen=True)
class Minibatch:
    """What a model sees of some cells. All tensors have the cells as their first axis and lie on one device."""

    rows: SparseRows
    library: Tensor
    """Total counts of each cell over the model's genes; (cells,) floating."""
    batch: Tensor
    """Batch code; (cells,) int64."""
    labels: Tensor
    """Label code; (cells,) int64."""
    categorical: Tensor
    """Codes of the further categorical covariates; (cells, n_categorical) int64."""
    continuous: Tensor
    """Values of the continuous covariates; (cells, n_continuous) floating."""
    index: Tensor
    """Position of each cell in its `CellData`; (cells,) int64."""
    size_factor: Tensor | None = None
    """Size factor of each cell, where the data have one; (cells,) floating."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.index.shape[0]

    def with_batch(self, code: int) -> Minibatch:
        """Return the same cells as if all came from batch `code`."""
        return replace(self, batch=torch.full_like(self.batch, code))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Minibatch:
        """Return the minibatch on another device and its floating tensors in another dtype."""

        def moved(value: object) -> object:
            if isinstance(value, SparseRows):
                return value.to(device, dtype)
            if isinstance(value, Tensor):
                return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            return value

        return Minibatch(**{f.name: moved(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]
