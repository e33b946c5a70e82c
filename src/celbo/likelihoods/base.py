"""What a decoder hands to a likelihood, and what every likelihood can do with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from celbo.data.minibatch import SparseRows
from celbo.errors import OptionError
from celbo.kernels import cpu_kernels_take, reference
from celbo.likelihoods.special import log_softplus

__all__ = ["CountParameters", "Likelihood", "Link", "Route"]

Link = Literal["softmax", "exp", "softplus"]
Route = Literal["auto", "reference", "torch", "fused"]
_FUSED = ("nb", "zinb", "poisson", "zip", "normal")


@dataclass(frozen=True)
class CountParameters:
    """Raw decoder outputs: everything a likelihood of counts needs, before any transform.

    The mean is `exp(log_scale) * scale` with `scale = softmax(logits)`, `exp(logits)` or `softplus(logits)`.
    """

    logits: Tensor
    """Raw output of the mean head; (samples, cells, genes)."""
    log_scale: Tensor
    """Log library size or log size factor; (samples, cells) or (1, cells)."""
    log_theta: Tensor | None = None
    """Log inverse dispersion (log standard deviation for the normal): a table (rows, genes) with `theta_row`, or an
    entry each (samples, cells, genes); None for likelihoods without one."""
    theta_row: Tensor | None = None
    """Row of the table for each cell; (cells,) int64. None: the table has one row for all cells."""
    dropout_logits: Tensor | None = None
    """Logit of the zero-inflation probability; (samples, cells, genes)."""
    link: Link = "softmax"
    class_logits: Tensor | None = None
    """Logits of the classes of a piecewise categorical, (samples, cells, genes, n_classes + 1): the counts below
    `n_classes` each, then all others together."""

    @cached_property
    def log_share(self) -> Tensor:
        """Log of the scale, the expected share under softmax; (samples, cells, genes)."""
        if self.link == "softmax":
            return torch.log_softmax(self.logits, dim=-1)
        return self.logits if self.link == "exp" else log_softplus(self.logits)

    @cached_property
    def log_mean(self) -> Tensor:
        """Log of the mean before zero inflation; (samples, cells, genes)."""
        return self.log_share + self.log_scale.unsqueeze(-1)

    @cached_property
    def log_theta_entries(self) -> Tensor:
        """Log inverse dispersion, broadcastable to (samples, cells, genes)."""
        assert self.log_theta is not None
        if self.log_theta.dim() == 3:
            return self.log_theta
        return (self.log_theta if self.theta_row is None else self.log_theta.index_select(0, self.theta_row))[None]

    def map(self, change: Callable[[Tensor], Tensor]) -> CountParameters:
        """Return the parameters with `change` applied to each floating tensor (a dtype, a device, a detach)."""
        return CountParameters(
            change(self.logits),
            change(self.log_scale),
            None if self.log_theta is None else change(self.log_theta),
            self.theta_row,
            None if self.dropout_logits is None else change(self.dropout_logits),
            self.link,
            None if self.class_logits is None else change(self.class_logits),
        )

    @classmethod
    def of_r_and_p(cls, *, log_r: Tensor, logit_p: Tensor, dropout_logits: Tensor | None = None) -> CountParameters:
        """Return the parameters of the negative binomial of r failures and success probability p.

        `p(x) = Gamma(x + r) / (Gamma(r) x!) p^x (1 - p)^r` has inverse dispersion r and mean `r p / (1 - p)`, so
        `log mu = log r + logit p` without rounding.

        Parameters
        ----------
        log_r, logit_p
            (samples, cells, genes) each; `log_r` may also be a table (1, genes).
        dropout_logits
            Logit of the zero-inflation probability, (samples, cells, genes).
        """
        no_scale = logit_p.new_zeros(1, logit_p.shape[1])
        return cls(log_r + logit_p, no_scale, log_r, dropout_logits=dropout_logits, link="exp")


class Likelihood(ABC):
    """A distribution of one cell's counts given the decoder's output; genes are independent.

    `log_prob` sums over genes; every other method works entry by entry. A likelihood has no state.
    """

    name: ClassVar[str]
    has_dispersion: bool = False
    has_dropout: bool = False
    n_classes: int = 0
    """Counts with a probability of their own, 0 to n_classes - 1: `class_logits` has one entry more; 0 for none."""
    counts_only: bool = True
    """True where the support is 0, 1, 2, ..."""
    comparable: bool = True
    """Whether `log_prob` is the log-probability of the counts themselves, so that it can stand beside that of another
    likelihood: a density's cannot, nor that of counts made binary."""

    @abstractmethod
    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""

    @abstractmethod
    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""

    def log_prob(self, p: CountParameters, rows: SparseRows, *, route: Route = "auto") -> Tensor:
        """Log-probability of each cell in nats, (samples, cells).

        Parameters
        ----------
        p
            The decoder's output.
        rows
            The counts of the same cells.
        route
            "auto" is the fastest there is, "torch" plain torch on any device, "reference" the float64 oracle (it
            returns float64).

        Raises
        ------
        OptionError
            If the route does not exist, or cannot take these tensors.
        """
        if route == "reference":
            return self._log_prob_reference(p.map(lambda t: t.double()), rows)
        if route == "fused" or (route == "auto" and self._has_fused(p)):
            return self._log_prob_fused(p, rows)
        if route not in ("auto", "torch"):
            raise OptionError("is not a route", where="route", value=repr(route), fix="Use 'auto'.")
        return self.log_prob_sparse(p, rows).sum(-1)

    def _has_fused(self, p: CountParameters) -> bool:
        return self.name in _FUSED and cpu_kernels_take(p.logits)

    def _log_prob_fused(self, p: CountParameters, rows: SparseRows) -> Tensor:
        if not self._has_fused(p):
            raise OptionError(
                "takes float32 tensors on the CPU, of the likelihoods nb, zinb, poisson, zip and normal",
                where="route 'fused'",
                value=f"{self.name}, {p.logits.dtype} on {p.logits.device}",
                fix="Use route='auto'.",
            )
        from celbo.kernels import cpu

        softmax = p.link == "softmax"
        return cpu.fused_log_prob(
            cpu.KINDS[self.name],
            (rows.indptr, rows.indices, rows.values),
            p.logits if softmax else p.log_share,
            p.log_scale,
            p.log_theta if self.has_dispersion else None,
            p.theta_row,
            p.dropout_logits if self.has_dropout else None,
            softmax=softmax,
        )

    def _log_prob_reference(self, p: CountParameters, rows: SparseRows) -> Tensor:
        theta = p.log_theta_entries if self.has_dispersion else None
        return reference.LOG_PROB[self.name](rows.dense, p.log_mean, theta, p.dropout_logits).sum(-1)

    @abstractmethod
    def mean(self, p: CountParameters) -> Tensor:
        """Mean of each entry, (samples, cells, genes)."""

    def mean_without_inflation(self, p: CountParameters) -> Tensor:
        """Mean of each entry had no zero been put in, (samples, cells, genes); the mean without inflation."""
        return self.mean(p)

    @abstractmethod
    def variance(self, p: CountParameters) -> Tensor:
        """Variance of each entry, (samples, cells, genes)."""

    @abstractmethod
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, (samples, cells, genes)."""
