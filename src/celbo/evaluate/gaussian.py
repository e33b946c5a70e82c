"""Held-out likelihood of counts under factor analysis, so that it can stand beside models of counts.

Factor analysis is a Gaussian of y = log(1 + s x), z ~ N(0, I), y | z ~ N(W z + m, diag(psi)). What it says of the
counts x of a cell is the probability of the interval of y that rounds to x, gene by gene given z:

    ln p(x) = ln E_z prod_g P(x_g | z)  ~  ln mean_k [ prod_g P(x_g | z_k) p(z_k) / q(z_k) ],   z_k ~ q

with the factors' posterior given y as the proposal q (Burda et al. 2016).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from celbo.data.components import log_normalised
from celbo.data.counts import CountMatrix
from celbo.likelihoods.interval import interval_log_prob

if TYPE_CHECKING:
    from celbo.embed import FactorAnalysis

__all__ = ["factor_analysis_log_likelihood"]

_ENTRIES = 1 << 23
"""Entries of (samples, cells, genes) at a time."""


def factor_analysis_log_likelihood(
    fit: FactorAnalysis, counts: sparse.csr_matrix, *, target: float, n_samples: int = 100, seed: int = 0
) -> NDArray[np.float64]:
    """Return ln p(counts) of each cell under a factor analysis of log-normalised counts.

    Parameters
    ----------
    fit
        Fitted to log1p(counts x target / total).
    counts
        Raw counts of cells it has not seen, (cells, genes).
    target
        The total that it was fitted with.
    n_samples
        Draws of the factors of each cell; the estimate is a lower bound that rises with them.
    seed
        Seed of the draws.

    Returns
    -------
    (cells,) nats.
    """
    values = log_normalised(counts, target=target)
    means = torch.from_numpy(np.ascontiguousarray(fit.transform(values)))
    covariance = torch.from_numpy(np.ascontiguousarray(fit.posterior_covariance()))
    root = torch.linalg.cholesky(covariance)
    loadings, middle = torch.from_numpy(fit.loadings.copy()), torch.from_numpy(fit.mean.copy())
    sd = torch.from_numpy(fit.noise_variance.copy()).sqrt()
    scale = torch.from_numpy(target / np.maximum(np.asarray(counts.sum(1), np.float64).ravel(), 1.0))
    matrix = CountMatrix.from_scipy(counts)
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _ENTRIES // (n_samples * matrix.n_genes))
    out = []
    for start in range(0, matrix.n_cells, step):
        at = np.arange(start, min(start + step, matrix.n_cells))
        noise = torch.randn((n_samples, len(at), len(root)), generator=generator).double()
        z = means[at] + noise @ root.T
        log_q = -0.5 * noise.square().sum(-1) - root.diagonal().log().sum()
        log_p = -0.5 * z.square().sum(-1)
        inside = interval_log_prob(matrix.rows(at), z @ loadings.T + middle, sd, scale[at])
        out.append(torch.logsumexp(inside + log_p - log_q, 0) - np.log(n_samples))
    return torch.cat(out).numpy()
