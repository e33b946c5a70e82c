"""How well clusters of other resolutions would agree with the labels: tried, not guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from celbo.evaluate import ari

__all__ = ["leiden_codes", "resolutions_tried"]

_AROUND = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0)
_FEWER = (0.25, 0.5, 1.0, 2.0)
_ALL_BELOW, _SOME_BELOW = 20_000, 100_000
"""Cells up to which twelve resolutions are tried, and four: a Leiden of 20,000 cells takes about a second."""


def leiden_codes(graph: sparse.csr_matrix, *, resolution: float, seed: int) -> NDArray[np.int64]:
    """Return the Leiden clusters of a graph, as the main job makes them: cluster 0 is the largest; (cells,).

    Parameters
    ----------
    graph
        Weights between neighbours, (cells, cells): `obsp["connectivities"]`.
    resolution
        The higher, the more clusters.
    seed
        Of the order in which cells are visited.
    """
    import anndata
    import scanpy as sc

    plain = anndata.AnnData(obs=pd.DataFrame(index=np.arange(graph.shape[0]).astype(str)))
    options: dict[str, Any] = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": seed}
    sc.tl.leiden(plain, resolution=resolution, adjacency=graph, key_added="leiden", **options)
    codes = plain.obs["leiden"].cat.codes.to_numpy()
    rank = np.argsort(np.argsort(-np.bincount(codes), kind="stable"))
    return np.asarray(rank[codes], np.int64)


def resolutions_tried(
    graph: sparse.csr_matrix, labels: NDArray[np.int64], *, resolution: float, seed: int
) -> pd.DataFrame | None:
    """Return how well Leiden clusters agree with the labels at some dozen resolutions, that of the run among them.

    Parameters
    ----------
    graph
        As in `leiden_codes`.
    labels
        Code of each cell's label, (cells,); -1 is none.
    resolution
        That of the run.
    seed
        Of the run. Each resolution is also tried with the next seed, since clusters hang on it.

    Returns
    -------
    Columns `resolution`, `clusters`, `ari` (adjusted Rand index with this seed), `ari_other_seed` and `chosen` (whether
    the run took it); None with fewer than two labels, or with more cells than can be tried within about a minute.
    """
    n_cells = graph.shape[0]
    if len(np.unique(labels[labels >= 0])) < 2 or n_cells > _SOME_BELOW:
        return None
    rows = []
    for tried in sorted({resolution, *(_AROUND if n_cells <= _ALL_BELOW else _FEWER)}):
        codes, other = (leiden_codes(graph, resolution=tried, seed=s) for s in (seed, seed + 1))
        rows.append((tried, len(np.unique(codes)), ari(labels, codes), ari(labels, other), tried == resolution))
    return pd.DataFrame(rows, columns=["resolution", "clusters", "ari", "ari_other_seed", "chosen"])
