"""Four claims about autoencoders, each as the numbers that could refute it.

1. A linear autoencoder spans the leading principal components, in a basis that is not orthogonal: `subspace_agreement`.
2. The latent space of a plain autoencoder has regions that decode to nothing like a cell: `latent_holes`.
3. A VAE trained on its reconstruction alone loses its posterior standard deviations: `posterior_deviations`.
4. ln p(x) = ELBO + KL(q || p(z | x)) for every q, and the importance-weighted bound rises to ln p(x):
   `linear_gaussian_terms` and `importance_bounds`, where p is known in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse
from sklearn.neighbors import NearestNeighbors

from celbo.data.components import Components, principal_components
from celbo.errors import InputError

__all__ = [
    "Decoder",
    "LatentHoles",
    "LinearGaussian",
    "SubspaceAgreement",
    "importance_bounds",
    "latent_draws",
    "latent_holes",
    "linear_gaussian_terms",
    "posterior_deviations",
    "smoothed_profiles",
    "spectrum_gap",
    "subspace_agreement",
]

Floats = NDArray[np.float64]


# ------------------------------------------------------------------------------- 1. linear autoencoders and components


@dataclass(frozen=True, eq=False)
class SubspaceAgreement:
    """A decoder's directions beside the principal components."""

    angles: Floats
    """Principal angles between the two subspaces in degrees, ascending; (k,)."""
    excess: float
    """The decoder's mean squared error over that of the components, minus one."""
    cosines: Floats
    """Cosines between the directions of the decoder; (k, k)."""
    components: Floats
    """Cosines between the directions of the decoder (rows) and the principal components; (k, k)."""

    @property
    def largest_angle(self) -> float:
        """Largest principal angle, in degrees."""
        return float(self.angles[-1])

    @property
    def largest_cosine(self) -> float:
        """Largest absolute cosine between two directions of the decoder: 0 if they were orthogonal."""
        return float(np.abs(self.cosines - np.eye(len(self.cosines))).max())


def spectrum_gap(variance: ArrayLike, *, least: int = 2, most: int | None = None) -> int:
    """Return the k with the largest ratio of the k-th to the next variance, so that the leading k are well defined.

    Parameters
    ----------
    variance
        Variances along the principal components, descending; (n,).
    least, most
        Range of k; None is n - 1.
    """
    v = np.asarray(variance, np.float64)
    most = len(v) - 1 if most is None else most
    if not 1 <= least <= most < len(v):
        raise InputError(
            "does not lie within the spectrum", where="the range of k",
            value=f"{least} to {most} of {len(v)} variances", fix="Ask for more components.",
        )  # fmt: skip
    return least + int(np.argmax(v[least - 1 : most] / v[least : most + 1]))


def subspace_agreement(
    directions: ArrayLike, *, error: float, components: Components, n_cells: int
) -> SubspaceAgreement:
    """Compare a linear decoder with principal components of the same cells and values.

    Parameters
    ----------
    directions
        What each latent dimension adds to the genes, (k, genes): `model.network.output.weight` without hidden layers.
    error
        The model's mean squared error over cells and genes.
    components
        The k leading components.
    n_cells
        Cells that both were fitted to.
    """
    d, loadings = np.asarray(directions, np.float64), components.loadings
    if d.shape != loadings.T.shape:
        raise InputError(
            "do not match the components", where="directions", value=f"shape {d.shape} for {loadings.T.shape}",
            fix="Give as many components as latent dimensions, of the same genes.",
        )  # fmt: skip
    left_out = (components.total_variance - components.variance.sum()) * (n_cells - 1) / n_cells
    unit = d / np.linalg.norm(d, axis=1, keepdims=True)
    return SubspaceAgreement(
        angles=np.sort(np.degrees(linalg.subspace_angles(d.T, loadings))),
        excess=float(error / (left_out / d.shape[1]) - 1),
        cosines=unit @ unit.T,
        components=unit @ loadings,
    )


# -------------------------------------------------------------------------------------------- 2. holes of latent spaces


class Decoder(Protocol):
    """A model whose latent states can be decoded: `Autoencoder` and `VAE`, and what offers the same."""

    def decode(self, z: Any) -> Any:
        """Return what points of the latent space decode to, (points, genes)."""


@dataclass(frozen=True, eq=False)
class LatentHoles:
    """How far decoded points are from the cells."""

    own: Floats
    """Distance of the cells' own codes; (cells,)."""
    drawn: Floats
    """Distance of the points drawn; (points,)."""
    threshold: float
    """The 95th percentile of `own`: beyond it a profile is unlike a cell."""

    @property
    def share(self) -> float:
        """Share of the points drawn that decode to nothing like a cell; 0.05 if they were like the cells."""
        return float((self.drawn > self.threshold).mean())


def smoothed_profiles(
    matrix: sparse.csr_matrix, *, n_neighbours: int = 15, n_components: int = 20, seed: int = 0
) -> NDArray[np.float32]:
    """Return each cell averaged with its nearest: real profiles without most of the sampling noise.

    A decoded profile is smooth and a single cell is not, so that the distance to the nearest cell would be mostly the
    noise of that cell.

    Parameters
    ----------
    matrix
        Transformed counts, log-normalised for instance; (cells, genes) CSR.
    n_neighbours
        Cells averaged, itself among them.
    n_components, seed
        Principal components in which neighbours are found.

    Returns
    -------
    (cells, genes).
    """
    scores = principal_components(matrix, n_components, seed=seed).project(matrix)
    found = NearestNeighbors(n_neighbors=n_neighbours).fit(scores).kneighbors(scores, return_distance=False)
    n = matrix.shape[0]
    rows = np.repeat(np.arange(n), n_neighbours)
    average = sparse.csr_matrix((np.full(rows.size, 1 / n_neighbours), (rows, found.ravel())), shape=(n, n))
    return np.asarray((average @ matrix).toarray(), np.float32)


def latent_draws(codes: ArrayLike, n: int, *, how: str = "box", seed: int = 0) -> Floats:
    """Draw points where the codes of the cells are.

    Parameters
    ----------
    codes
        Codes of the cells, (cells, latent).
    n
        Points to draw.
    how
        "box": evenly between the least and the largest code of each dimension. "normal": from the Gaussian with the
        mean and the covariance of the codes. "prior": from N(0, I), which has nothing to do with the codes of a plain
        autoencoder and everything with those of a VAE.
    seed
        Seed of the draws.

    Returns
    -------
    (n, latent).
    """
    z, rng = np.asarray(codes, np.float64), np.random.default_rng(seed)
    if how == "box":
        return rng.uniform(z.min(0), z.max(0), (n, z.shape[1]))
    if how == "normal":
        return rng.multivariate_normal(z.mean(0), np.atleast_2d(np.cov(z.T)), n)
    if how == "prior":
        return rng.standard_normal((n, z.shape[1]))
    raise InputError("does not exist", where="how", value=repr(how), fix="Use 'box', 'normal' or 'prior'.")


def latent_holes(model: Decoder, draws: ArrayLike, *, codes: ArrayLike, profiles: ArrayLike) -> LatentHoles:
    """Say how far points of a latent space decode from the cells.

    Distances are Euclidean, to the nearest real profile. What counts as far is set by the same model: the distances at
    the codes of cells, best held-out ones.

    Parameters
    ----------
    model
        The decoder.
    draws
        Points of its latent space; (points, latent).
    codes
        Codes (or posterior means) of cells; (cells, latent).
    profiles
        Real profiles in the values that the model decodes to, such as `smoothed_profiles`; (profiles, genes).
    """
    nearest = NearestNeighbors(n_neighbors=1).fit(np.asarray(profiles, np.float32))
    own, drawn = (nearest.kneighbors(np.asarray(model.decode(z)))[0][:, 0] for z in (codes, draws))
    return LatentHoles(np.asarray(own, np.float64), np.asarray(drawn, np.float64), float(np.quantile(own, 0.95)))


# -------------------------------------------------------------------------------------------- 3. collapsed deviations


def posterior_deviations(mean: ArrayLike, variance: ArrayLike) -> pd.DataFrame:
    """Return how wide q(z | x) is beside the spread of the cells, dimension by dimension.

    The scale of a latent space is free where no prior holds it, so that a standard deviation says little without the
    spread of the means it stands beside.

    Parameters
    ----------
    mean, variance
        Of q(z | x), as `get_latent_representation(return_dist=True)` returns them; (cells, latent).

    Returns
    -------
    One row a dimension: `deviation` (median over cells), `spread` (standard deviation of the means over cells),
    `relative` (deviation over spread), `share` (of the variance of z, E[sd^2] / (E[sd^2] + Var[mean]): 1 for a
    dimension that follows the prior and says nothing of the cell, 0 for one without any width).
    """
    m, v = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    spread, deviation = m.std(0), np.median(np.sqrt(v), axis=0)
    table = {
        "deviation": deviation,
        "spread": spread,
        "relative": deviation / np.maximum(spread, 1e-300),
        "share": v.mean(0) / np.maximum(v.mean(0) + m.var(0), 1e-300),
    }
    return pd.DataFrame(table, index=pd.RangeIndex(m.shape[1], name="dimension"))


# ------------------------------------------------------------------------------------------------- 4. the ELBO identity


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """z ~ N(0, I), x | z ~ N(W z + b, sd^2 I): probabilistic PCA (Tipping and Bishop 1999), in closed form."""

    loadings: Floats
    """W; (genes, k)."""
    offset: Floats
    """b; (genes,)."""
    sd: float

    @classmethod
    def of_components(cls, components: Components) -> LinearGaussian:
        """Return the maximum-likelihood model of the cells (Tipping and Bishop 1999, equations 7 and 8)."""
        n_genes, k = components.loadings.shape
        noise = (components.total_variance - components.variance.sum()) / (n_genes - k)
        w = components.loadings * np.sqrt(components.variance - noise)
        return cls(w, components.mean, float(np.sqrt(noise)))

    def log_evidence(self, x: ArrayLike) -> Floats:
        """Return ln p(x) = ln N(x; b, W W' + sd^2 I), (cells,) nats, from the whole (genes, genes) covariance."""
        covariance = self.loadings @ self.loadings.T + self.sd**2 * np.eye(len(self.offset))
        return _log_normal(
            np.asarray(x, np.float64) - self.offset, np.asarray(np.linalg.cholesky(covariance), np.float64)
        )

    def posterior(self, x: ArrayLike) -> tuple[Floats, Floats]:
        """Return mean (cells, k) and covariance (k, k) of p(z | x)."""
        precision = np.eye(self.loadings.shape[1]) + self.loadings.T @ self.loadings / self.sd**2
        covariance = np.asarray(np.linalg.inv(precision), np.float64)
        return (np.asarray(x, np.float64) - self.offset) @ self.loadings @ covariance / self.sd**2, covariance

    def log_joint(self, x: ArrayLike, z: ArrayLike) -> Floats:
        """Return ln p(x | z) + ln p(z) for z (..., cells, k); (..., cells)."""
        zs = np.asarray(z, np.float64)
        residual = (np.asarray(x, np.float64) - self.offset - zs @ self.loadings.T) / self.sd
        n = residual.shape[-1] + zs.shape[-1]
        quadratic = (residual**2).sum(-1) + (zs**2).sum(-1)
        return np.asarray(-0.5 * (quadratic + n * np.log(2 * np.pi)) - residual.shape[-1] * np.log(self.sd))


def linear_gaussian_terms(
    model: LinearGaussian, x: ArrayLike, mean: ArrayLike, covariance: ArrayLike
) -> dict[str, Floats]:
    """Return both sides of ln p(x) = ELBO + KL(q || p(z | x)) for q = N(mean, covariance), each on its own.

    The ELBO is E_q[ln p(x, z)] plus the entropy of q and knows nothing of the evidence or of p(z | x); the evidence
    comes from the covariance of the genes, the divergence from the posterior.

    Parameters
    ----------
    model
        The linear Gaussian model.
    x
        Cells; (cells, genes).
    mean, covariance
        Of q: (cells, k), and (k, k) for all cells. Any q will do.

    Returns
    -------
    "evidence", "elbo" and "kl"; (cells,) nats each.
    """
    m, s = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    k = m.shape[1]
    spread = np.trace(model.loadings.T @ model.loadings @ s) / model.sd**2 + np.trace(s)
    entropy = 0.5 * (k * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(s)[1])
    elbo = model.log_joint(x, m) - 0.5 * spread + entropy
    centre, exact = model.posterior(x)
    shift = np.linalg.solve(np.linalg.cholesky(exact), (m - centre).T)
    ratio = np.linalg.solve(exact, s)
    kl = 0.5 * (np.trace(ratio) - k - np.linalg.slogdet(ratio)[1] + (shift**2).sum(0))
    return {"evidence": model.log_evidence(x), "elbo": elbo, "kl": kl}


def importance_bounds(
    model: LinearGaussian,
    x: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    *,
    n_samples: Sequence[int] = (1, 2, 5, 10, 50, 100, 500),
    repeats: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Return E[ln mean_K p(x, z_k) / q(z_k)], the bound of Burda et al. 2016, for growing numbers of samples K.

    Parameters
    ----------
    model, x, mean, covariance
        See `linear_gaussian_terms`.
    n_samples
        The numbers K. K = 1 is the ELBO.
    repeats
        Independent estimates of each bound.
    seed
        Seed of the draws.

    Returns
    -------
    Indexed by K: `bound`, mean over cells and repeats in nats per cell, and `error`, its standard error over repeats.
    """
    x, m = np.asarray(x, np.float64), np.asarray(mean, np.float64)
    root = np.linalg.cholesky(np.asarray(covariance, np.float64))
    rng, rows = np.random.default_rng(seed), []
    for k in n_samples:
        estimates = np.empty(repeats)
        for i in range(repeats):
            z = m + rng.standard_normal((k, *m.shape)) @ root.T
            log_weight = model.log_joint(x, z) - _log_normal(z - m, root)
            estimates[i] = (np.logaddexp.reduce(log_weight, axis=0) - np.log(k)).mean()
        rows.append({"bound": estimates.mean(), "error": estimates.std(ddof=1) / np.sqrt(repeats)})
    return pd.DataFrame(rows, index=pd.Index(list(n_samples), name="n_samples"))


def _log_normal(centred: Floats, root: Floats) -> Floats:
    """Return ln N(centred; 0, root root') over the last axis."""
    flat = centred.reshape(-1, centred.shape[-1])
    standard = linalg.solve_triangular(root, flat.T, lower=True)
    constant = np.log(np.diag(root)).sum() + 0.5 * len(root) * np.log(2 * np.pi)
    out: Floats = -0.5 * (standard**2).sum(0) - constant
    return out.reshape(centred.shape[:-1])
