"""Decoders: from a latent state to the raw parameters of a likelihood."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from celbo.data.minibatch import Minibatch
from celbo.nn.layers import (
    CovariateSizes,
    CovariateTables,
    GeneLinear,
    HiddenStack,
    StackConfig,
    covariate_codes,
    linear,
)

__all__ = ["CountDecoder", "LinearDecoder"]


class CountDecoder(nn.Module):
    """Latent state and covariates -> hidden layers -> one linear head for each parameter that the likelihood uses.

    Parameters
    ----------
    n_latent, n_genes
        Sizes of input and output.
    stack
        The hidden layers.
    covariates
        What the decoder is conditioned on.
    heads
        Names of the heads to build: "mean" and, where the likelihood uses them, "theta" and "dropout".
    output_covariates
        Whether the categorical covariates are also an input of the heads (the code of 2018).
    generator
        What the initial weights are drawn from.
    """

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        *,
        stack: StackConfig,
        covariates: CovariateSizes,
        heads: tuple[str, ...],
        output_covariates: bool = False,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.covariates = covariates
        n_beside = covariates.n_continuous + covariates.n_embedding
        fan_in = n_latent + n_beside + covariates.n_inputs
        self.first = linear(n_latent + n_beside, stack.n_hidden, fan_in=fan_in, generator=generator)
        self.hidden = HiddenStack(stack, covariates, first_fan_in=fan_in, generator=generator)
        at_output = covariates.categories if output_covariates else ()
        fan_in = stack.n_hidden + (covariates.n_inputs if output_covariates else 0)
        sizes: Any = {"fan_in": fan_in, "generator": generator}
        self.heads = nn.ModuleDict({name: GeneLinear(stack.n_hidden, n_genes, **sizes) for name in heads})
        self.shifts = nn.ModuleDict({name: CovariateTables(at_output, n_genes, **sizes) for name in heads})
        self._batch_is_coded = not covariates.n_embedding

    def head(self, name: str) -> GeneLinear:
        """Return one of the heads."""
        head = self.heads[name]
        assert isinstance(head, GeneLinear)
        return head

    def forward(
        self, z: Tensor, batch: Minibatch, generator: Generator | None = None, *, beside: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the output of each head, (samples, cells, genes), for z (samples, cells, latent)."""
        if beside is not None:
            z = torch.cat([z, beside.expand(z.shape[0], *beside.shape)], -1)
        codes = covariate_codes(batch, with_batch=self._batch_is_coded)
        h = self.hidden(z, codes, generator, first=self.first)  # (samples, cells, hidden)
        out = GeneLinear.together(h, [self.head(name) for name in self.heads])
        return {name: self.shifts[name](y, codes) for name, y in zip(self.heads, out, strict=True)}


class LinearDecoder(nn.Module):
    """Latent state and covariates -> one linear map for each parameter that the likelihood uses.

    Parameters
    ----------
    n_latent, n_genes
        Sizes of input and output.
    covariates
        What the decoder is conditioned on: rows of a table, and factors of the continuous ones.
    heads
        Names of the maps to build: "mean" and, where the likelihood uses it, "dropout".
    batch_norm
        Batch norm over the cells after each map, as in scvi-tools.
    generator
        What the initial weights are drawn from.
    """

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        *,
        covariates: CovariateSizes,
        heads: tuple[str, ...],
        batch_norm: bool,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        n_inputs = n_latent + covariates.n_continuous + covariates.n_embedding
        fan_in = n_inputs + covariates.n_inputs
        sizes: Any = {"fan_in": fan_in, "generator": generator}
        self.heads = nn.ModuleDict({name: GeneLinear(n_inputs, n_genes, **sizes) for name in heads})
        self.shifts = nn.ModuleDict({name: CovariateTables(covariates.categories, n_genes, **sizes) for name in heads})
        self.norms = nn.ModuleDict(
            {name: nn.BatchNorm1d(n_genes, momentum=0.01, eps=1e-3) for name in (heads if batch_norm else ())}
        )
        self._batch_is_coded = not covariates.n_embedding

    def head(self, name: str) -> GeneLinear:
        """Return one of the linear maps."""
        head = self.heads[name]
        assert isinstance(head, GeneLinear)
        return head

    def loadings(self, name: str) -> Tensor:
        """Return what one unit of each latent dimension adds to the output; (genes, latent)."""
        weight = self.head(name).weight[: self.n_latent].T
        if name not in self.norms:
            return weight
        norm: Any = self.norms[name]
        factor: Tensor = norm.weight / (norm.running_var + norm.eps).sqrt()
        return weight * factor[:, None]

    @torch.no_grad()
    def bias_behind_norm(self) -> None:
        """Hand the biases of the maps to the norms behind them, which would take them out."""
        for name, norm in self.norms.items():
            bias: Tensor = self.head(name).bias
            behind: Any = norm
            behind.bias.copy_(bias)
            bias.zero_()

    def forward(
        self, z: Tensor, batch: Minibatch, generator: Generator | None = None, *, beside: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the output of each map, (samples, cells, genes), for z (samples, cells, latent)."""
        if beside is not None:
            z = torch.cat([z, beside.expand(z.shape[0], *beside.shape)], -1)
        codes = covariate_codes(batch, with_batch=self._batch_is_coded)
        maps = GeneLinear.together(z, [self.head(name) for name in self.heads])
        out = {name: self.shifts[name](y, codes) for name, y in zip(self.heads, maps, strict=True)}
        return {name: self._normalised(name, y) for name, y in out.items()}

    def _normalised(self, name: str, y: Tensor) -> Tensor:
        if name not in self.norms:
            return y
        out: Tensor = self.norms[name](y.reshape(-1, y.shape[-1])).view_as(y)
        return out
