"""scVI: a deep generative model of single-cell counts (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2).

    z_n ~ Normal(0, I)                          latent state of cell n
    l_n ~ LogNormal(m_s, v_s)                   library size; m_s, v_s: mean and variance of log totals in batch s
    rho_n = softmax(f_w(z_n, s_n))              expected share of each gene
    w_ng ~ Gamma(mean rho_ng, shape theta_g)    y_ng ~ Poisson(l_n w_ng)
    h_ng ~ Bernoulli(sigmoid(f_h(z_n, s_n)))    x_ng = 0 where h_ng = 1, else y_ng

Integrating w and h out, x_ng ~ ZINB(l_n rho_ng, theta_g, f_h); without h, which today's practice leaves out, NB.
Inference: q(z | x) and q(log l | x) are Gaussians from two encoders of log(1 + x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.data.moments import gene_moments
from celbo.data.schema import Schema
from celbo.likelihoods import make_likelihood
from celbo.likelihoods.base import CountParameters, Link
from celbo.models.base import CountModel
from celbo.nn.decoders import CountDecoder
from celbo.nn.encoders import GaussianEncoder
from celbo.nn.latent import GaussianPosterior, Latent
from celbo.nn.layers import CovariateSizes, StackConfig
from celbo.training.plan import Loss, StepState

__all__ = ["SCVI", "SCVIConfig", "SCVINetwork"]

Array = npt.NDArray[np.generic]
Where = Literal["both", "encoder", "decoder", "none"]


@dataclass(frozen=True, kw_only=True)
class SCVIConfig:
    """What an scVI network is made of."""

    n_latent: int = 10
    """Dimensions of the latent space."""
    n_hidden: int = 128
    """Units of each hidden layer."""
    n_layers: int = 1
    """Hidden layers of the encoder and of the decoder."""
    dropout_rate: float = 0.1
    """Dropout of the encoder's hidden layers."""
    likelihood: Literal["nb", "zinb", "poisson", "normal"] = "nb"
    """Distribution of the counts given the latent state."""
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene"
    """What the inverse dispersion (for normal: the standard deviation) depends on."""
    library: Literal["observed", "latent"] = "observed"
    """Library size: each cell's total, or a latent variable with a log-normal prior for each batch."""
    latent_distribution: Literal["normal", "logistic-normal"] = "normal"
    """The decoder sees z, or softmax(z)."""
    batch_norm: Where = "both"
    """Where hidden layers are batch-normalised."""
    layer_norm: Where = "none"
    """Where hidden layers are layer-normalised."""
    batch_representation: Literal["one-hot", "embedding"] = "one-hot"
    """The batch as a row of a table at each layer, or as a learned vector beside the decoder's input."""
    n_batch_embedding: int = 5
    """Length of that vector."""
    encode_covariates: bool = False
    """Whether the encoder sees the batch and the covariates too."""
    inject_covariates: Literal["first", "every", "every-and-output"] = "every"
    """At which layers the categorical covariates enter."""
    scale_covariates: bool = True
    """Centre and scale continuous covariates by the training cells; False takes them in their own units."""
    dropout_position: Literal["after", "before"] = "after"
    """Dropout after each hidden layer, or before it (on the input too, as in the code of 2018)."""
    variance_floor: float = 1e-4
    """Added to the variance of q."""
    initialisation: Literal["data", "uniform", "truncated-normal"] = "data"
    """Start the output at the mean expression, or at random as scvi-tools or as the code of 2018 do."""

    @classmethod
    def paper_2018(cls) -> SCVIConfig:
        """Return the model of the paper as its code has it (Lopez et al. 2018, scVI-reproducibility 8f6fdbc)."""
        return cls(
            likelihood="zinb",
            library="latent",
            inject_covariates="every-and-output",
            dropout_position="before",
            variance_floor=0.0,
            initialisation="truncated-normal",
            scale_covariates=False,
        )

    @classmethod
    def scvi_tools(cls) -> SCVIConfig:
        """Return the defaults of scvi-tools 1.4: ZINB, observed library, random start."""
        return cls(likelihood="zinb", initialisation="uniform", scale_covariates=False)


class SCVINetwork(nn.Module):
    """The equations of the module's docstring; one minibatch in, the terms of the ELBO out."""

    library_mean: Tensor
    library_variance: Tensor

    def __init__(self, config: SCVIConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        self.config = config
        self.likelihood = make_likelihood(config.likelihood)
        self.uses_size_factor = schema.keys.size_factor_key is not None
        self.library_is_latent = config.library == "latent" and not self.uses_size_factor
        sizes, embedded = _covariate_sizes(config, schema)
        encoder_sizes = sizes if config.encode_covariates else CovariateSizes()
        self.batch_embedding = _embedding(schema.n_batches, config.n_batch_embedding, generator) if embedded else None

        stack = _stack(config, "encoder")
        self.z_encoder = GaussianEncoder(
            schema.n_genes,
            config.n_latent,
            stack=stack,
            covariates=encoder_sizes,
            variance_floor=config.variance_floor,
            generator=generator,
        )
        if self.library_is_latent:
            self.library_encoder = GaussianEncoder(
                schema.n_genes,
                1,
                stack=_stack(config, "encoder", n_layers=1),
                covariates=encoder_sizes,
                variance_floor=config.variance_floor,
                generator=generator,
            )
            self.register_buffer("library_mean", torch.zeros(schema.n_batches))  # of log totals, by `prepare`
            self.register_buffer("library_variance", torch.ones(schema.n_batches))

        heads = ["mean"]
        if self.likelihood.has_dispersion:
            if config.dispersion == "gene-cell":
                heads.append("theta")
            else:
                rows = {"gene": 1, "gene-batch": schema.n_batches, "gene-label": schema.n_labels}[config.dispersion]
                self.log_theta = nn.Parameter(torch.randn(rows, schema.n_genes, generator=generator))
        if self.likelihood.has_dropout:
            heads.append("dropout")
        self.decoder = CountDecoder(
            config.n_latent,
            schema.n_genes,
            stack=_stack(config, "decoder"),
            covariates=sizes,
            heads=tuple(heads),
            output_covariates=config.inject_covariates == "every-and-output",
            generator=generator,
        )
        if config.initialisation == "truncated-normal":
            _truncated_normal(self, generator)

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[GaussianPosterior]:
        """q(z | x) and, where the library size is latent, q(log l | x)."""
        beside = self._beside(batch) if self.config.encode_covariates else None
        z = self.z_encoder(batch, generator, beside=beside)
        library = self.library_encoder(batch, generator, beside=beside) if self.library_is_latent else None
        return Latent(z, library)

    def sample_latent(
        self,
        latent: Latent[GaussianPosterior],
        batch: Minibatch,
        n_samples: int = 1,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw z (samples, cells, latent) and the log library size (samples or 1, cells) from the posterior."""
        z = latent.z.sample(n_samples, generator)
        if latent.library is not None:
            return z, latent.library.sample(n_samples, generator)[..., 0]
        return z, (batch.library if batch.size_factor is None else batch.size_factor).log()[None]

    def decode(
        self, z: Tensor, log_library: Tensor, batch: Minibatch, generator: Generator | None = None
    ) -> CountParameters:
        """p(x | z, l, s): raw parameters for z (samples, cells, latent) and log l (samples or 1, cells)."""
        out = self.decoder(self.transform_latent(z), batch, generator, beside=self._beside(batch))
        return CountParameters(
            logits=out["mean"],
            log_scale=log_library,
            log_theta=out.get("theta", getattr(self, "log_theta", None)),
            theta_row={"gene-batch": batch.batch, "gene-label": batch.labels}.get(self.config.dispersion),
            dropout_logits=out.get("dropout"),
            link=self.link,
        )

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Terms of the negative ELBO with one sample: -log p(x | z, l, s), KL(q(z) || p(z)), KL(q(l) || p(l))."""
        latent = self.encode(batch, step.generator)
        z, log_library = self.sample_latent(latent, batch, 1, step.generator)
        parameters = self.decode(z, log_library, batch, step.generator)
        return Loss(-self.likelihood.log_prob(parameters, batch.rows)[0], self.kl(latent, batch))

    def kl(self, latent: Latent[GaussianPosterior], batch: Minibatch) -> dict[str, Tensor]:
        """Analytic divergences from the priors; each (cells,)."""
        divergences = {"z": latent.z.kl_to(0.0, 1.0)}
        if latent.library is not None:
            divergences["library"] = latent.library.kl_to(*self._library_prior(batch))
        return divergences

    def log_prior(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> Tensor:
        """Log p(z) (+ log p(log l)), (samples, cells)."""
        log_p = GaussianPosterior(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)
        if self.library_is_latent:
            log_p = log_p + GaussianPosterior(*self._library_prior(batch)).log_prob(log_library[..., None])
        return log_p

    def sample_prior(
        self, batch: Minibatch, n_samples: int = 1, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z (samples, cells, latent) and, where latent, log l (samples, cells) from the prior, else (1, cells)."""
        z = GaussianPosterior.standard(batch.library, self.config.n_latent)
        library = GaussianPosterior(*self._library_prior(batch)) if self.library_is_latent else None
        return self.sample_latent(Latent(z, library), batch, n_samples, generator)

    def log_posterior(self, z: Tensor, log_library: Tensor, latent: Latent[GaussianPosterior]) -> Tensor:
        """Log q(z | x) (+ log q(log l | x)), (samples, cells)."""
        log_q = latent.z.log_prob(z)
        return log_q if latent.library is None else log_q + latent.library.log_prob(log_library[..., None])

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return the state that the decoder sees: z, or softmax(z) for the logistic normal."""
        return z.softmax(-1) if self.config.latent_distribution == "logistic-normal" else z

    @property
    def link(self) -> Link:
        """Softmax; softplus with given size factors, which need not be totals of the shares."""
        return "softplus" if self.uses_size_factor else "softmax"

    @torch.no_grad()
    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Set the library prior, and start at the mean expression, so that no epoch is spent on finding it.

        Both come from the training cells alone.
        """
        if self.library_is_latent:
            mean, variance = _library_prior(data.library[train], data.batch[train], data.schema.n_batches)
            self.library_mean.copy_(mean)
            self.library_variance.copy_(variance)
        if self.config.initialisation != "data":
            return
        mean, variance = (torch.from_numpy(moment) for moment in gene_moments(data.counts, train))
        mean = mean.clamp_min(0) + 0.5 / train.size  # half a count for a gene that the training cells lack
        if self.uses_size_factor:
            assert data.size_factor is not None
            self.decoder.head("mean").bias.copy_(_inverse_softplus(mean / float(data.size_factor[train].mean())))
        else:
            self.decoder.head("mean").bias.copy_((mean / mean.sum()).log())
        if hasattr(self, "log_theta"):  # theta 1 for counts; for the normal the standard deviation of the gene
            self.log_theta.copy_(
                torch.zeros_like(mean) if self.likelihood.counts_only else 0.5 * (variance + _TINY).log()
            )
        if self.likelihood.has_dropout:
            self.decoder.head("dropout").bias.fill_(_START_DROPOUT_LOGIT)
        if self.library_is_latent:
            self.library_encoder.head.bias[0] = float(np.log(data.library[train]).mean())

    def _library_prior(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        return self.library_mean[batch.batch][:, None], self.library_variance[batch.batch].sqrt()[:, None]

    def _beside(self, batch: Minibatch) -> Tensor | None:
        parts = [batch.continuous] if batch.continuous.shape[1] else []
        if self.batch_embedding is not None:
            parts.append(self.batch_embedding(batch.batch))
        return torch.cat(parts, 1) if parts else None


_START_DROPOUT_LOGIT = -2.0
"""Most zeros are explained without inflation (Svensson 2020), so start with little of it."""
_TINY = 1e-4
"""Variance of a gene that does not vary in the training cells."""


def _covariate_sizes(config: SCVIConfig, schema: Schema) -> tuple[CovariateSizes, bool]:
    embedded = config.batch_representation == "embedding" and schema.n_batches > 1
    further = tuple(len(names) for names in schema.covariates.values())
    categories = further if embedded else (schema.n_batches, *further)
    n_continuous = len(schema.keys.continuous_covariate_keys)
    return CovariateSizes(categories, n_continuous, config.n_batch_embedding if embedded else 0), embedded


def _stack(config: SCVIConfig, side: Literal["encoder", "decoder"], n_layers: int | None = None) -> StackConfig:
    return StackConfig(
        n_layers=config.n_layers if n_layers is None else n_layers,
        n_hidden=config.n_hidden,
        dropout_rate=config.dropout_rate if side == "encoder" else 0.0,
        dropout_position=config.dropout_position,
        batch_norm=config.batch_norm in (side, "both"),
        layer_norm=config.layer_norm in (side, "both"),
        inject="first" if config.inject_covariates == "first" else "every",
    )


def _library_prior(library: Array, batch: Array, n_batches: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of log totals in each batch, (batches,) each; where undefined, those of all cells."""
    log_library = np.log(library.astype(np.float64))
    overall = max(float(log_library.var()), 1e-4)
    mean, variance = np.full(n_batches, log_library.mean()), np.full(n_batches, overall)
    for code in np.unique(batch):
        own = log_library[batch == code]
        mean[code] = own.mean()
        variance[code] = own.var() if own.var() > 0 else overall
    return torch.from_numpy(mean).float(), torch.from_numpy(variance).float()


def _embedding(n: int, width: int, generator: Generator) -> nn.Embedding:
    """Return `nn.Embedding(n, width)` as torch starts it, from an explicit generator."""
    embedding: nn.Embedding = nn.utils.skip_init(nn.Embedding, n, width)  # type: ignore[no-untyped-call]
    nn.init.normal_(embedding.weight, generator=generator)
    return embedding


def _truncated_normal(network: nn.Module, generator: Generator) -> None:
    """Initialise as the code of 2018: weights truncated normal with standard deviation 0.01, biases zero."""
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2 and name != "log_theta":
            nn.init.trunc_normal_(parameter, std=0.01, a=-0.02, b=0.02, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


class SCVI(CountModel[SCVIConfig]):
    """Deep generative model of single-cell counts; see the module's docstring for its equations.

    The options of `SCVIConfig` are keyword arguments too.

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
    >>> model = celbo.SCVI(adata, batch_key="batch")
    >>> model.train()
    >>> adata.obsm["X_scvi"] = model.get_latent_representation()
    """

    config_class = SCVIConfig
    network_class = SCVINetwork
