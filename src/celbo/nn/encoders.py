"""Encoders: from a minibatch of counts to a Gaussian posterior."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from celbo.data.minibatch import Minibatch
from celbo.nn.latent import GaussianPosterior
from celbo.nn.layers import CovariateSizes, HiddenStack, SparseLinear, StackConfig, covariate_codes, linear

__all__ = ["GaussianEncoder"]


class GaussianEncoder(nn.Module):
    """log1p -> hidden layers -> mean and log variance of a diagonal Gaussian, in one matrix product.

    Parameters
    ----------
    n_genes, n_outputs
        Sizes of input and of the Gaussian.
    stack
        The hidden layers.
    covariates
        What the encoder is conditioned on; nothing by default.
    variance_floor
        Added to the variance (scvi-tools: 1e-4).
    generator
        What the initial weights are drawn from.
    """

    def __init__(
        self,
        n_genes: int,
        n_outputs: int,
        *,
        stack: StackConfig,
        covariates: CovariateSizes | None = None,
        variance_floor: float = 1e-4,
        generator: Generator,
    ) -> None:
        super().__init__()
        covariates = covariates or CovariateSizes()
        n_beside = covariates.n_continuous + covariates.n_embedding
        fan_in = n_genes + n_beside + covariates.n_inputs
        self.first = SparseLinear(n_genes, stack.n_hidden, fan_in=fan_in, generator=generator)
        self.beside = (
            linear(n_beside, stack.n_hidden, fan_in=fan_in, bias=False, generator=generator) if n_beside else None
        )
        self.hidden = HiddenStack(stack, covariates, first_fan_in=fan_in, generator=generator)
        self.head = linear(stack.n_hidden, 2 * n_outputs, fan_in=stack.n_hidden, generator=generator)
        self.variance_floor = variance_floor
        self._batch_is_coded = bool(covariates.categories) and not covariates.n_embedding
        self._drop_input = stack.dropout_position == "before" and stack.dropout_rate > 0

    def forward(
        self, batch: Minibatch, generator: Generator | None = None, *, beside: Tensor | None = None
    ) -> GaussianPosterior:
        """Return the posterior of each cell; `beside` are dense inputs next to the counts, (cells, n_beside)."""
        codes = covariate_codes(batch, with_batch=self._batch_is_coded)
        if beside is None and not (self._drop_input and self.training):
            h = self.hidden(batch.rows, codes, generator, first=self.first)  # (cells, hidden)
        else:
            h = self.hidden(self._first(batch, beside, generator), codes, generator)
        return GaussianPosterior.from_hidden(h, self.head, variance_floor=self.variance_floor)

    def _first(self, batch: Minibatch, beside: Tensor | None, generator: Generator | None) -> Tensor:
        """Return the first linear map of the counts, which dropout may hit, and of what lies beside them."""
        dropout = None
        if self._drop_input and self.training:
            dropout = self.hidden.dropout.mask(batch.rows.dense, generator)
        first: Tensor = self.first(batch.rows, dropout)
        return first if self.beside is None or beside is None else first + self.beside(beside)
