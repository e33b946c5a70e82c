"""scVAE's piecewise categorical: a probability for each small count, and another distribution above.

With K classes for the counts 0 to K-1, one more for all others, `pi = softmax(class_logits)`, and a distribution q of
counts,

    p(x) = pi_x for x < K,   pi_K q(x - K) for x >= K
    E[x] = sum_{k<K} k pi_k + pi_K (K + E[q])
    Var[x] = sum_{k<K} pi_k (k - E[x])^2 + pi_K (Var[q] + (K + E[q] - E[x])^2)

Groenbech et al. 2020, doi:10.1093/bioinformatics/btaa293 (option `-k`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from celbo.data.minibatch import SparseRows
from celbo.errors import OptionError
from celbo.kernels import reference
from celbo.likelihoods.base import CountParameters, Likelihood

__all__ = ["PiecewiseCategorical"]


class PiecewiseCategorical(Likelihood):
    """Counts below `n_classes` with a probability each, the others by `base`; see the module for the formulas.

    Parameters
    ----------
    base
        Likelihood of counts; it takes its part of the parameters as always.
    n_classes
        K, at least 1; `class_logits` has K + 1 entries.

    Raises
    ------
    OptionError
        If K is below 1, or the base is no distribution of counts.
    """

    name = "piecewise-categorical"

    def __init__(self, base: Likelihood, n_classes: int) -> None:
        if n_classes < 1:
            raise OptionError("is below 1", where="n_classes", value=str(n_classes), fix="Use 0 for no classes.")
        if not (base.counts_only and base.comparable) or base.n_classes:
            raise OptionError(
                "needs a distribution of counts above its classes",
                where="n_classes",
                value=f"likelihood {base.name!r}",
                fix="Use 'nb', 'poisson', 'zinb' or 'zip', or n_classes=0.",
            )
        self.base, self.n_classes = base, n_classes
        self.has_dispersion, self.has_dropout = base.has_dispersion, base.has_dropout

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""
        log_pi = self._log_pi(p)
        samples, k = log_pi.shape[0], self.n_classes
        at = rows.row_of * rows.n_genes + rows.indices
        x = rows.values
        # a value that is not a number lies in the last class, where the base keeps it
        classes = torch.where(x < k, x, k).long()
        stored = log_pi.flatten(1).index_select(1, at * (k + 1) + classes)
        above = ~(x < k)
        stored = stored.index_add(1, above.nonzero()[:, 0], self._base_at(p, at[above], x[above] - k).to(stored.dtype))
        return log_pi[..., 0].reshape(samples, -1).index_copy(1, at, stored).view(p.logits.shape)

    def _base_at(self, p: CountParameters, at: Tensor, x: Tensor) -> Tensor:
        """Return the base's log-probability of x at these positions of (cells, genes), (samples, positions)."""

        def taken(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.expand_as(p.logits).flatten(1).index_select(1, at).unsqueeze(-1)

        log_mean, theta = taken(p.log_mean), p.log_theta_entries if self.has_dispersion else None
        assert log_mean is not None
        entries = CountParameters(
            log_mean, log_mean.new_zeros(1, at.shape[0]), taken(theta), None, taken(p.dropout_logits), "exp"
        )
        return self.base.log_prob_entries(entries, x[:, None]).squeeze(-1)

    def _log_prob_reference(self, p: CountParameters, rows: SparseRows) -> Tensor:
        assert p.class_logits is not None
        theta = p.log_theta_entries if self.has_dispersion else None
        above = (rows.dense - self.n_classes).clamp(min=0)
        of_above = reference.LOG_PROB[self.base.name](above, p.log_mean, theta, p.dropout_logits)
        return reference.piecewise_categorical(rows.dense, p.class_logits, of_above).sum(-1)

    def mean(self, p: CountParameters) -> Tensor:
        """`sum_{k<K} k pi_k + pi_K (K + E[q])`, (samples, cells, genes)."""
        return self._mean(p, self.base.mean(p))

    def mean_without_inflation(self, p: CountParameters) -> Tensor:
        """The mean with the base's mean without inflation, (samples, cells, genes)."""
        return self._mean(p, self.base.mean_without_inflation(p))

    def variance(self, p: CountParameters) -> Tensor:
        """`sum_{k<K} pi_k (k - E[x])^2 + pi_K (Var[q] + (K + E[q] - E[x])^2)`, (samples, cells, genes)."""
        of_base, pi = self.base.mean(p), self._log_pi(p).exp()
        mean = self._mean(p, of_base)
        distance = torch.arange(self.n_classes, device=mean.device, dtype=mean.dtype) - mean.unsqueeze(-1)
        beyond = self.base.variance(p) + (self.n_classes + of_base - mean).square()
        return (pi[..., :-1] * distance.square()).sum(-1) + pi[..., -1] * beyond

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry: a class, and above the classes a draw of the base; (samples, cells, genes)."""
        pi = self._log_pi(p).exp()
        classes = torch.multinomial(pi.flatten(0, -2), 1, generator=generator).view(p.logits.shape)
        counts = self.base.sample(p, generator)
        return torch.where(classes < self.n_classes, classes.to(counts.dtype), counts + self.n_classes)

    def _mean(self, p: CountParameters, of_base: Tensor) -> Tensor:
        pi = self._log_pi(p).exp()
        k = torch.arange(self.n_classes, device=pi.device, dtype=pi.dtype)
        return pi[..., :-1] @ k + pi[..., -1] * (self.n_classes + of_base)

    def _log_pi(self, p: CountParameters) -> Tensor:
        """Return the log-probabilities of the classes, (samples, cells, genes, K + 1)."""
        assert p.class_logits is not None and p.class_logits.shape[-1] == self.n_classes + 1
        return torch.log_softmax(p.class_logits, dim=-1)
