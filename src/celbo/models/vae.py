"""The variational autoencoder (Kingma and Welling 2014, arXiv:1312.6114), with the beta of Higgins et al. 2017.

    z ~ N(0, I)    q(z | x) = N(mu(y), diag sd(y)^2)    y = t(x)    maximise  E_q[log p(x | z)] - beta KL(q || p)

p(x | z) is either a distribution of the counts x around `library * softmax f(z)`, or, with `likelihood="gaussian"`, one
of the transformed counts,

    y_g ~ N(f(z)_g, s_g^2)    s_g learnt for each gene, or 1 (`learn_variance=False`): half the squared error

With beta = 1 what is maximised is the ELBO. With beta = 0 nothing keeps q wide: the noise of z only costs, and its
standard deviations go to their floor. A Gaussian has evidence as a density of y; what the same model says of the counts
is `get_count_ll`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.data.moments import gene_moments
from celbo.data.schema import Schema
from celbo.errors import OptionError
from celbo.likelihoods import make_likelihood
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.transformed import RoundedNormal, TransformedNormal, TransformedParameters
from celbo.models.autoencoder import WIDTHS, CentredInput, points_of
from celbo.models.base import CountModel
from celbo.models.options import Indices
from celbo.nn.latent import GaussianPosterior, Latent
from celbo.nn.layers import GeneLinear, torch_linear
from celbo.nn.mlp import MLP, Activation
from celbo.nn.transforms import TransformName
from celbo.posterior.stream import evaluating
from celbo.training.plan import Loss, StepState

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["VAE", "VAEConfig", "VAENetwork"]

Floats = npt.NDArray[np.float32]
_START_DROPOUT_LOGIT = -2.0


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """What a VAE is made of."""

    n_latent: int = 10
    """Dimensions of the latent space."""
    n_hidden: tuple[int, ...] = (128,)
    """Widths of the encoder's hidden layers, mirrored in the decoder; () is a linear map each way."""
    activation: Activation = "relu"
    """Non-linearity of the hidden layers."""
    batch_norm: bool = True
    """Whether hidden layers are batch-normalised."""
    dropout_rate: float = 0.1
    """Dropout of the encoder's hidden layers."""
    likelihood: Literal["gaussian", "nb", "zinb", "poisson", "zip", "lognormal", "lomax"] = "nb"
    """Distribution given the latent state: of the counts, or "gaussian" of the transformed counts."""
    transform: TransformName = "log-normalised"
    """What the encoder sees of the counts, and what the Gaussian is a distribution of."""
    learn_variance: bool = True
    """Whether the Gaussian learns a standard deviation for each gene; False sets all to 1: half the squared error."""
    beta: float = 1.0
    """Weight of the divergence from the prior: 0 trains on the reconstruction alone."""
    variance_floor: float = 1e-4
    """Added to the variance of q."""

    limits: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {
        "n_hidden": (lambda v: v is not None and WIDTHS[0](v), "a tuple of positive whole numbers, or ()"),
        "beta": (lambda v: not isinstance(v, bool) and 0 <= v < math.inf, "0 or a positive number"),
    }

    @classmethod
    def squared_error(cls, *, beta: float = 1.0) -> VAEConfig:
        """Return the VAE of the textbooks: squared error on log-normalised counts, and beta times the divergence."""
        return cls(likelihood="gaussian", learn_variance=False, beta=beta)


class VAENetwork(nn.Module):
    """The equations of the module's docstring; one minibatch in, the terms of the ELBO out."""

    def __init__(self, config: VAEConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        _refuse(config, schema)
        self.config = config
        self.is_gaussian = config.likelihood == "gaussian"
        self.likelihood: Likelihood = TransformedNormal() if self.is_gaussian else make_likelihood(config.likelihood)
        n_genes, widths = schema.n_genes, config.n_hidden
        self.input = CentredInput(config.transform, n_genes)
        self.encoder = _stack(config, n_genes, widths, config.dropout_rate, generator)
        self.head = torch_linear(self.encoder.n_out, 2 * config.n_latent, generator=generator)
        self.decoder = _stack(config, config.n_latent, widths[::-1], 0.0, generator)
        names = ["mean", "dropout"] if self.likelihood.has_dropout else ["mean"]
        fan_in = self.decoder.n_out
        self.heads = nn.ModuleDict(
            {name: GeneLinear(fan_in, n_genes, fan_in=fan_in, generator=generator) for name in names}
        )
        if self.likelihood.has_dispersion and (config.learn_variance or not self.is_gaussian):
            self.log_theta = nn.Parameter(torch.zeros(1, n_genes))

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[GaussianPosterior]:
        """q(z | x); (cells, latent)."""
        h = self.encoder(self.input(batch) - self.input.mean, generator)
        return Latent(GaussianPosterior.from_hidden(h, self.head, variance_floor=self.config.variance_floor))

    def sample_latent(
        self,
        latent: Latent[GaussianPosterior],
        batch: Minibatch,
        n_samples: int = 1,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw z, (samples, cells, latent); with the log total of each cell, (1, cells)."""
        return latent.z.sample(n_samples, generator), batch.library.log()[None]

    def decode(
        self, z: Tensor, log_library: Tensor, batch: Minibatch, generator: Generator | None = None
    ) -> CountParameters:
        """p(x | z) or p(y | z): raw parameters for z (samples, cells, latent)."""
        h = self.decoder(z)
        out = dict(zip(self.heads, GeneLinear.together(h, [_head(head) for head in self.heads.values()]), strict=True))
        if not self.is_gaussian:
            log_theta = getattr(self, "log_theta", None)
            return CountParameters(out["mean"], log_library, log_theta, dropout_logits=out.get("dropout"))
        return TransformedParameters(
            out["mean"], log_library, self.log_sd(), log_unit=self._log_unit(batch), spread=self.config.learn_variance
        )

    def decode_dense(self, z: Tensor, batch: Minibatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the Gaussian of the transformed counts, as `celbo.likelihoods.interval_log_prob` takes it.

        Mean (samples, cells, genes) and standard deviation (1, genes) of `log(1 + scale x)`, and the scale (cells,);
        None where the Gaussian is one of the counts themselves, as with `transform="identity"` there.
        """
        if not self.is_gaussian:
            raise OptionError(
                "has no Gaussian of transformed counts", where=f"a VAE with likelihood={self.config.likelihood!r}",
                fix="Use get_marginal_ll: its likelihood is one of counts already.",
            )  # fmt: skip
        unit = self._log_unit(batch)
        mean: Tensor = self.heads["mean"](self.decoder(z))
        return mean, self.log_sd().exp(), None if unit is None else (-unit[0]).exp()

    def log_sd(self) -> Tensor:
        """Log standard deviation of each gene's transformed counts, (1, genes), floored smoothly at 0.01."""
        if not self.config.learn_variance:
            return torch.zeros_like(self.input.mean)[None]
        return 0.5 * torch.logaddexp(2 * self.log_theta, self.log_theta.new_tensor(_LOG_VARIANCE_FLOOR))

    def _log_unit(self, batch: Minibatch) -> Tensor | None:
        """Return the log of what the counts of each cell are divided by, (1, cells); None for the counts themselves."""
        if self.config.transform == "counts":
            return None
        if self.config.transform == "log1p":
            return torch.zeros_like(batch.library)[None]
        return (batch.library / self.input.transform.target).log()[None]

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Terms of the negative ELBO with one sample: -log p(x | z) and KL(q(z) || p(z)), the latter beta times."""
        latent = self.encode(batch, step.generator)
        z, log_library = self.sample_latent(latent, batch, 1, step.generator)
        parameters = self.decode(z, log_library, batch)
        factors = {} if self.config.beta == 1 else {"z": float(self.config.beta)}
        reconstruction = -self.likelihood.log_prob(parameters, batch.rows)[0]
        return Loss(reconstruction, self.kl(latent, batch), factors=factors)

    def kl(self, latent: Latent[GaussianPosterior], batch: Minibatch) -> dict[str, Tensor]:
        """Analytic divergence from the prior, (cells,)."""
        return {"z": latent.z.kl_to(0.0, 1.0)}

    def log_prior(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> Tensor:
        """Log p(z), (samples, cells)."""
        return GaussianPosterior(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)

    def sample_prior(
        self, batch: Minibatch, n_samples: int = 1, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z from the prior, (samples, cells, latent); with the log total of each cell, (1, cells)."""
        prior = GaussianPosterior.standard(batch.library, self.config.n_latent)
        return self.sample_latent(Latent(prior), batch, n_samples, generator)

    def log_posterior(self, z: Tensor, log_library: Tensor, latent: Latent[GaussianPosterior]) -> Tensor:
        """Log q(z | x), (samples, cells)."""
        return latent.z.log_prob(z)

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return z."""
        return z

    def decode_points(self, z: Tensor) -> Tensor:
        """Return what z (..., latent) decodes to, (..., genes): the mean of y, or log(1 + share x median total)."""
        values: Tensor = self.heads["mean"](self.decoder(z))
        if self.is_gaussian:
            return values
        return (values.softmax(-1) * self.input.transform.target).log1p()

    @torch.no_grad()
    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Fit the transform to the training cells, and start at the mean of each gene."""
        deviation = self.input.fit(data, train)
        mean_head = _head(self.heads["mean"])
        if self.is_gaussian:
            mean_head.bias.copy_(self.input.mean)
            mean_head.weight.mul_(_START)
            if self.config.learn_variance:
                self.log_theta.copy_(deviation.clamp_min(_LEAST_SD).log()[None])
            return
        mean = torch.from_numpy(gene_moments(data.counts, train)[0]) + 0.5 / train.size
        mean_head.bias.copy_((mean / mean.sum()).log())
        if self.likelihood.has_dropout:
            _head(self.heads["dropout"]).bias.fill_(_START_DROPOUT_LOGIT)

    @contextmanager
    def of_counts(self) -> Iterator[None]:
        """Score counts by a Gaussian of transformed ones: by the probability of what rounds to them."""
        kept, self.likelihood = self.likelihood, RoundedNormal()
        try:
            yield
        finally:
            self.likelihood = kept


_START = 0.03
_LEAST_SD, _LOG_VARIANCE_FLOOR = 1e-2, math.log(1e-4)
"""Least standard deviation of a gene's transformed counts: that of one which hardly varies would go to zero, and its
density without bound."""


def _refuse(config: VAEConfig, schema: Schema) -> None:
    if config.likelihood == "gaussian" and config.transform not in ("log-normalised", "log1p", "counts"):
        raise OptionError(
            "cannot have a Gaussian of its own", where=f"transform={config.transform!r}",
            fix="Use 'log-normalised', 'log1p' or 'counts': the Gaussian learns the scale of each gene itself.",
        )  # fmt: skip
    if schema.keys.size_factor_key is not None:
        raise OptionError(
            "is not used by this model", where=f"size_factor_key={schema.keys.size_factor_key!r}",
            fix="Leave it out (each cell's total is its library size), or use SCVI.",
        )  # fmt: skip


def _stack(config: VAEConfig, n_in: int, widths: tuple[int, ...], dropout_rate: float, generator: Generator) -> MLP:
    return MLP(
        n_in,
        widths,
        activation=config.activation,
        batch_norm=config.batch_norm,
        dropout_rate=dropout_rate,
        generator=generator,
    )


def _head(module: nn.Module) -> GeneLinear:
    assert isinstance(module, GeneLinear)
    return module


class VAE(CountModel[VAEConfig]):
    """Variational autoencoder of counts or of transformed counts; see the module's docstring for its equations.

    The options of `VAEConfig` are keyword arguments too. A batch column may be named, but the network does not see it
    (`SCVI` does). With `likelihood="gaussian"`, `get_elbo` and `get_marginal_ll` are log-densities of the transformed
    counts: they stand beside those of other Gaussians of the same transform, never beside a log-probability of counts,
    which is `get_count_ll`. With `learn_variance=False` expected counts are those at the mean of y.

    Parameters
    ----------
    adata
        Counts: cells x genes. The model keeps its own copy of what it needs.
    config
        The network's configuration; further keywords replace its fields.
    layer, batch_key, labels_key
        See `celbo.data.schema.DataKeys`.
    seed
        Seed of everything random: weights, split, order, noise.

    Examples
    --------
    >>> model = celbo.VAE(adata, likelihood="gaussian", n_latent=2)
    >>> model.train()
    >>> adata.obsm["X_vae"] = model.get_latent_representation()
    """

    config_class = VAEConfig
    network_class = VAENetwork

    def get_count_ll(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        n_samples: int = 500,
        per_cell: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Return the log marginal probability of the counts by importance weighting, in nats per cell.

        What `get_marginal_ll` is for a likelihood of counts; for the Gaussian, p(x | z) is the probability of all
        values that round to the count (`celbo.likelihoods.interval`), so that both kinds stand beside each other.

        Parameters
        ----------
        adata, indices, n_samples, per_cell, seed
            See `get_marginal_ll`.

        Returns
        -------
        The mean over cells, or with `per_cell` each cell's, (cells,) float64.
        """
        if not self.network.is_gaussian:
            return self.get_marginal_ll(adata, indices=indices, n_samples=n_samples, per_cell=per_cell, seed=seed)
        with self.network.of_counts():
            return self.get_marginal_ll(adata, indices=indices, n_samples=n_samples, per_cell=per_cell, seed=seed)

    def decode(self, z: npt.ArrayLike) -> Floats:
        """Return what points of the latent space decode to.

        Parameters
        ----------
        z
            Latent states; (points, latent). Draws from N(0, I) are draws from the model.

        Returns
        -------
        (points, genes) float32: the mean of the transformed counts for a Gaussian, else the log-normalised expected
        counts, `log(1 + share x median total)`.
        """
        self._trained()
        with evaluating(self.network):
            values: Tensor = self.network.decode_points(points_of(z, self.network, self.config.n_latent))
        decoded: Floats = values.cpu().float().numpy()
        return decoded
