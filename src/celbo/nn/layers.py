"""Layers: linear maps that read sparse counts, covariates as rows of a table, and the hidden stack of scVI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding

from celbo.data.minibatch import Minibatch, SparseRows
from celbo.kernels import cpu_kernels_take, have_cpu_kernels
from celbo.kernels.cpu_dense import affine, has_affine

__all__ = [
    "CovariateSizes",
    "CovariateTables",
    "Dropout",
    "GeneLinear",
    "HiddenStack",
    "SparseLinear",
    "StackConfig",
    "covariate_codes",
    "linear",
    "torch_linear",
    "uniform",
]

_SPARSE = 0.3
"""Share of stored counts below which the sparse product is the faster one (docs/decisions.md)."""
_FEW_INPUTS = 64
"""Inputs up to which a linear map on one thread, within the kernel of its layer, beats a call of torch's."""
_BATCH_NORM_MOMENTUM, _BATCH_NORM_EPS = 0.01, 1e-3
"""Those of the original TensorFlow code of scVI (decay 0.99), kept by scvi-tools."""


class Dropout(nn.Module):
    """Inverted dropout whose mask comes from an explicit generator, so that a step can be repeated to the bit."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return x with entries zeroed at the rate and the others scaled up to keep the mean; x itself in evaluation"""
        if not self.training or self.rate == 0:
            return x
        return x * self.mask(x, generator)

    def mask(self, x: Tensor, generator: Generator | None) -> Tensor:
        """Draw the factors: zero with probability `rate`, else 1 / (1 - rate)."""
        keep = 1.0 - self.rate
        if x.device.type == "cpu" and have_cpu_kernels():
            from celbo.kernels.cpu_hidden import random_mask

            return random_mask(x, keep, generator)
        kept = torch.empty(x.shape, device=x.device).bernoulli_(keep, generator=generator)
        return kept.div_(keep).to(x.dtype)


class SparseLinear(nn.Module):
    """Linear map of log1p counts, with the weight kept genes-major: a row for each gene.

    Parameters
    ----------
    n_genes, n_out
        Sizes of input and output.
    fan_in
        Number of inputs that the initial uniform weights are scaled by: genes and the covariates beside them.
    generator
        What the initial weights are drawn from.
    """

    def __init__(self, n_genes: int, n_out: int, *, fan_in: int, generator: Generator) -> None:
        super().__init__()
        self.weight = uniform((n_genes, n_out), fan_in, generator)  # (genes, out)
        self.bias = uniform((n_out,), fan_in, generator)

    def forward(self, rows: SparseRows, dropout: Tensor | None = None) -> Tensor:
        """Return log1p(counts) @ weight + bias, (cells, out); `dropout` multiplies the (cells, genes) input."""
        if dropout is None and self.has_kernel(rows):
            from celbo.kernels.cpu_linear import log1p_linear

            return log1p_linear((rows.indptr, rows.indices, rows.values), self.weight, self.bias)
        x = torch.log1p(rows.dense)
        return torch.addmm(self.bias, x if dropout is None else x * dropout, self.weight)

    def has_kernel(self, rows: SparseRows) -> bool:
        """Say whether these rows go through the sparse product."""
        sparse = rows.values.numel() < _SPARSE * rows.n_cells * rows.n_genes
        return sparse and cpu_kernels_take(self.weight, rows.values)


class GeneLinear(nn.Module):
    """Linear map to genes, with a column of the weight for each gene: no product of a step then turns a matrix.

    Parameters
    ----------
    n_in, n_genes
        Sizes of input and output.
    fan_in
        Number of inputs that the initial uniform weights are scaled by: some may live elsewhere.
    generator
        What the initial weights are drawn from.
    """

    def __init__(self, n_in: int, n_genes: int, *, fan_in: int, generator: Generator) -> None:
        super().__init__()
        self.weight = uniform((n_in, n_genes), fan_in, generator)  # (in, genes)
        self.bias = uniform((n_genes,), fan_in, generator)

    def forward(self, h: Tensor) -> Tensor:
        """Return h @ weight + bias, (..., genes) for h (..., in)."""
        return self.together(h, [self])[0]

    @staticmethod
    def together(h: Tensor, layers: Sequence[GeneLinear]) -> list[Tensor]:
        """Return the result of each of several layers for the same h, in one operation where there is one."""
        if has_affine(h, layers[0].weight):
            return affine(h, *((layer.weight, layer.bias) for layer in layers))
        return [layer._plain(h) for layer in layers]

    def _plain(self, h: Tensor) -> Tensor:
        rows = h.reshape(-1, h.shape[-1])
        return torch.addmm(self.bias, rows, self.weight).view(*h.shape[:-1], self.weight.shape[1])


@dataclass(frozen=True)
class CovariateSizes:
    """How many categories and numbers a layer is conditioned on."""

    categories: tuple[int, ...] = ()
    """Categories of each categorical covariate, the batch first; one category says nothing and gets no table."""
    n_continuous: int = 0
    n_embedding: int = 0
    """Length of the batch embedding, where the batch is embedded and not one of `categories`."""

    @property
    def n_inputs(self) -> int:
        """Inputs that one-hot codes would add."""
        return sum(n for n in self.categories if n > 1)


class CovariateTables(nn.Module):
    """What one-hot covariates, concatenated to a layer's input, add to its output: a row of a table for each category.

    A new category is a new row, so that it can be trained while everything else stays as it is.
    """

    def __init__(self, categories: Sequence[int], n_out: int, *, fan_in: int, generator: Generator) -> None:
        super().__init__()
        self.columns = [i for i, n in enumerate(categories) if n > 1]
        self.tables = nn.ParameterList(uniform((categories[i], n_out), fan_in, generator) for i in self.columns)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return x, (..., cells, out), with the rows of `codes` (cells, covariates) added; x itself without a table."""
        for table, code in self.of(codes):
            x = x + embedding(code, table)
        return x

    def of(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each table, (categories, out), with the code of each cell in it, (cells,)."""
        return [(table, codes[:, i]) for i, table in zip(self.columns, self.tables, strict=True)]


def covariate_codes(batch: Minibatch, *, with_batch: bool) -> Tensor:
    """Return the codes of all categorical covariates, (cells, covariates), the batch first if it is one of them."""
    return torch.cat([batch.batch[:, None], batch.categorical], 1) if with_batch else batch.categorical


@dataclass(frozen=True)
class StackConfig:
    """The shape of a stack of hidden layers."""

    n_layers: int = 1
    n_hidden: int = 128
    dropout_rate: float = 0.0
    dropout_position: Literal["after", "before"] = "after"
    batch_norm: bool = True
    layer_norm: bool = False
    inject: Literal["first", "every"] = "every"


class HiddenStack(nn.Module):
    """Hidden layers of scVI, each `linear -> batch norm -> layer norm -> ReLU -> dropout`, covariates beside the input.

    The first linear map is the caller's (`SparseLinear` for counts, `nn.Linear` for a latent state); the stack owns
    what the covariates add to it, everything after it, and the further layers. With `dropout_position="before"` the
    dropout of a layer acts on its input (the code of 2018); that of the first layer is then the caller's.
    """

    def __init__(
        self, config: StackConfig, covariates: CovariateSizes, *, first_fan_in: int, generator: Generator
    ) -> None:
        super().__init__()
        self.config = config
        width, n = config.n_hidden, config.n_layers
        injected = [i == 0 or config.inject == "every" for i in range(n)]
        fan_in = [first_fan_in] + [width + covariates.n_inputs * injected[i] for i in range(1, n)]
        self.shifts = nn.ModuleList(
            CovariateTables(covariates.categories if injected[i] else (), width, fan_in=fan_in[i], generator=generator)
            for i in range(n)
        )
        self.linears = nn.ModuleList(linear(width, width, fan_in=fan_in[i], generator=generator) for i in range(1, n))
        self.batch_norms = nn.ModuleList(
            nn.BatchNorm1d(width, momentum=_BATCH_NORM_MOMENTUM, eps=_BATCH_NORM_EPS)
            for _ in range(n if config.batch_norm else 0)
        )
        self.layer_norm = nn.LayerNorm(width, elementwise_affine=False) if config.layer_norm else None
        self.dropout = Dropout(config.dropout_rate)

    def forward(
        self,
        x: Tensor | SparseRows,
        codes: Tensor,
        generator: Generator | None = None,
        *,
        first: nn.Linear | SparseLinear | None = None,
    ) -> Tensor:
        """Return the last hidden state, (cells, hidden) or (samples, cells, hidden).

        Parameters
        ----------
        x
            What `first` takes; without it its result, (cells, hidden) or (samples, cells, hidden).
        codes
            Codes of the categorical covariates, (cells, covariates).
        generator
            Of the dropout.
        first
            The linear map of the first layer. Given here, a training step on the CPU has it in the layer's kernel.
        """
        h: Any = x
        for i, linear_map in enumerate((first, *self.linears)):
            if i > 0:
                h = self._dropped(h, generator, "before")
            if self._has_kernel(h):
                h = self._fused(h, linear_map, i, codes, generator)
            else:
                h = self.shifts[i](h if linear_map is None else linear_map(h), codes)
                h = self._dropped(torch.relu(self._normalised(h, i)), generator, "after")
        out: Tensor = h
        return out

    def _has_kernel(self, x: Tensor | SparseRows) -> bool:
        if not (self.training and self.config.batch_norm and self.layer_norm is None):
            return False
        values, n_rows = (x.values, x.n_cells) if isinstance(x, SparseRows) else (x, x.shape[:-1].numel())
        weight = self.batch_norms[0].weight
        return isinstance(weight, Tensor) and n_rows > 1 and cpu_kernels_take(values, weight)

    def _fused(self, x: Any, linear_map: Any, i: int, codes: Tensor, generator: Generator | None) -> Tensor:
        """Return the layer of x in one pass."""
        from celbo.kernels.cpu_hidden import Norm, hidden_layer

        norm, shift, width = self.batch_norms[i], self.shifts[i], self.config.n_hidden
        assert isinstance(norm, nn.BatchNorm1d) and isinstance(shift, CovariateTables)
        assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
        inside: tuple[Tensor, Tensor] | None = None
        leading = (x.n_cells,) if isinstance(x, SparseRows) else x.shape[:-1]
        if isinstance(linear_map, SparseLinear) and linear_map.has_kernel(x):
            x, inside = (x.indptr, x.indices, x.values), (linear_map.weight, linear_map.bias)
        elif isinstance(linear_map, nn.Linear) and linear_map.in_features <= _FEW_INPUTS:
            x, inside = x.reshape(-1, linear_map.in_features), (linear_map.weight, linear_map.bias)
        else:
            x = (x if linear_map is None else linear_map(x)).reshape(-1, width)
        norm.num_batches_tracked += 1
        dropped = self.config.dropout_position == "after" and self.dropout.training
        return hidden_layer(
            x,
            inside,
            shift.of(codes),
            Norm(norm.weight, norm.bias, norm.running_mean, norm.running_var, _BATCH_NORM_MOMENTUM, _BATCH_NORM_EPS),
            keep=1.0 - self.config.dropout_rate if dropped else 1.0,
            generator=generator,
        ).view(*leading, width)

    def _dropped(self, h: Tensor, generator: Generator | None, position: str) -> Tensor:
        return self.dropout(h, generator) if self.config.dropout_position == position else h

    def _normalised(self, h: Tensor, i: int) -> Tensor:
        if self.config.batch_norm:
            h = self.batch_norms[i](h.reshape(-1, h.shape[-1])).view_as(h)
        return h if self.layer_norm is None else self.layer_norm(h)


def uniform(shape: tuple[int, ...], fan_in: int, generator: Generator) -> nn.Parameter:
    """Return a parameter with torch's uniform initialisation for `fan_in` inputs, from an explicit generator."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


def torch_linear(n_in: int, n_out: int, *, bias: bool = True, generator: Generator) -> nn.Linear:
    """Return `nn.Linear(n_in, n_out)` as torch starts it, from an explicit generator: torch's own takes the global one,
    which models made at once in several threads share.
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias)  # type: ignore[no-untyped-call]
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if bias:
        bound = 1 / math.sqrt(n_in) if n_in > 0 else 0
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def linear(n_in: int, n_out: int, *, fan_in: int, bias: bool = True, generator: Generator) -> nn.Linear:
    """Return a linear map with torch's uniform initialisation for `fan_in` inputs, some of which live elsewhere."""
    layer = torch_linear(n_in, n_out, bias=bias, generator=generator)  # drawn twice, so that a seed keeps its weights
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
