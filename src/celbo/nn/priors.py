"""A Gaussian mixture as the prior of a latent state, and where its clusters start.

p(y) = Cat(pi),   p(z | y) = N(mu_y, diag sigma_y^2),   p(z) = sum_y pi_y p(z | y)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from celbo.data.cells import CellData
from celbo.data.components import log_normalised, principal_components
from celbo.data.minibatch import Minibatch
from celbo.nn.latent import GaussianPosterior, MixturePosterior

__all__ = ["ClusterStart", "MixturePrior"]

Floats = npt.NDArray[np.float64]
_UNIT = 0.5413248546129181
"""The number whose softplus is one."""
_SPREAD = 2.0
"""Root mean square of the components' means over coordinates at the start, in standard deviations of a component."""


class MixturePrior(nn.Module):
    """Components with linear maps of the one-hot y as means and variances: a row of a table for each.

    Parameters
    ----------
    n_components, n_latent
        Sizes.
    learn_probabilities
        Whether p(y) is trained; else it stays what it is set to, uniform at first.
    generator
        What the initial means are drawn from.
    """

    logits: Tensor

    def __init__(
        self, n_components: int, n_latent: int, *, learn_probabilities: bool = False, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(n_components, n_latent, generator=generator))
        self.raw_variance = nn.Parameter(torch.full((n_components, n_latent), _UNIT))  # softplus of it is the variance
        logits = torch.zeros(n_components)
        if learn_probabilities:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    @property
    def log_probability(self) -> Tensor:
        """Log p(y); (components,)."""
        return self.logits.log_softmax(0)

    @property
    def components(self) -> GaussianPosterior:
        """p(z | y), with means and scales of shape (components, 1, latent)."""
        variance = nn.functional.softplus(self.raw_variance).clamp_min(_SMALLEST)
        return GaussianPosterior(self.mean[:, None], variance.sqrt()[:, None])

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of the mixture in nats; z (..., cells, latent), the result (..., cells)."""
        each = self.components.log_prob(z.unsqueeze(-3))  # (..., components, cells)
        return (each + self.log_probability[:, None]).logsumexp(-2)

    def sample(self, n_samples: int, n_cells: int, generator: torch.Generator | None) -> Tensor:
        """Return draws of a component and then of z; (n_samples, n_cells, latent)."""
        p, shape = self.components, (len(self.mean), n_cells, self.mean.shape[1])
        each = GaussianPosterior(p.mean.expand(shape), p.scale.expand(shape))
        return MixturePosterior(self.log_probability.expand(n_cells, -1), each).sample(n_samples, generator)

    def kl_from(self, q: MixturePosterior) -> dict[str, Tensor]:
        """Return the terms of KL(q(y, z | x) || p(y, z)), each analytic, (cells,).

        "z" is `sum_y q(y | x) KL(q(z | x, y) || p(z | y))`, "y" is `KL(q(y | x) || p(y))`.
        """
        p = self.components
        of_z = q.components.kl_to(p.mean, p.scale)  # (components, cells)
        of_y = q.weight * (q.log_weight - self.log_probability)
        return {"z": (q.weight.T * of_z).sum(0), "y": of_y.sum(1)}


_SMALLEST = 1e-6
"""Variance below which no component shrinks: a component without cells must not become a point."""


class ClusterStart(nn.Module):
    """k-means on principal components, as what the clusters of a mixture are first pulled to.

    A mixture that starts at random ends with most cells in few components: an empty component gets no gradient. The
    start is a function of a cell's counts, so it serves any minibatch, and it is saved with the weights: log-normalised
    counts, each gene scaled to unit variance and cut at 10, projected, the mean of the batch taken off, each component
    divided by the root of its standard deviation.

    Parameters
    ----------
    n_genes, n_batches, n_components
        Sizes.
    n_directions
        Principal components that k-means sees; fewer where the training cells have fewer.
    """

    target: Tensor
    gene_sd: Tensor
    loadings: Tensor
    offset: Tensor
    centroids: Tensor

    def __init__(self, n_genes: int, n_batches: int, n_components: int, *, n_directions: int = 20) -> None:
        super().__init__()
        self.n_directions = n_directions
        self.register_buffer("target", torch.ones(()))  # total that counts are scaled to
        self.register_buffer("gene_sd", torch.ones(n_genes))
        self.register_buffer("loadings", torch.zeros(n_genes, n_directions))
        self.register_buffer("offset", torch.zeros(n_batches, n_directions))  # mean of each batch
        self.register_buffer("centroids", torch.zeros(n_components, n_directions))

    @torch.no_grad()
    def fit(self, data: CellData, train: npt.NDArray[np.int64], *, seed: int = 0) -> None:
        """Take the directions and the centroids from the training cells alone."""
        from sklearn.cluster import KMeans

        target = float(np.median(data.library[train]))
        values = log_normalised(data.counts, target=target, rows=train)
        sd = _standard_deviations(values)
        values.data = np.minimum(values.data / sd[values.indices], _CUT)
        k = min(self.n_directions, len(train) - 1, data.n_genes)
        found = principal_components(values, k, seed=seed)
        loadings = found.loadings / np.maximum(found.variance, _SMALLEST) ** 0.25
        coordinates = np.asarray(values @ loadings)
        batch, offset = data.batch[train], np.zeros((data.schema.n_batches, k))
        offset[:] = coordinates.mean(0)  # for a batch without training cells
        for code in np.unique(batch):
            offset[code] = coordinates[batch == code].mean(0)
        n_clusters = min(len(self.centroids), len(train))
        centroids = KMeans(n_clusters, n_init=10, random_state=seed).fit(coordinates - offset[batch]).cluster_centers_
        self.target.fill_(target)
        self.gene_sd.copy_(torch.from_numpy(sd))
        self.loadings[:, :k] = torch.from_numpy(loadings)
        self.offset[:, :k] = torch.from_numpy(offset)
        self.centroids[:n_clusters, :k] = torch.from_numpy(centroids)
        self.centroids[n_clusters:] = torch.inf  # of components more than cells: nearest to none

    def assign(self, batch: Minibatch) -> Tensor:
        """Return the nearest centroid of each cell, (cells,)."""
        values = (batch.rows.dense * (self.target / batch.library)[:, None]).log1p() / self.gene_sd
        coordinates = values.clamp_max(_CUT) @ self.loadings - self.offset[batch.batch]
        return (coordinates[:, None] - self.centroids).square().sum(-1).argmin(1)

    def means(self, n_latent: int) -> Tensor:
        """Return means of components that lie to each other as the centroids do, (components, latent)."""
        known = self.centroids.isfinite().all(1)
        centred = torch.where(known[:, None], self.centroids - self.centroids[known].mean(0), 0.0).double()
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        kept = (centred @ directions[:n_latent].T).to(self.centroids.dtype)  # (components, at most latent)
        kept = kept * (_SPREAD / kept.square().mean().sqrt().clamp_min(_SMALLEST))
        return nn.functional.pad(kept, (0, n_latent - kept.shape[1]))


_CUT = 10.0
"""Largest scaled value, as is usual: a gene seen in a handful of cells would decide where they go."""


def _standard_deviations(values: Any) -> Floats:
    """Return the standard deviation of each column of a CSR matrix, one where it is constant; (genes,)."""
    mean = np.asarray(values.mean(axis=0), np.float64).ravel()
    squares = np.bincount(values.indices, weights=values.data.astype(np.float64) ** 2, minlength=values.shape[1])
    sd = np.sqrt(np.maximum(squares / values.shape[0] - mean**2, 0.0))
    return np.where(sd > _SMALLEST, sd, 1.0)
