"""A model whose posterior and evidence are known: z ~ N(0, I), x | z ~ N(W z + b, sigma^2 I), W orthogonal.

With orthogonal loadings the exact posterior is diagonal, so that a Gaussian encoder with a linear mean can be exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.counts import CountMatrix
from celbo.data.minibatch import Minibatch, SparseRows
from celbo.data.schema import Schema
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.nn.latent import GaussianPosterior, Latent
from celbo.training.plan import Loss, StepState

N_GENES, N_LATENT, SIGMA = 24, 3, 0.7


class FixedNormal(Likelihood):
    """x ~ Normal(logits, sigma)."""

    name = "fixed-normal"
    counts_only = False

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        return torch.distributions.Normal(p.logits, self.sigma).log_prob(x)

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        return self.log_prob_entries(p, rows.dense)

    def mean(self, p: CountParameters) -> Tensor:
        return p.logits

    def variance(self, p: CountParameters) -> Tensor:
        return torch.full_like(p.logits, self.sigma**2)

    def sample(self, p: CountParameters, generator: Generator | None = None) -> Tensor:
        noise = torch.randn(p.logits.shape, generator=generator, dtype=p.logits.dtype)
        return p.logits + self.sigma * noise


class LinearGaussian(nn.Module):
    """The network protocol for this model; its encoder starts at the exact posterior."""

    def __init__(self, loadings: np.ndarray, offset: np.ndarray, sigma: float = SIGMA) -> None:
        super().__init__()
        self.likelihood = FixedNormal(sigma)
        self.register_buffer("loadings", torch.from_numpy(loadings))  # (genes, latent)
        self.register_buffer("offset", torch.from_numpy(offset))
        precision = 1 + (loadings**2).sum(0) / sigma**2
        weight = loadings / sigma**2 / precision
        self.weight = nn.Parameter(torch.from_numpy(weight))
        self.shift = nn.Parameter(torch.from_numpy(-offset @ weight))
        self.log_scale = nn.Parameter(torch.from_numpy(-0.5 * np.log(precision)))

    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Nothing to start from the data."""

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent:
        mean = batch.rows.dense @ self.weight + self.shift
        return Latent(GaussianPosterior(mean, self.log_scale.exp().expand_as(mean)))

    def sample_latent(
        self, latent: Latent, batch: Minibatch, n_samples: int, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        return latent.z.sample(n_samples, generator), torch.zeros_like(batch.library)[None]

    def decode(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> CountParameters:
        return CountParameters(z @ self.loadings.T + self.offset, log_library, link="exp")

    def sample_prior(self, batch: Minibatch, n_samples: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        prior = GaussianPosterior.standard(self.offset.new_zeros(batch.n_cells), self.loadings.shape[1])
        return prior.sample(n_samples, generator), torch.zeros_like(batch.library)[None]

    def log_prior(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> Tensor:
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def log_posterior(self, z: Tensor, log_library: Tensor, latent: Latent) -> Tensor:
        return latent.z.log_prob(z)

    def kl(self, latent: Latent, batch: Minibatch) -> dict[str, Tensor]:
        return {"z": latent.z.kl_to(0.0, 1.0)}

    def transform_latent(self, z: Tensor) -> Tensor:
        return z

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        latent = self.encode(batch)
        z, log_library = self.sample_latent(latent, batch, 8, step.generator)
        log_likelihood = self.likelihood.log_prob(self.decode(z, log_library, batch), batch.rows).mean(0)
        return Loss(-log_likelihood, self.kl(latent, batch))


def make_truth(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return orthogonal loadings (genes, latent) of different lengths, and offsets (genes,)."""
    rng = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(rng.normal(size=(N_GENES, N_LATENT)))
    return directions * np.array([3.0, 1.5, 0.8]), rng.normal(size=N_GENES)


def make_data(n_cells: int, seed: int = 1, sigma: float = SIGMA) -> tuple[CellData, np.ndarray]:
    """Return cells drawn from the model, and their true states (cells, latent)."""
    loadings, offset = make_truth()
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_cells, N_LATENT))
    x = z @ loadings.T + offset + sigma * rng.normal(size=(n_cells, N_GENES))
    return as_cells(x), z


def as_cells(x: np.ndarray) -> CellData:
    """Return real numbers (cells, genes) as cells of one batch."""
    zeros = np.zeros(len(x), np.int64)
    return CellData(
        counts=CountMatrix.from_scipy(x.astype(np.float32), counts=False),
        schema=Schema(features={"rna": tuple(f"g{i}" for i in range(x.shape[1]))}),
        batch=zeros,
        labels=zeros,
        categorical=np.empty((len(x), 0), np.int64),
        continuous=np.empty((len(x), 0), np.float32),
        size_factor=None,
        library=np.ones(len(x), np.float32),
        cell_names=np.array([f"c{i}" for i in range(len(x))], dtype=object),
    )


def exact_evidence(data: CellData, sigma: float = SIGMA) -> np.ndarray:
    """Return log N(x; b, W W' + sigma^2 I) of each cell in nats; (cells,)."""
    loadings, offset = make_truth()
    covariance = loadings @ loadings.T + sigma**2 * np.eye(N_GENES)
    return stats.multivariate_normal(offset, covariance).logpdf(dense(data))


def dense(data: CellData) -> np.ndarray:
    """Return the values as the model sees them; (cells, genes) float64."""
    return data.counts.to_scipy().toarray().astype(np.float64)


def exact_posterior(data: CellData, sigma: float = SIGMA) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (cells, latent) and standard deviation (latent,) of p(z | x)."""
    loadings, offset = make_truth()
    precision = 1 + (loadings**2).sum(0) / sigma**2
    return (dense(data) - offset) @ loadings / sigma**2 / precision, precision**-0.5


def perturbed(network: LinearGaussian, *, shift: float, widen: float) -> LinearGaussian:
    """Make q wrong: means off by `shift` posterior standard deviations, scales `widen` times too large."""
    with torch.no_grad():
        network.shift += shift * network.log_scale.exp()
        network.log_scale += math.log(widen)
    return network


def central_coverage(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> Iterator[tuple[float, float]]:
    """Yield level and share of true states inside the central interval of N(mean, sd^2), for 50, 80 and 95%."""
    for level in (0.5, 0.8, 0.95):
        yield level, float((np.abs(truth - mean) <= stats.norm.ppf(0.5 + level / 2) * sd).mean())
