"""The network of `scvae.py`: encoders that see every component in one pass, a mixture prior, a decoder of z alone."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.columns import UNLABELLED
from celbo.data.minibatch import Minibatch, SparseRows
from celbo.data.moments import gene_moments
from celbo.data.schema import Schema
from celbo.errors import OptionError
from celbo.likelihoods import make_likelihood
from celbo.likelihoods.base import CountParameters
from celbo.nn.latent import GaussianPosterior, Latent, MixturePosterior
from celbo.nn.layers import CovariateSizes, CovariateTables, Dropout, GeneLinear, SparseLinear, covariate_codes, linear
from celbo.nn.priors import ClusterStart, MixturePrior
from celbo.training.plan import Loss, StepState

if TYPE_CHECKING:
    from celbo.models.scvae import SCVAEConfig

__all__ = ["SCVAENetwork", "named_labels"]


class _Hidden(nn.Module):
    """What follows a first linear map: batch norm, ReLU and dropout, then the further layers."""

    def __init__(self, widths: tuple[int, ...], config: SCVAEConfig, generator: Generator) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.linears = nn.ModuleList(linear(a, b, fan_in=a, generator=generator) for a, b in pairs)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width, momentum=1 - config.batch_norm_decay, eps=1e-3) for width in widths
        )
        for norm in self.norms:
            norm.weight.requires_grad_(False)  # a factor before a ReLU is the next layer's
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, h: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the last hidden state, (..., widths[-1]), for the first map's result (..., widths[0])."""
        for i, norm in enumerate(self.norms):
            h = self.linears[i - 1](h) if i else h
            h = torch.relu(norm(h.reshape(-1, h.shape[-1]))).view_as(h)
            h = self.dropout(h, generator)
        return h


class SCVAENetwork(nn.Module):
    """The equations of `scvae.py`; one minibatch in, the terms of the ELBO out.

    Axes: samples, components, cells, latent or genes. The components are one batched pass: the first linear map of x is
    made once, and a row for each y is added to it.
    """

    target: Tensor
    library_moments: Tensor
    pulls: Tensor

    def __init__(self, config: SCVAEConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        _check(config, schema)
        self.config = config
        self.likelihood = make_likelihood(config.likelihood, n_classes=config.n_classes)
        self.library_is_observed = _library_is_observed(config)
        self.is_mixture = config.prior == "gaussian-mixture"
        self.n_components = _n_components(config, schema) if self.is_mixture else 1
        self.seed = int(torch.randint(2**31, (), generator=generator))  # of the start: a function of the model's seed
        self.register_buffer("target", torch.ones(()))  # median total of the training cells
        self.register_buffer("library_moments", torch.tensor([0.0, 1.0]))  # mean, standard deviation of log totals

        first, last = config.n_hidden[0], config.n_hidden[-1]
        fan_in = schema.n_genes + config.encode_library + (self.n_components if self.is_mixture else 0)
        n_first = first * (2 if self.is_mixture else 1)  # the map to q(z | x, y) and, beside it, that to q(y | x)
        self.first = SparseLinear(schema.n_genes, n_first, fan_in=fan_in, generator=generator)
        self.of_library = nn.Parameter(torch.zeros(n_first)) if config.encode_library else None
        self.z_hidden = _Hidden(config.n_hidden, config, generator)
        self.z_head = linear(last, 2 * config.n_latent, fan_in=last, generator=generator)
        if self.is_mixture:
            rows = torch.randn(self.n_components, first, generator=generator)
            self.of_component = nn.Parameter(rows / math.sqrt(self.n_components))
            self.y_hidden = _Hidden(config.n_hidden, config, generator)
            self.y_head = linear(last, self.n_components, fan_in=last, generator=generator)
            learn = config.prior_probabilities == "learn"
            self.prior = MixturePrior(
                self.n_components, config.n_latent, learn_probabilities=learn, generator=generator
            )
            if config.start == "k-means":
                self.start = ClusterStart(schema.n_genes, schema.n_batches, self.n_components)
                self.register_buffer("pulls", torch.ones(()))
        self._build_decoder(schema, generator)

    def _build_decoder(self, schema: Schema, generator: Generator) -> None:
        config, widths = self.config, self.config.n_hidden[::-1]
        covariates = (schema.n_batches, *(len(names) for names in schema.covariates.values()))
        sizes = CovariateSizes(covariates, len(schema.keys.continuous_covariate_keys))
        fan_in = config.n_latent + sizes.n_inputs + sizes.n_continuous
        self.decoder_first = linear(config.n_latent + sizes.n_continuous, widths[0], fan_in=fan_in, generator=generator)
        self.decoder_shift = CovariateTables(covariates, widths[0], fan_in=fan_in, generator=generator)
        self.decoder_hidden = _Hidden(widths, config, generator)
        heads = {"mean": schema.n_genes}
        if self.likelihood.has_dispersion and config.dispersion == "gene-cell":
            heads["theta"] = schema.n_genes
        elif self.likelihood.has_dispersion:
            self.log_theta = nn.Parameter(torch.zeros(1, schema.n_genes))
        if self.likelihood.has_dropout:
            heads["dropout"] = schema.n_genes
        if config.n_classes:
            heads["classes"] = schema.n_genes * (config.n_classes + 1)
        last = widths[-1]
        self.heads = nn.ModuleDict(
            {name: GeneLinear(last, n, fan_in=last, generator=generator) for name, n in heads.items()}
        )

    # -- inference -----------------------------------------------------------------------------------------------

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[Any]:
        """q(z | x), or q(y | x) and q(z | x, y) for every y as a mixture."""
        first = self._first_map(batch)
        if not self.is_mixture:
            return Latent(self._gaussian(self.z_hidden(first, generator)))
        of_z, of_y = first.chunk(2, dim=1)
        log_weight = self.y_head(self.y_hidden(of_y, generator)).log_softmax(1)
        h = self.z_hidden(of_z + self.of_component[:, None], generator)  # (components, cells, hidden)
        return Latent(MixturePosterior(log_weight, self._gaussian(h)))

    def _first_map(self, batch: Minibatch) -> Tensor:
        rows, first = batch.rows, self.first
        h: Tensor
        if self.config.encoder_input == "counts":
            h = torch.addmm(first.bias, rows.dense, first.weight)
        else:
            if self.config.encoder_input == "log-normalised":
                scaled = rows.values * (self.target / batch.library).index_select(0, rows.row_of)
                rows = SparseRows(rows.indptr, rows.indices, scaled, rows.n_genes)
            h = first(rows)
        if self.of_library is None:
            return h
        depth = (batch.library.log() - self.library_moments[0]) / self.library_moments[1]
        return torch.addcmul(h, depth[:, None], self.of_library)

    def _gaussian(self, h: Tensor) -> GaussianPosterior:
        if self.config.clipped:
            mean, log_sigma = self.z_head(h).chunk(2, dim=-1)
            return GaussianPosterior(mean, log_sigma.clamp(-3, 3).exp())
        q = GaussianPosterior.from_hidden(h.reshape(-1, h.shape[-1]), self.z_head, variance_floor=_FLOOR)
        if h.dim() == 2:
            return q
        shape = (*h.shape[:-1], self.config.n_latent)
        return GaussianPosterior(q.mean.view(shape), q.scale.view(shape))

    def sample_latent(
        self, latent: Latent[Any], batch: Minibatch, n_samples: int = 1, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z (samples, cells, latent) from the posterior; beside it the log total of the cells, (1, cells)."""
        return latent.z.sample(n_samples, generator), self._log_library(batch)

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return the state that the decoder sees: z itself."""
        return z

    def _log_library(self, batch: Minibatch) -> Tensor:
        return (batch.library if batch.size_factor is None else batch.size_factor).log()[None]

    # -- generation ----------------------------------------------------------------------------------------------

    def decode(
        self, z: Tensor, log_library: Tensor, batch: Minibatch, generator: Generator | None = None
    ) -> CountParameters:
        """p(x | z): raw parameters for z (samples, cells, latent).

        The log totals are used where the library is observed. In evaluation mode the mean, where the decoder gives one,
        is said as shares of a total that the decoder gives too: the same mean, and normalised expression is then that
        of the shares.
        """
        if batch.continuous.shape[1]:
            z = torch.cat([z, batch.continuous.expand(z.shape[0], -1, -1)], -1)
        h = self.decoder_shift(self.decoder_first(z), covariate_codes(batch, with_batch=True))
        h = self.decoder_hidden(h, generator)
        layers: Any = list(self.heads.values())
        out = dict(zip(self.heads, GeneLinear.together(h, layers), strict=True))
        if self.config.clipped:
            out = {name: self._clipped(name, y) for name, y in out.items()}
        mean, log_theta = out["mean"], out.get("theta", getattr(self, "log_theta", None))
        if "theta" in out and self.config.likelihood in ("nb", "zinb"):
            assert log_theta is not None
            mean = mean + log_theta  # of (r, p): log mu = log r + logit p
        softmax = self.library_is_observed
        log_scale = log_library if softmax else mean.new_zeros(1, batch.n_cells)
        if self.has_shares and not (self.training or softmax):
            log_scale, softmax = mean.logsumexp(-1), True
        classes = out.get("classes")
        return CountParameters(
            logits=mean,
            log_scale=log_scale,
            log_theta=log_theta,
            dropout_logits=out.get("dropout"),
            link="softmax" if softmax else "exp",
            class_logits=None if classes is None else classes.view(*mean.shape, self.config.n_classes + 1),
        )

    @property
    def has_shares(self) -> bool:
        """Whether the mean before any zero inflation is the decoder's output, so that shares of it make sense."""
        return self.config.likelihood not in _WITHOUT_SHARES and not self.config.n_classes

    def _clipped(self, name: str, y: Tensor) -> Tensor:
        if name == "theta":
            return y.clamp(-3, 3) if self.config.likelihood in ("normal", "lognormal") else y.clamp(-10, 10)
        free = self.library_is_observed or self.config.likelihood in ("nb", "zinb", "bernoulli", "normal", "lognormal")
        return y if name != "mean" or free else y.clamp(-10, 10)

    # -- objective -----------------------------------------------------------------------------------------------

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Terms of the negative ELBO; beside them what the importance-weighted bound, free nats and start change."""
        latent = self.encode(batch, step.generator)
        q, weight = self._components(latent)
        n = self.config.n_samples * self.config.n_importance_samples
        z = q.sample(n, step.generator)  # (samples, components, cells, latent)
        p = self.decode(z.flatten(0, 1), self._log_library(batch), batch, step.generator)
        log_p = self.likelihood.log_prob(p, batch.rows).view(z.shape[:-1])
        kl = self.kl(latent, batch)
        reconstruction = -(weight * log_p.mean(0)).sum(0)
        extras = {}
        if self.config.n_importance_samples > 1:
            kl_weight = step.weights.get("z", 1.0)
            bound = (weight * self._importance_bound(z, log_p, q, kl_weight)).sum(0)
            extras["importance"] = -bound - (reconstruction + kl_weight * kl["z"])
        if self.config.free_nats:
            extras["free_nats"] = (self.config.free_nats * math.log(self.n_components) - kl["y"].mean()).clamp_min(0)
        if self.is_mixture and self.config.start == "k-means":
            extras["start"] = self._pull(latent.z, batch, step)
        return Loss(reconstruction, kl, extras)

    def _components(self, latent: Latent[Any]) -> tuple[GaussianPosterior, Tensor]:
        """Return q(z | x, y), (components, cells, latent), and q(y | x), (components, cells); a VAE has one."""
        if self.is_mixture:
            return latent.z.components, latent.z.weight.T
        mean = latent.z.mean
        return GaussianPosterior(mean[None], latent.z.scale[None]), mean.new_ones(1, mean.shape[0])

    def _importance_bound(self, z: Tensor, log_p: Tensor, q: GaussianPosterior, kl_weight: float | Tensor) -> Tensor:
        """Mean of log mean_i p(x | z_i) p(z_i | k) / q(z_i | x, k), (components, cells); log_p (samples, ...)."""
        prior = self.prior.components if self.is_mixture else _standard(q)
        log_weight = log_p + kl_weight * (prior.log_prob(z) - q.log_prob(z))
        m = self.config.n_importance_samples
        each = log_weight.view(-1, m, *log_weight.shape[1:])
        return (each.logsumexp(1) - math.log(m)).mean(0)

    def _pull(self, q: MixturePosterior, batch: Minibatch, step: StepState) -> Tensor:
        """Cross-entropy of q(y | x) to the start's clusters, fading out as the KL warms up, once; (cells,)."""
        weight = step.weights.get("z")
        if not step.training or weight is None or not self.pulls:
            return torch.zeros_like(q.log_weight[:, 0])
        self.pulls.fill_(bool(weight < 1))  # further training starts from what was learnt
        away = nn.functional.nll_loss(q.log_weight, self.start.assign(batch), reduction="none")
        return (1 - weight) * _PULL * away

    def kl(self, latent: Latent[Any], batch: Minibatch) -> dict[str, Tensor]:
        """Analytic divergences from the priors, each (cells,): of z, and of y for a mixture."""
        return self.prior.kl_from(latent.z) if self.is_mixture else {"z": latent.z.kl_to(0.0, 1.0)}

    def log_prior(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> Tensor:
        """Log p(z), the sum over y taken; (samples, cells)."""
        return self.prior.log_prob(z) if self.is_mixture else _standard(z).log_prob(z)

    def sample_prior(
        self, batch: Minibatch, n_samples: int = 1, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z from the prior, (samples, cells, latent); beside it the log total of the cells, (1, cells)."""
        if self.is_mixture:
            return self.prior.sample(n_samples, batch.n_cells, generator), self._log_library(batch)
        prior = GaussianPosterior.standard(batch.library, self.config.n_latent)
        return prior.sample(n_samples, generator), self._log_library(batch)

    def log_posterior(self, z: Tensor, log_library: Tensor, latent: Latent[Any]) -> Tensor:
        """Log q(z | x), the sum over y taken; (samples, cells)."""
        log_q: Tensor = latent.z.log_prob(z)
        return log_q

    # -- start ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Fit what the encoders see, start the clusters and the output; from the training cells alone."""
        library = data.library[train].astype(np.float64)
        self.target.fill_(float(np.median(library)))
        if self.config.encode_library:
            log_library = np.log(library)
            self.library_moments.copy_(torch.tensor([log_library.mean(), max(float(log_library.std()), 1e-3)]))
        if self.is_mixture and self.config.prior_probabilities == "labels":
            shares = np.bincount(data.labels[train], minlength=data.schema.n_labels)[named_labels(data.schema)]
            self.prior.logits.copy_(torch.from_numpy((shares + 1) / (shares + 1).sum()).log())
        if self.is_mixture and self.config.start == "k-means":
            self.start.fit(data, train, seed=self.seed)
            self.prior.mean.copy_(self.start.means(self.config.n_latent))
        if self.config.initialisation == "data":
            self._start_output(data, train)

    def _start_output(self, data: CellData, train: np.ndarray) -> None:
        """Put the biases of the output where every cell has the mean expression."""
        counts, n = data.counts.to_scipy()[train], len(train)
        mean, variance = (torch.from_numpy(m) for m in gene_moments(data.counts, train))
        if self.config.n_classes:
            shares, mean = _classes(counts, self.config.n_classes)
            self._head("classes").bias.copy_(shares.log().flatten())
        mean = mean.clamp_min(0) + 0.5 / n  # half a count for a gene that the training cells lack
        start, log_theta = mean.log(), torch.zeros_like(mean)
        if self.config.likelihood == "bernoulli":
            start = torch.logit(torch.from_numpy((counts.getnnz(axis=0) + 0.5) / (n + 1)))
        elif self.config.likelihood == "lognormal":  # by moments
            log_theta = 0.5 * torch.log1p((variance + _FLOOR) / mean.square()).log()
            start = start - 0.5 * (2 * log_theta).exp()
        elif self.config.likelihood == "lomax":
            log_theta = log_theta + math.log(2)  # where the mean is the scale
        elif self.config.likelihood == "normal":
            log_theta = 0.5 * (variance + _FLOOR).log()
        self._head("mean").bias.copy_(start)
        if "theta" in self.heads:
            self._head("theta").bias.copy_(log_theta)
        elif self.likelihood.has_dispersion:
            self.log_theta.copy_(log_theta[None])
        if self.likelihood.has_dropout:
            self._head("dropout").bias.fill_(_START_DROPOUT_LOGIT)

    def _head(self, name: str) -> GeneLinear:
        head = self.heads[name]
        assert isinstance(head, GeneLinear)
        return head


_FLOOR = 1e-4
"""Of the variance of q, and of a gene that does not vary."""
_START_DROPOUT_LOGIT = -2.0
"""Most zeros are explained without inflation (Svensson 2020), so start with little of it."""
_PULL = 10.0
"""Nats that a cell's cross-entropy to its cluster of the start counts for, when training begins."""


def _standard(like: Any) -> GaussianPosterior:
    """Return the standard normal in the shape of z, or of a posterior's mean."""
    shape = like if isinstance(like, Tensor) else like.mean
    return GaussianPosterior(torch.zeros_like(shape), torch.ones_like(shape))


def named_labels(schema: Schema) -> npt.NDArray[np.int64]:
    """Return the codes of the labels that say something."""
    return np.array([i for i, name in enumerate(schema.labels) if name != UNLABELLED], np.int64)


def _n_components(config: SCVAEConfig, schema: Schema) -> int:
    if config.n_components is not None:
        return config.n_components
    return _DEFAULT_COMPONENTS if schema.keys.labels_key is None else max(2, len(named_labels(schema)))


_DEFAULT_COMPONENTS = 10


def _check(config: SCVAEConfig, schema: Schema) -> None:
    """Refuse options that contradict each other."""
    if config.prior == "normal":
        mixture = {"n_components": None, "free_nats": 0.0, "prior_probabilities": "uniform"}
        for name, default in mixture.items():
            if getattr(config, name) != default:
                raise OptionError(
                    "applies to a mixture, but the prior is a single normal",
                    where=f"{name}={getattr(config, name)!r}", fix="Pass prior='gaussian-mixture' too.",
                )  # fmt: skip
    if config.prior_probabilities == "labels":
        n_labels = 0 if schema.keys.labels_key is None else len(named_labels(schema))
        if n_labels != _n_components(config, schema):
            raise OptionError(
                "needs as many components as there are labels",
                where="prior_probabilities='labels'",
                value=f"{_n_components(config, schema)} components, {n_labels} labels",
                fix="Name the labels by labels_key and leave n_components out." ,
            )  # fmt: skip
    if config.library == "observed" and config.likelihood in _WITHOUT_SHARES:
        raise OptionError(
            "has no mean to be a share of the total", where=f"likelihood={config.likelihood!r}",
            fix="Leave library='decoded'.",
        )  # fmt: skip
    if schema.keys.size_factor_key is not None and not _library_is_observed(config):
        raise OptionError(
            "cannot be used where the decoder gives the mean itself",
            where=f"size_factor_key={schema.keys.size_factor_key!r}",
            fix="Leave it out, or use library='observed'.",
        )


def _library_is_observed(config: SCVAEConfig) -> bool:
    return config.library == "observed" or config.likelihood == "constrained-poisson"


_WITHOUT_SHARES = ("bernoulli", "lognormal", "lomax")


def _classes(counts: Any, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return the shares of counts 0 to n_classes - 1 and of the rest, none of them zero, and the rest's mean excess.

    They are (genes, n_classes + 1) and (genes,); the excess is over n_classes.
    """
    n_cells, n_genes = counts.shape
    gene, x = counts.indices, counts.data
    table = np.zeros((n_genes, n_classes + 1))
    np.add.at(table, (gene, np.minimum(x, n_classes).astype(np.int64)), 1.0)
    table[:, 0] += n_cells - table.sum(1)
    excess = np.bincount(gene, weights=np.maximum(x.astype(np.float64) - n_classes, 0), minlength=n_genes)
    shares = (table + 0.5) / (n_cells + 0.5 * (n_classes + 1))
    return torch.from_numpy(shares), torch.from_numpy(excess / np.maximum(table[:, -1], 1))
