"""What a network sees of the counts: fitted transforms, kept in buffers so that they are saved with the weights.

x_ng is a count, l_n the total of a cell, m the median total of the training cells.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.nn.layers import SparseLinear

__all__ = ["InputTransform", "TransformName"]

Positions = npt.NDArray[np.int64]
TransformName = Literal["counts", "log1p", "log-normalised", "scaled", "log2-normalised", "log2-max"]
_BLOCK = 1024


class InputTransform(nn.Module):
    """A map from counts to the values that a network reads or predicts, (cells, genes) dense.

    Parameters
    ----------
    name
        "counts"           x
        "log1p"            log(1 + x)
        "log-normalised"   log(1 + x m / l)
        "scaled"           the same, minus the gene's mean, over its standard deviation (DCA)
        "log2-normalised"  log2(1 + x m / l) (AutoImpute)
        "log2-max"         log2(1 + x) over its largest value in the cell (VASC)
    n_genes
        Number of genes.
    """

    target: Tensor
    shift: Tensor
    factor: Tensor

    def __init__(self, name: TransformName, n_genes: int) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("target", torch.ones(()))  # the median total m
        if name == "scaled":
            self.register_buffer("shift", torch.zeros(n_genes))
            self.register_buffer("factor", torch.ones(n_genes))

    @torch.no_grad()
    def fit(self, data: CellData, train: Positions) -> None:
        """Take the constants from the training cells alone."""
        self.target.fill_(float(np.median(data.library[train])))
        if self.name != "scaled":
            return
        total, squares = torch.zeros(data.n_genes, dtype=torch.float64), torch.zeros(data.n_genes, dtype=torch.float64)
        for start in range(0, len(train), _BLOCK):
            values = self._log_normalised(data.minibatch(train[start : start + _BLOCK])).double()
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = total / len(train)
        variance = (squares / len(train) - mean.square()) * len(train) / max(1, len(train) - 1)
        self.shift.copy_(mean)
        self.factor.copy_(variance.clamp_min(0).sqrt())
        self.factor[self.factor < _CONSTANT] = 1.0  # a gene that does not vary stays at zero

    def forward(self, batch: Minibatch) -> Tensor:
        """Return the values, (cells, genes)."""
        if self.name == "counts":
            return batch.rows.dense
        if self.name == "log1p":
            return batch.rows.dense.log1p()
        if self.name == "log-normalised":
            return self._log_normalised(batch)
        if self.name == "scaled":
            return (self._log_normalised(batch) - self.shift) / self.factor
        if self.name == "log2-normalised":
            return self._log_normalised(batch) / _LOG_2
        logged = batch.rows.dense.log1p()
        return logged / logged.amax(1, keepdim=True).clamp_min(_CONSTANT)

    def linear(self, batch: Minibatch, layer: SparseLinear, dropout: Tensor | None = None) -> Tensor:
        """Return `values @ weight + bias` of a layer, (cells, out), from the stored counts alone where a kernel can.

        The weights of `layer` act on the values here, not on log1p counts. `dropout` multiplies the values.
        """
        if dropout is not None or self.name in ("counts", "log2-max") or not layer.has_kernel(batch.rows):
            values = self(batch)
            return torch.addmm(layer.bias, values if dropout is None else values * dropout, layer.weight)
        from celbo.kernels.cpu_linear import log1p_linear

        rows = batch.rows
        weight: Tensor = layer.weight
        bias: Tensor = layer.bias
        logged = rows.values if self.name == "log1p" else rows.values * (self.target / batch.library)[rows.row_of]
        if self.name == "scaled":
            weight = weight / self.factor[:, None]
            bias = bias - self.shift @ weight
        if self.name == "log2-normalised":
            none = torch.zeros_like(bias)
            return bias + log1p_linear((rows.indptr, rows.indices, logged), weight, none) / _LOG_2
        return log1p_linear((rows.indptr, rows.indices, logged), weight, bias)

    def counts(self, values: Tensor, batch: Minibatch) -> Tensor:
        """Return the counts that have these values in these cells, at their own totals: the inverse, floored at zero.

        For "log2-max", whose scale is lost, the cell's own maximum is put back.
        """
        if self.name == "counts":
            return values.clamp_min(0)
        if self.name == "log1p":
            return values.expm1().clamp_min(0)
        if self.name == "log2-max":
            return (values * batch.rows.dense.log1p().amax(1, keepdim=True)).expm1().clamp_min(0)
        if self.name == "scaled":
            values = values * self.factor + self.shift
        logged = values * _LOG_2 if self.name == "log2-normalised" else values
        return logged.expm1().clamp_min(0) * (batch.library / self.target)[:, None]

    def _log_normalised(self, batch: Minibatch) -> Tensor:
        return (batch.rows.dense * (self.target / batch.library)[:, None]).log1p()


_LOG_2 = 0.6931471805599453
_CONSTANT = 1e-12
"""Standard deviation below which a gene does not vary; largest value below which a cell has none."""
