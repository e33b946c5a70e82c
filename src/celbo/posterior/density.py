"""The cells of a group that lie where most of it does: outliers, doublets and mislabelled cells aside."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.covariance import MinCovDet

from celbo.data.cells import CellData
from celbo.errors import CelboWarning
from celbo.posterior.latent import latent_representation
from celbo.posterior.stream import Network

__all__ = ["densest_cells"]

Codes = npt.NDArray[np.int64]

_FITTED = 5000
_PER_DIMENSION = 5
_FLAT = 1e-6
"""Standard deviation along an axis, over the largest latent mean, up to which it is rounding of float32."""


def densest_cells(network: Network, data: CellData, cells: Codes, share: float, *, seed: int) -> Codes:
    """Return the cells of a group with the highest density, under a normal distribution fitted robustly.

    The fit is to the latent means (minimum covariance determinant: Rousseeuw and Van Driessen 1999, by scikit-learn),
    of at most 5,000 of the cells.

    Parameters
    ----------
    network, data
        A trained network and the cells.
    cells
        Positions of the group's cells; (n,).
    share
        Share of them to keep.
    seed
        Seed of the fit.

    Returns
    -------
    Positions, ascending; all of them, with a warning, where there are fewer than five cells a latent dimension.
    """
    means = latent_representation(network, data, cells).astype(np.float64)
    if len(cells) < _PER_DIMENSION * means.shape[1]:
        text = (
            f"{len(cells)} cells are too few to tell the densest of them in {means.shape[1]} dimensions: all are kept."
        )
        warnings.warn(CelboWarning(text), stacklevel=2)
        return cells
    means = _whitened(means)
    rng = np.random.default_rng([seed, 4])
    sample = means if len(means) <= _FITTED else means[rng.permutation(len(means))[:_FITTED]]
    distance = MinCovDet(random_state=seed).fit(sample).mahalanobis(means) if means.size else np.zeros(len(cells))
    n_kept = max(1, round(share * len(cells)))
    return np.sort(cells[np.argsort(distance, kind="stable")[:n_kept]])


def _whitened(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the coordinates of the cells along the axes in which they differ, each with a standard deviation of 1."""
    centred = means - means.mean(0)
    axes, length, _ = np.linalg.svd(centred, full_matrices=False)
    root = np.sqrt(len(means))
    whitened: npt.NDArray[np.float64] = root * axes[:, length > _FLAT * root * np.abs(means).max()]
    return whitened
