"""The reductions for an AnnData: counts or a representation in, the conventional slot out, new cells later.

Counts are scaled to the median total of the cells, logged, and cut to the most variable genes; what needs neighbours
looks for them among principal components.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from celbo.data.writable import free_name, make_writable
from celbo.embed.factor import FactorAnalysis, fit_factor_analysis
from celbo.embed.graph import DiffusionMap, ForceAtlas2, fit_diffusion_map, fit_forceatlas2
from celbo.embed.linear import ICA, PCA, fit_ica, fit_pca
from celbo.embed.maps import TSNE, UMAP, fit_tsne, fit_umap
from celbo.embed.source import Embedding, FitT, Source
from celbo.embed.values import quiet
from celbo.errors import CelboWarning, OptionError, logger_of

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["METHODS", "diffusion_map", "factor_analysis", "forceatlas2", "ica", "key_beside", "pca", "tsne", "umap"]

_log = logger_of("celbo.embed")


def pca(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    n_top_genes: int | None = 2000,
    n_components: int | None = None,
    key_added: str | None = None,
    seed: int = 0,
) -> Embedding[PCA]:
    """Principal components of the log-normalised counts, from the sparse matrix.

    Writes `obsm["X_pca"]`, `varm["PCs"]` (0 for genes that were not chosen) and `uns["pca"]` as scanpy lays them out,
    or all three under `key_added`.

    Parameters
    ----------
    adata
        Counts, (cells, genes).
    layer
        Layer with the counts; None is `X`, "raw" is `adata.raw`.
    use_rep
        Slot of `obsm` to reduce instead of the counts.
    n_top_genes
        Most variable genes to take (as `celbo.select_genes` finds them); None is all.
    n_components
        How many; None is 50, or as many as there can be.
    key_added
        Name of the slot; None is the usual one.
    seed
        Another seed changes the result by rounding only.

    Returns
    -------
    Embedding
        `coordinates` (cells, components); `fit.loadings` (genes, components); `transform` for new cells, exact.

    Raises
    ------
    CountsError
        If the values are not counts.
    SchemaError
        If the layer or slot is missing.
    OptionError
        If an option is impossible.
    """
    source, values = Source.of(adata, layer=layer, use_rep=use_rep, n_top_genes=n_top_genes)
    fit = fit_pca(values, n_components=n_components, seed=seed)
    note = {"n_components": fit.loadings.shape[1], "zero_center": True, "seed": seed}
    found = _written(adata, fit, source, slot="pca", key_added=key_added, parameters=note)
    components = fit.components
    kept = adata.uns[key_added or "pca"]
    kept.update(variance=components.variance, variance_ratio=components.variance_ratio)
    if use_rep is None:
        at = pd.Index(found.genes).get_indexer(adata.var_names)  # `raw` has genes of its own, which `var` may lack
        adata.varm[key_added or "PCs"] = np.where(at[:, None] >= 0, components.loadings[at], 0.0)
    return found


def ica(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    n_top_genes: int | None = 2000,
    n_components: int = 10,
    contrast: Literal["logcosh", "exp", "cube"] = "logcosh",
    max_iter: int = 500,
    key_added: str | None = None,
    seed: int = 0,
) -> Embedding[ICA]:
    """Independent components of the log-normalised counts (FastICA). Writes `obsm["X_ica"]`.

    The same seed gives the same sources; another may give others: FastICA finds a local optimum.

    Parameters
    ----------
    adata, layer, use_rep, n_top_genes, key_added
        As in `pca`.
    n_components
        Sources.
    contrast
        How non-Gaussianity is measured.
    max_iter
        Iterations at most; a warning tells where they were too few.
    seed
        Of the first rotation.

    Returns
    -------
    Embedding
        `coordinates` (cells, components), variance 1 each, ordered by their variance in gene space; `fit.mixing`,
        `fit.unmixing` (genes, components); `transform` for new cells, exact.

    Raises
    ------
    CountsError, SchemaError, OptionError
        As in `pca`.
    """
    source, values = Source.of(adata, layer=layer, use_rep=use_rep, n_top_genes=n_top_genes)
    fit = fit_ica(values, n_components=n_components, contrast=contrast, max_iter=max_iter, seed=seed)
    note = {"n_components": n_components, "contrast": contrast, "max_iter": max_iter, "seed": seed}
    return _written(adata, fit, source, slot="ica", key_added=key_added, parameters=note)


def factor_analysis(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    n_top_genes: int | None = 2000,
    n_components: int = 10,
    max_iter: int = 1000,
    key_added: str | None = None,
    seed: int = 0,
) -> Embedding[FactorAnalysis]:
    """Factor analysis of the log-normalised counts by maximum likelihood. Writes `obsm["X_fa"]`.

    Memory is genes^2, whatever the number of cells.

    Parameters
    ----------
    adata, layer, use_rep, n_top_genes, key_added
        As in `pca`.
    n_components
        Factors.
    max_iter
        Iterations at most; a warning tells where they were too few.
    seed
        Another seed changes the result by rounding only.

    Returns
    -------
    Embedding
        `coordinates` (cells, factors), posterior means; `fit.loadings` (genes, factors), `fit.noise_variance`,
        `fit.mean` (genes,), `fit.log_density`; `transform` for new cells, exact.

    Raises
    ------
    CountsError, SchemaError, OptionError
        As in `pca`.
    """
    source, values = Source.of(adata, layer=layer, use_rep=use_rep, n_top_genes=n_top_genes)
    fit = fit_factor_analysis(values, n_components=n_components, max_iter=max_iter, seed=seed)
    note = {"n_components": n_components, "max_iter": max_iter, "seed": seed}
    return _written(adata, fit, source, slot="fa", key_added=key_added, parameters=note)


def tsne(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    n_top_genes: int | None = 2000,
    n_pcs: int = 50,
    n_components: int = 2,
    perplexity: float = 30.0,
    exaggeration: float | None = None,
    learning_rate: float | None = None,
    n_iter: int = 500,
    init: Literal["pca", "spectral", "random"] = "pca",
    n_jobs: int = 1,
    key_added: str | None = None,
    seed: int = 0,
) -> Embedding[TSNE]:
    """t-SNE map (openTSNE). Writes `obsm["X_tsne"]`.

    The same seed gives the same map on one thread; on more the search for neighbours need not be the same.

    Parameters
    ----------
    adata, layer, use_rep, n_top_genes, key_added
        As in `pca`.
    n_pcs
        Principal components of the counts to look for neighbours in; a representation is taken as it is.
    n_components
        Dimensions of the map, 1 or 2.
    perplexity
        Effective number of neighbours; at most (cells - 1) / 3.
    exaggeration
        Factor of the attraction in the main phase; None is 1.
    learning_rate
        None is cells / exaggeration, at least 200.
    n_iter
        Iterations of the main phase, after 250 early ones.
    init
        First positions.
    n_jobs
        Threads.
    seed
        Of the search for neighbours and the first positions.

    Returns
    -------
    Embedding
        `coordinates` (cells, dimensions); `transform` places new cells among those of the fit.

    Raises
    ------
    CountsError, SchemaError, OptionError
        As in `pca`.
    DependencyError
        If openTSNE is not installed.
    """
    source, values = Source.of(adata, layer=layer, use_rep=use_rep, n_top_genes=n_top_genes)
    fit = fit_tsne(
        values,
        n_components=n_components,
        perplexity=perplexity,
        exaggeration=exaggeration,
        learning_rate=learning_rate,
        n_iter=n_iter,
        init=init,
        n_pcs=n_pcs,
        n_jobs=n_jobs,
        seed=seed,
    )
    note = {
        "perplexity": perplexity,
        "exaggeration": exaggeration,
        "learning_rate": learning_rate,
        "n_iter": n_iter,
        "init": init,
        "n_pcs": n_pcs,
        "seed": seed,
    }
    return _written(adata, fit, source, slot="tsne", key_added=key_added, parameters=note)


def umap(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    n_top_genes: int | None = 2000,
    n_pcs: int = 50,
    n_components: int = 2,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    spread: float = 1.0,
    metric: Literal["euclidean", "cosine", "correlation", "manhattan"] = "euclidean",
    n_epochs: int | None = None,
    init: Literal["spectral", "pca", "random"] = "spectral",
    key_added: str | None = None,
    seed: int = 0,
) -> Embedding[UMAP]:
    """UMAP (umap-learn, one thread: the same seed gives the same map). Writes `obsm["X_umap"]`.

    Parameters
    ----------
    adata, layer, use_rep, n_top_genes, key_added
        As in `pca`.
    n_pcs
        As in `tsne`.
    n_components
        Dimensions of the map.
    n_neighbors
        Neighbours of each cell, itself among them; fewer than the cells.
    min_dist
        Smallest distance between points of the map. scanpy has 0.5, umap-learn 0.1.
    spread
        Scale of the map.
    metric
        Distance between cells in the space of neighbours.
    n_epochs
        Passes over the edges; None is 500 below 10,000 cells, else 200.
    init
        First positions.
    seed
        Of everything that is random.

    Returns
    -------
    Embedding
        `coordinates` (cells, dimensions); `transform` places new cells among those of the fit.

    Raises
    ------
    CountsError, SchemaError, OptionError
        As in `pca`.
    """
    source, values = Source.of(adata, layer=layer, use_rep=use_rep, n_top_genes=n_top_genes)
    fit = fit_umap(
        values,
        n_components=n_components,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
        spread=spread,
        metric=metric,
        n_epochs=n_epochs,
        init=init,
        n_pcs=n_pcs,
        seed=seed,
    )
    note = {
        "a": fit.a,
        "b": fit.b,
        "n_neighbors": n_neighbors,
        "min_dist": min_dist,
        "spread": spread,
        "metric": metric,
        "n_epochs": n_epochs,
        "init": init,
        "n_pcs": n_pcs,
        "seed": seed,
    }
    return _written(adata, fit, source, slot="umap", key_added=key_added, parameters=note)


def forceatlas2(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    n_top_genes: int | None = 2000,
    n_pcs: int = 50,
    n_neighbors: int = 15,
    n_iter: int = 500,
    gravity: float = 1.0,
    scaling: float = 2.0,
    strong_gravity: bool = False,
    init: Literal["pca", "random"] = "pca",
    key_added: str | None = None,
    seed: int = 0,
) -> Embedding[ForceAtlas2]:
    """ForceAtlas2 drawing of the graph of neighbours (fa2-modified). Writes `obsm["X_draw_graph_fa"]`.

    The same seed gives the same drawing up to 100,000 cells; beyond, the search for neighbours does not promise it.

    Parameters
    ----------
    adata, layer, use_rep, n_top_genes, key_added
        As in `pca`.
    n_pcs
        As in `tsne`.
    n_neighbors
        Neighbours of each cell, itself among them; fewer than the cells.
    n_iter
        Iterations.
    gravity, scaling, strong_gravity
        Pull to the middle, strength of the pushing, whether the pull grows with the distance.
    init
        First positions; scanpy has random ones.
    seed
        Of the search for neighbours and random first positions.

    Returns
    -------
    Embedding
        `coordinates` (cells, 2). `transform` raises: the drawing has no place for cells that are not in its graph.

    Raises
    ------
    CountsError, SchemaError, OptionError
        As in `pca`.
    DependencyError
        If fa2-modified is not installed.
    """
    source, values = Source.of(adata, layer=layer, use_rep=use_rep, n_top_genes=n_top_genes)
    fit = fit_forceatlas2(
        values,
        n_neighbors=n_neighbors,
        n_iter=n_iter,
        gravity=gravity,
        scaling=scaling,
        strong_gravity=strong_gravity,
        init=init,
        n_pcs=n_pcs,
        seed=seed,
    )
    note = {
        "layout": "fa",
        "n_neighbors": n_neighbors,
        "n_iter": n_iter,
        "gravity": gravity,
        "scaling": scaling,
        "strong_gravity": strong_gravity,
        "init": init,
        "n_pcs": n_pcs,
        "seed": seed,
    }
    return _written(adata, fit, source, slot="draw_graph_fa", uns="draw_graph", key_added=key_added, parameters=note)


def diffusion_map(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    n_top_genes: int | None = 2000,
    n_pcs: int = 50,
    n_components: int = 15,
    n_neighbors: int = 15,
    eigenvectors: Literal["symmetric", "right"] = "symmetric",
    drop_trivial: bool = False,
    key_added: str | None = None,
    seed: int = 0,
) -> Embedding[DiffusionMap]:
    """Diffusion map. Writes `obsm["X_diffmap"]` and `uns["diffmap_evals"]`, as scanpy does.

    Component 0 is the trivial one, of eigenvalue 1, which tells of no direction: plot from component 1 on, or drop it.
    With `key_added`, the eigenvalues are in `uns[key_added]`. The same seed gives the same coordinates up to 100,000
    cells; beyond, the search for neighbours does not promise it.

    Parameters
    ----------
    adata, layer, use_rep, n_top_genes, key_added
        As in `pca`.
    n_pcs
        As in `tsne`.
    n_components
        Eigenvectors, the trivial one among them unless it is dropped.
    n_neighbors
        Neighbours of each cell, itself among them; fewer than the cells.
    eigenvectors
        "symmetric" as in scanpy, or "right": those of the random walk, as in Coifman & Lafon 2006.
    drop_trivial
        Whether to leave component 0 out.
    seed
        Of the search for neighbours.

    Returns
    -------
    Embedding
        `coordinates` (cells, components); `fit.eigenvalues`. `transform` raises: eigenvectors have no entry for others.

    Raises
    ------
    CountsError, SchemaError, OptionError
        As in `pca`.
    """
    source, values = Source.of(adata, layer=layer, use_rep=use_rep, n_top_genes=n_top_genes)
    fit = fit_diffusion_map(
        values,
        n_components=n_components,
        n_neighbors=n_neighbors,
        eigenvectors=eigenvectors,
        drop_trivial=drop_trivial,
        n_pcs=n_pcs,
        seed=seed,
    )
    note = {
        "n_components": n_components,
        "n_neighbors": n_neighbors,
        "eigenvectors": eigenvectors,
        "drop_trivial": drop_trivial,
        "n_pcs": n_pcs,
        "seed": seed,
    }
    found = _written(adata, fit, source, slot="diffmap", key_added=key_added, parameters=note)
    if key_added is None:
        adata.uns["diffmap_evals"] = fit.eigenvalues
    else:
        adata.uns[key_added]["eigenvalues"] = fit.eigenvalues
    return found


def _written(
    adata: AnnData,
    fit: FitT,
    source: Source,
    *,
    slot: str,
    key_added: str | None,
    parameters: dict[str, Any],
    uns: str | None = None,
) -> Embedding[FitT]:
    """Write coordinates and parameters into the AnnData; options that were left to the method are not written."""
    key = key_added or f"X_{slot}"
    given = {name: value for name, value in {**parameters, **source.note()}.items() if value is not None}
    with quiet():  # a view becomes a copy here, which is what is wanted
        adata.obsm[key] = fit.coordinates.astype(np.float32)
        adata.uns[key_added or uns or slot] = {"params": given}
    return Embedding(fit, key, source, given)


_PLACES = {
    "pca": (("obsm", "X_pca"), ("varm", "PCs"), ("uns", "pca")),
    "ica": (("obsm", "X_ica"), ("uns", "ica")),
    "factor_analysis": (("obsm", "X_fa"), ("uns", "fa")),
    "tsne": (("obsm", "X_tsne"), ("uns", "tsne")),
    "umap": (("obsm", "X_umap"), ("uns", "umap")),
    "forceatlas2": (("obsm", "X_draw_graph_fa"), ("uns", "draw_graph")),
    "diffusion_map": (("obsm", "X_diffmap"), ("uns", "diffmap"), ("uns", "diffmap_evals")),
}
"""The usual slots of each method, that of the coordinates first."""


def key_beside(adata: AnnData, method: str, *, key_added: str | None = None) -> str | None:
    """Return a `key_added` with which a method replaces nothing, and make the data writable: for a file to be written.

    Called by somebody who names the AnnData, the methods replace their own slots, as scanpy does; a file that is
    embedded and written again keeps all that it had.

    Parameters
    ----------
    adata
        What is embedded; what a .h5ad file cannot hold is altered, with warnings.
    method
        One of `METHODS`.
    key_added
        The name that the user asked for.

    Returns
    -------
    The name asked for, or None where the usual slots are free, or a free name, which is logged.

    Raises
    ------
    OptionError
        If the name asked for is that of a slot that is there.
    """
    for text in make_writable(adata):
        warnings.warn(CelboWarning(text), stacklevel=3)

    def taken(key: str) -> bool:
        return key in adata.obsm or key in adata.varm or key in adata.uns

    if key_added is not None:
        if taken(key_added):
            fix = "Choose another name."
            raise OptionError("is a slot of the file already", where=f"--key-added {key_added}", fix=fix)
        return key_added
    if not any(key in getattr(adata, place) for place, key in _PLACES[method]):
        return None
    name = free_name(f"X_celbo_{_PLACES[method][0][1].removeprefix('X_')}", taken)
    _log.info("The file has slots of the usual names and keeps them; obsm[%r] is written.", name)
    return name


METHODS: dict[str, Callable[..., Embedding[Any]]] = {
    "pca": pca,
    "ica": ica,
    "factor_analysis": factor_analysis,
    "tsne": tsne,
    "umap": umap,
    "forceatlas2": forceatlas2,
    "diffusion_map": diffusion_map,
}
"""Every reduction by its name."""
