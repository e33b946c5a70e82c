"""scVAE: variational autoencoders of raw counts with a normal or a mixture prior (Groenbech et al. 2020,
doi:10.1093/bioinformatics/btaa293).

    VAE      z_n ~ N(0, I)
    GMVAE    y_n ~ Cat(pi)     z_n | y_n ~ N(mu_y, diag sigma_y^2)
    both     x_ng | z_n ~ one of the likelihoods, its parameters from the decoder f(z_n, s_n)

Only z enters the decoder, never y. Inference: q(z | x) = N, or q(y | x) = softmax MLP and q(z | x, y) = N of an MLP of
[x, one-hot y], so that

    ELBO = sum_k q(k | x) [log p(x | z_k) - log q(z_k | x, k) + log p(z_k | k)] - KL(q(y | x) || p(y))

with the sum over y exact and both divergences analytic. A cell's cluster is the k of largest q(k | x).

The mean is the decoder's own, depth and all: scVAE has no library size, but for the constrained Poisson, whose mean is
`N softmax(f)` with N the cell's total. The negative binomial with a dispersion for each gene and cell is that of
(r, p): inverse dispersion r, mean r p / (1 - p). The network is in `gmvae.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from celbo.errors import OptionError
from celbo.models.base import CountModel
from celbo.models.gmvae import SCVAENetwork, named_labels
from celbo.models.options import Indices
from celbo.posterior.stream import encoded_blocks, evaluating
from celbo.training.plan import TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["SCVAE", "SCVAEConfig"]

LikelihoodName = Literal[
    "nb", "zinb", "poisson", "constrained-poisson", "zip", "bernoulli", "normal", "lognormal", "lomax"
]  # fmt: skip


def _is_whole(least: int, *, optional: bool = False) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        if value is None:
            return optional
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return holds


@dataclass(frozen=True, kw_only=True)
class SCVAEConfig:
    """What an scVAE is made of."""

    prior: Literal["normal", "gaussian-mixture"] = "normal"
    """Prior of z: one standard normal (VAE), or a mixture whose components are clusters (GMVAE)."""
    n_components: int | None = None
    """Components of the mixture; None is the number of labels where labels_key is given, else 10."""
    likelihood: LikelihoodName = "nb"
    """Distribution of the counts given z; "gaussian" is "normal", of positive mean (the original's may be negative)."""
    n_classes: int = 0
    """Piecewise categorical: counts below this have a probability each, the likelihood describes the rest; 0 is off."""
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_hidden: tuple[int, ...] = (100,)
    """Units of each hidden layer of the encoders; the decoder has them in reverse."""
    dropout_rate: float = 0.1
    """Dropout of the hidden layers."""
    encoder_input: Literal["log-normalised", "log1p", "counts"] = "log-normalised"
    """What the encoders see: log(1 + x m / l) with m the median of the totals l, log(1 + x), or x."""
    encode_library: bool = True
    """Whether they also see log l, standardised, as depth is for z to carry."""
    library: Literal["decoded", "observed"] = "decoded"
    """Whether the decoder gives each cell's expected counts, depth and all, or shares of its observed total; always
    the latter for the constrained Poisson."""
    dispersion: Literal["gene", "gene-cell"] = "gene"
    """What the dispersion depends on; "gene-cell" is scVAE's, another output of the decoder."""
    n_samples: int = 1
    """Monte Carlo samples of z for the reconstruction."""
    n_importance_samples: int = 1
    """Above 1, the importance-weighted bound of so many samples is maximised (IWAE)."""
    prior_probabilities: Literal["uniform", "labels", "learn"] = "uniform"
    """p(y) of the mixture: uniform, the shares of the labels among the training cells, or learnt."""
    free_nats: float = 0.0
    """Share of log K below which KL(q(y | x) || p(y)), averaged over a minibatch, is not reduced further."""
    start: Literal["k-means", "random"] = "k-means"
    """Where the clusters start: at k-means of principal components, to which q(y | x) is pulled while the KL warms up,
    or at random as in the original, where most components end empty."""
    initialisation: Literal["data", "random"] = "data"
    """Start the output at the mean expression, or at random."""
    batch_norm_decay: float = 0.9
    """Decay of the running moments of batch norm, which has a shift and no factor."""
    clipped: bool = False
    """Clip the decoder's outputs to [-10, 10] and log sigma to [-3, 3], as the original does."""

    limits: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {
        "n_components": (_is_whole(2, optional=True), "a whole number of at least 2, or None"),
        "n_classes": (_is_whole(0), "a whole number, 0 for none"),
        "n_hidden": (
            lambda v: isinstance(v, tuple) and len(v) > 0 and all(map(_is_whole(1), v)),
            "a tuple of at least one positive whole number",
        ),
    }

    def __post_init__(self) -> None:
        """Take "gaussian" as the other name of "normal"."""
        if self.likelihood == "gaussian":  # type: ignore[comparison-overlap]
            object.__setattr__(self, "likelihood", "normal")

    @classmethod
    def paper(cls, *, prior: Literal["normal", "gaussian-mixture"] = "normal") -> SCVAEConfig:
        """Return the defaults of the authors' program (scvae 2.1.4, `defaults.json`): Poisson, latent 2, hidden 100.

        Raw counts enter the encoder, so that deep cells and large genes drown the others; nothing keeps q(y | x) from
        leaving components empty. `SCVAE.paper_plan` is the training that goes with it.
        """
        return cls(
            prior=prior,
            likelihood="poisson",
            n_latent=2,
            n_hidden=(100,),
            dropout_rate=0.0,
            dispersion="gene-cell",
            encoder_input="counts",
            encode_library=False,
            start="random",
            initialisation="random",
            batch_norm_decay=0.999,
            clipped=True,
        )

    @classmethod
    def guide_10x(cls) -> SCVAEConfig:
        """Return the model of the authors' guide for nine purified populations of blood cells: GMVAE, NB, latent 100.

        `scvae train 10x-PBMC-PP -m GMVAE -r negative_binomial -l 100 -H 100 100 -w 200 -e 500` (docs/guide.rst), the
        number of components being that of the labels; its training is `SCVAE.guide_10x_plan`. The guide's first command
        leaves `-r` out and so fits a Poisson; its text says negative binomial, as this does.
        """
        return replace(cls.paper(prior="gaussian-mixture"), likelihood="nb", n_latent=100, n_hidden=(100, 100))


class SCVAE(CountModel[SCVAEConfig]):
    """Variational autoencoder of raw counts with a normal or a Gaussian-mixture prior; equations at the file's top.

    The options of `SCVAEConfig` are keyword arguments too. What differs from the original by default: log-normalised
    counts and the log total enter the encoders instead of raw counts; the clusters start at k-means, as otherwise most
    components end empty; the divergence of z is analytic; early stopping stops (the original only saved a copy).
    `SCVAEConfig.paper` and `paper_plan` are the original's.

    Parameters
    ----------
    adata
        Counts: cells x genes. The model keeps its own copy of what it needs.
    config
        The network's configuration; further keywords replace its fields.
    layer, batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        See `celbo.data.schema.DataKeys`. Batch and covariates enter the decoder. The labels are used for their number
        and, with `prior_probabilities="labels"`, their shares; never in training.
    seed
        Seed of everything random: weights, split, order, noise, start of the clusters.

    Examples
    --------
    >>> model = celbo.SCVAE(adata, prior="gaussian-mixture", n_components=8)
    >>> model.train()
    >>> adata.obs["cluster"] = model.predict()
    """

    config_class = SCVAEConfig
    network_class = SCVAENetwork

    def default_plan(self) -> TrainConfig:
        """Return celbo's plan with a longer warm-up of both divergences, which is also how long the start pulls.

        The encoders of a thousand cells learn them by heart: more decay of the weights keeps clusters that the bound
        of held-out cells bears out. That bound dips while the learning rate is high, so stopping waits longer.
        """
        return TrainConfig(weight_decay=1.0, patience=20, kl_warmup=0.3, kl_warmup_terms=("z", "y", "free_nats"))

    @staticmethod
    def paper_plan() -> TrainConfig:
        """Return the training of the authors' program: Adam 1e-4, batches of 100, 200 epochs, gradients cut at 1.

        Its early stopping only saved a copy of the weights, so this neither stops nor goes back to the best epoch.
        """
        return TrainConfig(
            max_epochs=200,
            batch_size=100,
            optimizer="adam",
            learning_rate=1e-4,
            schedule="constant",
            kl_warmup=0,
            early_stopping=False,
            restore_best=False,
            clip_value=1.0,
        )

    @staticmethod
    def guide_10x_plan() -> TrainConfig:
        """Return the training of `SCVAEConfig.guide_10x`: that of the paper with 500 epochs, of which 200 warm up."""
        terms = ("z", "y", "free_nats")
        return replace(SCVAE.paper_plan(), max_epochs=500, kl_warmup=200, kl_warmup_terms=terms)

    def predict(
        self, adata: AnnData | None = None, *, indices: Indices = None, as_labels: bool = False
    ) -> npt.NDArray[Any]:
        """Return the cluster of each cell, the y of largest q(y | x).

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        as_labels
            Name each cluster by the most frequent label among its training cells (the original's "prediction method"),
            and an empty one by its number. Needs `labels_key`.

        Returns
        -------
        Numbers of components from 0, (cells,) int64; with `as_labels` names, (cells,) object.

        Raises
        ------
        OptionError
            If the prior is one normal, or there are no labels to name clusters by.
        """
        codes: npt.NDArray[Any] = self._probabilities(adata, indices).argmax(1)
        return self._names()[codes] if as_labels else codes

    def get_cluster_probabilities(self, adata: AnnData | None = None, *, indices: Indices = None) -> pd.DataFrame:
        """Return q(y | x): the probability of each component for each cell.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.

        Returns
        -------
        DataFrame (cells, components) indexed by cell names, with numbers from 0 as columns; rows sum to one.

        Raises
        ------
        OptionError
            If the prior is one normal.
        """
        values = self._probabilities(adata, indices)
        data, index = self._asked(adata, indices)
        return pd.DataFrame(values, index=np.asarray(data.cell_names)[index])

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        gene_list: Sequence[str] | None = None,
        transform_batch: str | Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1.0,
        n_samples: int = 1,
        give_mean: bool = False,
        return_mean: bool = True,
        return_numpy: bool = False,
        path: str | Path | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return each gene's share of the expected counts, before zero inflation; parameters as in `CountModel`.

        scVAE has no library size: the shares are the decoder's means over their sum, and `library_size="latent"` gives
        the means themselves. Bernoulli, log-normal, Lomax and piecewise categorical have no such mean among their
        parameters; `get_denoised_expression` gives theirs.

        Raises
        ------
        OptionError
            If the likelihood is one of these.
        """
        if not self.network.has_shares:
            raise OptionError(
                "has no mean among its parameters, so there are no shares of it",
                where=f"likelihood={self.config.likelihood!r}, n_classes={self.config.n_classes}",
                fix="Call get_denoised_expression(library_size=1.0).",
            )
        return super().get_normalized_expression(
            adata,
            indices=indices,
            gene_list=gene_list,
            transform_batch=transform_batch,
            library_size=library_size,
            n_samples=n_samples,
            give_mean=give_mean,
            return_mean=return_mean,
            return_numpy=return_numpy,
            path=path,
            batch_size=batch_size,
            seed=seed,
        )

    def _probabilities(self, adata: AnnData | None, indices: Indices) -> npt.NDArray[np.float32]:
        if not self.network.is_mixture:
            raise OptionError(
                "has no clusters", where="prior='normal'", fix="Use prior='gaussian-mixture' to have them."
            )
        data, index = self._asked(adata, indices)
        with evaluating(self.network):
            blocks = encoded_blocks(self.network, data, index, batch_size=_CELLS_AT_ONCE, seed=self.seed)
            parts = [block.latent.z.weight.to("cpu").numpy() for block in blocks]
        return np.concatenate(parts)

    def _names(self) -> npt.NDArray[np.object_]:
        """Return the name of each component: the most frequent label among its training cells, or its number."""
        if self.schema.keys.labels_key is None:
            raise OptionError("needs labels", where="as_labels=True", fix="Pass labels_key when the model is made.")
        own, train = self._own_data(), self.train_indices
        codes, known = self._probabilities(None, train).argmax(1), named_labels(self.schema)
        names = np.array([str(k) for k in range(self.network.n_components)], object)
        for k in np.unique(codes):
            counts = np.bincount(own.labels[train][codes == k], minlength=self.schema.n_labels)[known]
            if counts.any():
                names[k] = self.schema.labels[known[counts.argmax()]]
        return names


_CELLS_AT_ONCE = 512
