"""PCA and ICA: coordinates that are linear in the log-normalised counts.

PCA: directions of most variance. ICA (Hyvarinen & Oja 2000, doi:10.1016/S0893-6080(00)00026-5): the rotation of the
whitened leading principal components whose sources are least Gaussian.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from celbo.data.components import Components, principal_components, with_signs
from celbo.embed.values import Floats, Values, at_least, imported, one_of, quiet, seeded, sound
from celbo.errors import CelboWarning, InputError

__all__ = ["ICA", "PCA", "components_of", "fit_ica", "fit_pca"]


@dataclass(frozen=True, eq=False)
class PCA:
    """A fitted principal component analysis."""

    coordinates: Floats
    """Scores of the cells of the fit; (cells, k)."""
    components: Components
    """Mean and loadings of the genes, variances."""

    @property
    def loadings(self) -> Floats:
        """Orthonormal directions in gene space; (genes, k)."""
        return self.components.loadings

    def transform(self, values: Values) -> Floats:
        """Return the scores of cells, (cells, k); those of the fit get their coordinates."""
        return self.components.project(sound(values, n_columns=len(self.components.mean)))


@dataclass(frozen=True, eq=False)
class ICA:
    """A fitted independent component analysis: values = mean + sources mixing^T, up to what the components leave out.

    Sources have mean 0 and variance 1 over the cells of the fit. Their order is by the variance that they have in gene
    space, their sign such that the gene of largest weight is positive: ICA itself leaves both free.
    """

    coordinates: Floats
    """Sources of the cells of the fit; (cells, k)."""
    mean: Floats
    """Mean of each gene; (genes,)."""
    unmixing: Floats
    """Sources = (values - mean) unmixing; (genes, k)."""
    mixing: Floats
    """Weights of each source on the genes, the pseudo-inverse of the transposed unmixing; (genes, k)."""
    n_iter: int
    """Iterations of FastICA."""

    def transform(self, values: Values) -> Floats:
        """Return the sources of cells, (cells, k); those of the fit get their coordinates."""
        values = sound(values, n_columns=len(self.mean))
        return np.asarray(values @ self.unmixing - self.mean @ self.unmixing, dtype=np.float64)


def fit_pca(values: Values, *, n_components: int | None = None, seed: int = 0) -> PCA:
    """Principal component analysis.

    Parameters
    ----------
    values
        (cells, genes) CSR of log-normalised counts, never made dense, or a dense (cells, dimensions).
    n_components
        How many; None is 50, or as many as there can be: the genes, or the cells less one.
    seed
        Of the first Lanczos vector; another seed changes the result by rounding only.

    Raises
    ------
    OptionError
        If `n_components` is impossible.
    InputError
        If values are not finite or do not vary.
    """
    components, scores = components_of(values, n_components, seed=seed)
    return PCA(scores, components)


def components_of(values: Values, n_components: int | None, *, seed: int) -> tuple[Components, Floats]:
    """Return principal components of a sparse or dense matrix, and the scores of its cells, (cells, k)."""
    seeded(seed)
    values = sound(values)
    most = min(values.shape[0] - 1, values.shape[1])
    found = principal_components(
        sparse.csr_matrix(values), min(50, most) if n_components is None else n_components, seed=seed
    )
    return found, found.project(values)


def fit_ica(
    values: Values,
    *,
    n_components: int = 10,
    contrast: str = "logcosh",
    max_iter: int = 500,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> ICA:
    """Independent component analysis by FastICA (scikit-learn) on the whitened leading principal components.

    FastICA with fewer components than genes begins with exactly these; so nothing is approximated by not giving it the
    genes.

    Parameters
    ----------
    values
        As in `fit_pca`.
    n_components
        Sources.
    contrast
        How non-Gaussianity is measured: "logcosh", "exp" or "cube" (kurtosis).
    max_iter, tolerance
        When FastICA ends; a warning tells where it did not converge.
    seed
        Of the first rotation. FastICA finds a local optimum: other seeds may find another.

    Raises
    ------
    OptionError
        If `n_components` or `contrast` is impossible.
    InputError
        If values are not finite, or vary in fewer directions than `n_components`.
    """
    one_of("contrast", contrast, ("logcosh", "exp", "cube"))
    at_least(1, "max_iter", max_iter)
    components, scores = components_of(values, n_components, seed=seed)
    n_varying = int((components.variance > 1e-12 * components.total_variance).sum())
    if n_varying < n_components:
        value = f"{n_varying} for n_components={n_components}"
        fix = "Ask for fewer components."
        raise InputError("vary in too few directions", where="values", value=value, fix=fix)
    deviation = np.sqrt(
        components.variance * (1 - 1 / len(scores))
    )  # of the cells themselves, which are given variance 1
    rotation, n_iter = _fast_ica(scores / deviation, contrast, max_iter, tolerance, seed)
    mixing = components.loadings @ (deviation[:, None] * rotation.T)
    order = np.argsort(-(mixing**2).sum(axis=0), kind="stable")
    mixing = mixing[:, order]
    sign = np.sign((mixing * with_signs(mixing)).sum(axis=0))
    unmixing = (components.loadings / deviation) @ rotation[order].T * sign
    sources = np.asarray(scores / deviation @ rotation[order].T * sign)
    return ICA(sources, components.mean, unmixing, mixing * sign, n_iter)


def _fast_ica(white: Floats, contrast: str, max_iter: int, tolerance: float, seed: int) -> tuple[Floats, int]:
    """Return the orthogonal matrix that turns white components into sources, (k, k), and the iterations it took."""
    decomposition = imported("sklearn.decomposition", package="scikit-learn", method="ica")
    fastica = decomposition.FastICA(fun=contrast, whiten=False, max_iter=max_iter, tol=tolerance, random_state=seed)
    with quiet():
        fastica.fit(white)
    if fastica.n_iter_ >= max_iter:
        text = f"ICA did not converge in {max_iter} iterations: its sources may not be final. Raise max_iter."
        warnings.warn(CelboWarning(text), stacklevel=4)
    return np.asarray(fastica.components_, np.float64), int(fastica.n_iter_)
