"""Factor analysis: x = mean + loadings z + noise, z ~ N(0, I), noise ~ N(0, diag(noise_variance)).

Lawley & Maxwell 1962 (doi:10.2307/2986915); maximum likelihood as in Joreskog 1967 (doi:10.1007/BF02289658) and in
scikit-learn. The likelihood needs of the cells only the covariance of the genes, which is gathered from blocks of
cells: memory is genes^2, whatever the number of cells.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.sparse.linalg import eigsh

from celbo.data.components import covariance, with_signs
from celbo.embed.values import Floats, Values, at_least, seeded, sound
from celbo.errors import CelboWarning, InputError

__all__ = ["FactorAnalysis", "fit_factor_analysis"]

_DENSE_GENES = 256  # up to here all eigenvalues are solved for, which is quicker


@dataclass(frozen=True, eq=False)
class FactorAnalysis:
    """A fitted factor analysis. Its density is N(mean, loadings loadings^T + diag(noise_variance))."""

    coordinates: Floats
    """Posterior means of the factors of the cells of the fit; (cells, k)."""
    mean: Floats
    """Mean of each gene; (genes,)."""
    loadings: Floats
    """Weights of the factors; (genes, k). Unique up to a rotation: these explain most in descending order."""
    noise_variance: Floats
    """Variance of each gene that the factors leave; (genes,)."""
    history: Floats
    """Log-likelihood after each iteration, nats per cell."""

    def transform(self, values: Values) -> Floats:
        """Return E[z | x] of cells, (cells, k); those of the fit get their coordinates."""
        values = sound(values, n_columns=len(self.mean))
        weights = self._weights()
        return np.asarray(values @ weights - self.mean @ weights, dtype=np.float64)

    def posterior_covariance(self) -> Floats:
        """Return Cov[z | x], (k, k): the same for all cells."""
        precision = np.eye(self.loadings.shape[1]) + self.loadings.T @ (self.loadings / self.noise_variance[:, None])
        return np.asarray(cho_solve(cho_factor(precision), np.eye(len(precision))))

    def log_density(self, values: Values) -> Floats:
        """Return ln p(x) of cells, (cells,) nats: a density of transformed values, not a probability of counts."""
        values = sound(values, n_columns=len(self.mean)).astype(np.float64)
        inverse = 1 / self.noise_variance
        spread = self.posterior_covariance()
        squares = values.multiply(values) if sparse.issparse(values) else values**2
        distance = squares @ inverse - 2 * (values @ (self.mean * inverse)) + self.mean**2 @ inverse
        pulled = values @ (self.loadings * inverse[:, None]) - self.mean @ (self.loadings * inverse[:, None])
        explained = np.einsum("ij,jk,ik->i", pulled, spread, pulled)
        log_determinant = np.log(self.noise_variance).sum() - np.linalg.slogdet(spread)[1]
        constant = len(self.mean) * np.log(2 * np.pi) + log_determinant
        return np.asarray(-0.5 * (constant + distance - explained), dtype=np.float64)

    def _weights(self) -> Floats:
        return np.asarray((self.loadings / self.noise_variance[:, None]) @ self.posterior_covariance())


def fit_factor_analysis(
    values: Values,
    *,
    n_components: int = 10,
    noise_floor: float | None = None,
    max_iter: int = 1000,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> FactorAnalysis:
    """Factor analysis by maximum likelihood.

    Each iteration finds the best loadings for the noise (eigenvectors of the covariance over the noise), then the noise
    that makes the variance of each gene that of the cells.

    Parameters
    ----------
    values
        (cells, genes) CSR of log-normalised counts, dense a block of cells at a time, or a dense (cells, dimensions).
    n_components
        Factors; at most the genes less one.
    noise_floor
        Smallest noise variance, as a share of the mean variance of the genes; None is 1 / cells. Without one the
        likelihood has no maximum: a factor can take over a single gene (a Heywood case) and its noise go to 0.
        scikit-learn has 1e-12 in units of the values.
    max_iter, tolerance
        It ends when an iteration gains less than `tolerance` nats per cell; a warning tells where it did not.
    seed
        Of the first Lanczos vector; another seed changes the result by rounding only.

    Raises
    ------
    OptionError
        If an option is impossible.
    InputError
        If values are not finite, or do not vary.
    """
    seeded(seed)
    values = sound(values)
    n_cells, n_columns = values.shape
    at_least(1, "n_components", n_components, most=max(1, min(n_columns - 1, n_cells - 1)))
    at_least(1, "max_iter", max_iter)
    if noise_floor is not None:
        at_least(1e-12, "noise_floor", noise_floor, most=1, kind="any")
    matrix = sparse.csr_matrix(values).astype(np.float64)
    mean = np.asarray(matrix.mean(axis=0), np.float64).ravel()
    spread = covariance(matrix, mean) * (1 - 1 / n_cells)
    if not np.trace(spread) > 1e-12 * (mean @ mean):
        raise InputError("do not differ between cells", where="values", fix="Factors need variance.")
    floor = (1 / n_cells if noise_floor is None else noise_floor) * np.trace(spread) / n_columns
    loadings, noise, history = _maximised(
        spread, n_components, floor, max_iter=max_iter, tolerance=tolerance, seed=seed
    )
    fit = FactorAnalysis(np.empty((0, n_components)), mean, with_signs(loadings), noise, history)
    return FactorAnalysis(fit.transform(values), mean, fit.loadings, noise, history)


def _maximised(
    spread: Floats, k: int, floor: float, *, max_iter: int, tolerance: float, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Return loadings (genes, k), noise variance (genes,) and log-likelihoods per cell by iteration."""
    variance = np.diag(spread).copy()
    noise = np.maximum(variance, floor)
    start = np.random.default_rng(seed).standard_normal(len(variance))
    history: list[float] = []
    for _ in range(max_iter):
        root = np.sqrt(noise)
        scaled = spread / root / root[:, None]
        size, vectors = _largest(scaled, k, start)
        loadings = root[:, None] * vectors * np.sqrt(np.maximum(size - 1, 0))
        kept = np.maximum(size, 1)  # variance of the model along each vector, whose noise is 1
        fitted = np.log(kept).sum() + (size / kept).sum() + np.trace(scaled) - size.sum()
        history.append(-0.5 * float(len(noise) * np.log(2 * np.pi) + np.log(noise).sum() + fitted))
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            break
        noise = np.maximum(variance - (loadings**2).sum(axis=1), floor)
        start = vectors.sum(axis=1)
    else:
        text = f"Factor analysis did not converge in {max_iter} iterations. Raise max_iter or tolerance."
        warnings.warn(CelboWarning(text), stacklevel=3)
    return loadings, noise, np.array(history)


def _largest(matrix: Floats, k: int, start: Floats) -> tuple[Floats, Floats]:
    """Return the k largest eigenvalues of a symmetric matrix, descending, and their vectors."""
    n = len(matrix)
    if n <= _DENSE_GENES or k > n // 4:
        size, vectors = eigh(matrix, subset_by_index=(n - k, n - 1))
    else:
        size, vectors = eigsh(matrix, k=k, which="LA", v0=start, tol=1e-10)
    return size[::-1], np.ascontiguousarray(vectors[:, ::-1])
