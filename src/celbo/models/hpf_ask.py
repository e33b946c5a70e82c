"""What is asked of a fitted factorisation: evidence, overlaps of factors, and how many factors there should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse, special, stats

from celbo.errors import OptionError
from celbo.kernels import cpu_hpf as cavi
from celbo.kernels.cpu_hpf import GammaPrior, Loadings, StoredCounts
from celbo.models.hpf_fit import log_factorials

__all__ = ["log_likelihood", "marginal_ll", "maximum_overlaps", "row_sums", "smallest_good", "thinned"]

Floats = npt.NDArray[np.float64]
_ENTRIES = 1 << 22  # draws made at a time: bounds the memory
_WIDER = 0.5  # shape and rate of the wider half of the proposal, relative to those of q


def log_likelihood(counts: sparse.csr_matrix, cells: Floats, genes: Floats) -> Floats:
    """Return the Poisson log-likelihood of all entries of each cell, the zeros too, (cells,) nats.

    Linear in the stored counts: sum_g x log rate needs those alone, and sum_g rate is theta . sum_g beta_g.

    Parameters
    ----------
    counts
        (cells, genes) float32.
    cells, genes
        Loadings, (cells, components) and (genes, components): the rates are cells @ genes.T.
    """
    logs = cavi.log_rates(StoredCounts.of(counts), cells, genes)
    out: Floats = logs - cells @ genes.sum(0) - row_sums(log_factorials(counts.data), counts)
    return out


def marginal_ll(counts: sparse.csr_matrix, genes: Floats, prior: GammaPrior, *, n_samples: int, seed: int) -> Floats:
    """Return the importance-weighted estimate of log p(x | beta) of each cell, (cells,) nats.

    The prior of theta has xi integrated out. The proposal is an equal mixture of the mean-field q(theta | x, beta),
    made for these very loadings, and of the same Gammas with half the shape and half the rate: a mean-field q is
    narrower than the posterior, and a proposal should not be. The expectation is a lower bound.

    Parameters
    ----------
    counts
        (cells, genes) float32.
    genes
        Loadings of the genes, (genes, components).
    prior
        Prior of the cells' loadings.
    n_samples
        Draws for each cell.
    seed
        Seed of the draws.
    """
    sums, rng = genes.sum(0), np.random.default_rng(seed)
    n_cells = max(1, _ENTRIES // (genes.shape[1] * n_samples))
    out = np.empty(counts.shape[0])
    for start in range(0, counts.shape[0], n_cells):
        block = counts[start : start + n_cells]
        rows = StoredCounts.of(block)
        q = cavi.project(rows, genes, sums, prior)
        log_theta, log_q = _proposed(q, n_samples, rng)
        theta = np.exp(log_theta)
        weight = cavi.log_rates_of_draws(rows, theta, genes) - np.einsum("iks,k->is", theta, sums)
        weight += _log_prior(log_theta, theta, prior) - log_q
        out[start : start + n_cells] = special.logsumexp(weight, 1) - np.log(n_samples)
    return out - row_sums(log_factorials(counts.data), counts)


def _proposed(q: Loadings, n_samples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw log theta, (cells, components, samples); return it and its log density (of theta), (cells, samples)."""
    scales = np.where(np.arange(n_samples) % 2, _WIDER, 1.0)
    shape, rate = (x[:, :, None] * scales for x in (q.shape, q.rate))
    # a Gamma of a small shape is a Gamma of that shape + 1 times U^(1/shape): its logarithm does not underflow
    log_theta = np.log(rng.standard_gamma(shape + 1)) - rng.standard_exponential(shape.shape) / shape - np.log(rate)
    theta = np.exp(log_theta)
    parts = []
    for scale in (1.0, _WIDER) if n_samples > 1 else (1.0,):
        s, r = scale * q.shape, scale * q.rate
        constant = (s * np.log(r) - special.gammaln(s)).sum(1)[:, None]
        parts.append(constant + np.einsum("ik,iks->is", s - 1, log_theta) - np.einsum("ik,iks->is", r, theta))
    shares = [(scales == scale).mean() for scale in (1.0, _WIDER)]
    log_q = special.logsumexp(np.stack(parts), 0, b=np.array(shares[: len(parts)])[:, None, None])
    return log_theta, log_q


def _log_prior(log_theta: Floats, theta: Floats, prior: GammaPrior) -> Floats:
    """Log p(theta), the rate of its prior integrated out, (cells, samples)."""
    k, h = theta.shape[1], prior.hyper_posterior_shape(theta.shape[1])
    constant = prior.hyper_shape * np.log(prior.hyper_rate) + special.gammaln(h)
    constant -= special.gammaln(prior.hyper_shape) + k * special.gammaln(prior.shape)
    log_p: Floats = constant + (prior.shape - 1) * log_theta.sum(1) - h * np.log(prior.hyper_rate + theta.sum(1))
    return log_p


def row_sums(values: Floats, counts: sparse.csr_matrix) -> Floats:
    """Return sums of values that belong to the stored counts, (cells,)."""
    cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    sums: Floats = np.bincount(cell, values, counts.shape[0]).astype(np.float64)
    return sums


# -- how many factors ------------------------------------------------------------------------------------------------


def maximum_overlaps(scores: Floats, n_top: Sequence[int]) -> pd.DataFrame:
    """Return how many top genes the two factors most alike share, as scHPF's table of that name.

    Parameters
    ----------
    scores
        Score of each gene for each factor, (genes, factors).
    n_top
        Numbers of top genes to look at; those that are not below the number of genes are left out.

    Returns
    -------
    One row a number, with `max_overlap` and `max2_overlap`, the two largest overlaps of a pair of factors, and their
    hypergeometric p-values `p_max` and `p_max2`, P(overlap or more) for two random sets of genes. They are for one
    pair: with K factors K (K - 1) / 2 pairs are compared.
    """
    n_genes, k = scores.shape
    order, rows = np.argsort(-scores, axis=0, kind="stable"), []
    for n in n_top:
        if n >= n_genes:
            continue
        chosen = np.zeros((n_genes, k), np.int64)
        np.put_along_axis(chosen, order[:n], 1, axis=0)
        shared = np.sort((chosen.T @ chosen)[np.triu_indices(k, 1)])[::-1]
        first, second = (int(shared[i]) if shared.size > i else 0 for i in (0, 1))
        p = [float(stats.hypergeom.sf(overlap - 1, n_genes, n, n)) for overlap in (first, second)]
        rows.append({"n_top": n, "max_overlap": first, "p_max": p[0], "max2_overlap": second, "p_max2": p[1]})
    return pd.DataFrame(rows, columns=["n_top", "max_overlap", "p_max", "max2_overlap", "p_max2"]).set_index("n_top")


def thinned(counts: sparse.csr_matrix, share: float, seed: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Split each count at random, x = first + second with first ~ Binomial(x, share)."""
    if not 0 < share < 1:
        raise OptionError("is not above 0 and below 1", where=f"train_share={share!r}")
    first = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), share)
    parts = []
    for values in (first, counts.data.astype(np.int64) - first):
        part = sparse.csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
        part = part.copy()
        part.eliminate_zeros()
        parts.append(part)
    return parts[0], parts[1]


def smallest_good(scores: dict[int, Floats]) -> dict[str, Any]:
    """Compare numbers of factors on the same cells.

    Parameters
    ----------
    scores
        Log-likelihood of each cell, by number of factors.

    Returns
    -------
    By name a list in the order of `scores`: the mean; what it lies below the best; the standard error of that over
    cells; whether it is the smallest number within one standard error of the best.
    """
    means = {k: float(values.mean()) for k, values in scores.items()}
    best = max(means, key=lambda k: means[k])
    errors = {k: float((scores[best] - v).std(ddof=1) / np.sqrt(v.size)) for k, v in scores.items()}
    good = min(k for k in scores if means[best] - means[k] <= errors[k])
    return {
        "log_likelihood": list(means.values()),
        "below_best": [means[best] - m for m in means.values()],
        "standard_error": list(errors.values()),
        "chosen": [k == good for k in scores],
    }
