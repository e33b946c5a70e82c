"""Classical reductions: PCA, ICA, factor analysis, t-SNE, UMAP, ForceAtlas2 and diffusion maps.

`pca(adata)` and its like take an AnnData and write the conventional slot; `fit_pca(values)` and its like take
log-normalised counts (CSR) or a representation (dense) and know nothing of AnnData.
"""

from celbo.embed.factor import FactorAnalysis, fit_factor_analysis
from celbo.embed.graph import DiffusionMap, ForceAtlas2, fit_diffusion_map, fit_forceatlas2, neighbour_graph
from celbo.embed.linear import ICA, PCA, fit_ica, fit_pca
from celbo.embed.maps import TSNE, UMAP, fit_tsne, fit_umap
from celbo.embed.methods import METHODS, diffusion_map, factor_analysis, forceatlas2, ica, pca, tsne, umap
from celbo.embed.source import Embedding, Source

__all__ = [
    "ICA",
    "METHODS",
    "PCA",
    "TSNE",
    "UMAP",
    "DiffusionMap",
    "Embedding",
    "FactorAnalysis",
    "ForceAtlas2",
    "Source",
    "diffusion_map",
    "factor_analysis",
    "fit_diffusion_map",
    "fit_factor_analysis",
    "fit_forceatlas2",
    "fit_ica",
    "fit_pca",
    "fit_tsne",
    "fit_umap",
    "forceatlas2",
    "ica",
    "neighbour_graph",
    "pca",
    "tsne",
    "umap",
]
