"""LDVAE: scVI with a linear decoder, so that each latent dimension has a loading for each gene (Svensson et al. 2020,
doi:10.1093/bioinformatics/btaa169).

    z_n ~ Normal(0, I)                       latent state of cell n
    rho_n = softmax(W z_n + S s_n + b)       expected share of each gene; s_n: batch and covariates
    x_ng ~ NB(l_n rho_ng, theta_g)           or ZINB, Poisson; l_n: total of the cell, or latent as in scVI

Inference: q(z | x) is a Gaussian from the encoder of scVI. W (genes x latent) are the loadings: effects on the log of
the share, up to a number that all genes have in common, which the softmax takes out. The prior is the same in all
directions, so factors are known up to a rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Generator

from celbo.data.cells import CellData
from celbo.data.schema import Schema
from celbo.models.base import CountModel
from celbo.models.scvi import SCVIConfig, SCVINetwork
from celbo.nn.decoders import LinearDecoder

__all__ = ["LDVAE", "LDVAEConfig", "LDVAENetwork"]


@dataclass(frozen=True, kw_only=True)
class LDVAEConfig:
    """What an LDVAE network is made of."""

    n_latent: int = 10
    """Dimensions of the latent space: factors."""
    n_hidden: int = 128
    """Units of each hidden layer of the encoder."""
    n_layers: int = 1
    """Hidden layers of the encoder."""
    dropout_rate: float = 0.1
    """Dropout of the encoder's hidden layers."""
    likelihood: Literal["nb", "zinb", "poisson"] = "nb"
    """Distribution of the counts given the latent state."""
    dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene"
    """What the inverse dispersion depends on."""
    library: Literal["observed", "latent"] = "observed"
    """Library size: each cell's total, or a latent variable with a log-normal prior for each batch."""
    latent_distribution: Literal["normal", "logistic-normal"] = "normal"
    """The decoder sees z, or softmax(z): shares of topics."""
    scale_covariates: bool = True
    """Centre and scale continuous covariates by the training cells; False takes them in their own units."""
    loadings_batch_norm: bool = False
    """Batch norm after the linear map, as in scvi-tools: the scale of loadings then depends on running variances."""
    initialisation: Literal["data", "uniform"] = "data"
    """Start the output at the mean expression, or at random."""

    @classmethod
    def scvi_tools(cls) -> LDVAEConfig:
        """Return the defaults of `LinearSCVI` in scvi-tools 1.4: latent library, batch norm after the linear map."""
        return cls(library="latent", loadings_batch_norm=True, initialisation="uniform", scale_covariates=False)


class LDVAENetwork(SCVINetwork):
    """The network of scVI with a linear map for a decoder."""

    def __init__(self, config: LDVAEConfig, schema: Schema, generator: Generator) -> None:
        shared = SCVIConfig(
            n_latent=config.n_latent,
            n_hidden=config.n_hidden,
            n_layers=config.n_layers,
            dropout_rate=config.dropout_rate,
            likelihood=config.likelihood,
            dispersion=config.dispersion,
            library=config.library,
            latent_distribution=config.latent_distribution,
            initialisation=config.initialisation,
        )
        super().__init__(shared, schema, generator)
        old = self.decoder
        del self.decoder
        self.decoder: Any = LinearDecoder(
            config.n_latent,
            schema.n_genes,
            covariates=old.covariates,
            heads=tuple(old.heads),
            batch_norm=config.loadings_batch_norm,
            generator=generator,
        )

    @torch.no_grad()
    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Set the library prior, and start at the mean expression with small loadings."""
        super().prepare(data, train)
        if self.config.initialisation == "data":
            self.decoder.bias_behind_norm()


class LDVAE(CountModel[LDVAEConfig]):
    """scVI with a linear decoder and gene loadings; see the module's docstring for its equations.

    The options of `LDVAEConfig` are keyword arguments too. It explains counts slightly worse than scVI, and says which
    genes each latent dimension moves.

    Parameters
    ----------
    adata
        Counts: cells x genes. The model keeps its own copy of what it needs.
    config
        The network's configuration; further keywords replace its fields.
    layer, batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        See `celbo.data.schema.DataKeys`.
    seed
        Seed of everything random: weights, split, order, noise.

    Examples
    --------
    >>> model = celbo.LDVAE(adata, n_latent=10).train()
    >>> model.get_loadings()[0].nlargest(10)  # the genes that the first factor raises most
    """

    config_class = LDVAEConfig
    network_class = LDVAENetwork

    def get_loadings(self, *, center: bool = True) -> pd.DataFrame:
        """Return what one unit of each latent dimension adds to the log share of each gene.

        Parameters
        ----------
        center
            Take the mean over genes out of each column: the softmax makes it meaningless.

        Returns
        -------
        DataFrame (genes, latent). With batch norm after the linear map: its factors times W, with the running
        variances of training (Svensson et al. 2020; scvi-tools `get_loadings`).
        """
        self._trained()
        loadings = self.network.decoder.loadings("mean").detach().cpu().double().numpy()
        if center:
            loadings = loadings - loadings.mean(0)
        return pd.DataFrame(loadings, index=list(self.schema.genes), columns=range(loadings.shape[1]))
