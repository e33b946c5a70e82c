"""scvis: a two-dimensional map of cells that also maps new ones (Ding et al. 2018, doi:10.1038/s41467-018-04368-5).

    x_n = scores of log-normalised counts on K principal components, over their largest size in the training cells
    z_n ~ Normal(0, I)                                     place of cell n on the map
    x_nd ~ StudentT(v_d, mu_d(z_n), sqrt(s_d(z_n)))        v_d: degrees of freedom of component d
    q(z | x) = Normal(m(x), diag(s(x)))                    what places a cell, new ones too

At iteration t a minibatch minimises

    mean_n[ -w_n log p(x_n | z_n) + max(0.1, K / t) KL(q(z_n) || p(z_n)) ] + min(t, K) T + 0.0005 |W|^2

with the t-SNE term T of `celbo.nn.tsne` (p from x, smoothed by 0.1; q from a draw of z) and w_n = sum_i p_in, within
[0.01, 2]: a cell that is nobody's neighbour weighs little.

The density is that of the scaled scores x, not of the counts: neither the ELBO of the history nor
`get_log_likelihood` can stand beside the log-probability that a model of counts gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear, softplus

from celbo.data.cells import CellData
from celbo.data.components import log_normalised, principal_components
from celbo.data.minibatch import Minibatch, SparseRows
from celbo.data.schema import Schema
from celbo.likelihoods.dense import student_t_log_prob
from celbo.models.base import Model
from celbo.models.options import Indices
from celbo.nn.latent import GaussianPosterior, Latent
from celbo.nn.layers import Dropout, SparseLinear, torch_linear
from celbo.nn.mlp import MLP
from celbo.nn.tsne import smoothed, transition_probabilities, tsne_cross_entropy
from celbo.training.plan import Loss, StepState, TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["SCVIS", "SCVISConfig", "SCVISNetwork"]


@dataclass(frozen=True, kw_only=True)
class SCVISConfig:
    """What a scvis network is made of."""

    n_latent: int = 2
    """Dimensions of the map."""
    n_components: int = 100
    """Principal components that the network sees; all genes' where there are fewer genes."""
    perplexity: float = 10.0
    """Neighbours that a cell has within a minibatch, for the t-SNE term."""
    perplexity_convention: Literal["nats", "scvis"] = "nats"
    """What the perplexity is. In "nats" it is the exponential of the entropy in nats. The original compares an entropy
    in nats with the binary logarithm of the perplexity, so that asking for 10 gives 27.7 and for 30 gives 135.2."""
    encoder_widths: tuple[int, ...] = (128, 64, 32)
    """Units of the hidden layers of the encoder."""
    decoder_widths: tuple[int, ...] = (32, 32, 32, 64, 128)
    """Units of the hidden layers of the decoder."""
    dropout_rate: float = 0.1
    """Dropout of the weights that give the encoder's mean."""
    initialisation: Literal["data", "truncated-normal"] = "data"
    """Start the decoder at the spread of each component, or as the original does, where every component has about the
    spread of the largest."""

    limits: ClassVar[dict[str, Any]] = {
        "perplexity": (lambda v: not isinstance(v, bool) and 1 <= v < math.inf, "a finite number of at least 1"),
    }

    @classmethod
    def paper(cls) -> SCVISConfig:
        """Return the network as its authors run it (shahcompbio/scvis af73849): their meaning of the perplexity, and
        their start. Train it by `SCVIS.paper_plan`.
        """
        return cls(perplexity_convention="scvis", initialisation="truncated-normal")

    @property
    def true_perplexity(self) -> float:
        """Exponential of the entropy in nats that the rows of p get."""
        return self.perplexity ** (1 / math.log(2)) if self.perplexity_convention == "scvis" else self.perplexity


@dataclass(frozen=True)
class StudentT:
    """The decoder's output beside the values it is to explain."""

    values: Tensor
    """Scaled scores x; (cells, components)."""
    location: Tensor
    """(samples, cells, components)."""
    log_scale: Tensor
    """(samples, cells, components)."""
    freedom: Tensor
    """Degrees of freedom; (components,)."""

    def log_prob(self) -> Tensor:
        """Return the log-density of each cell's scaled scores in nats, (samples, cells)."""
        return student_t_log_prob(self.values, self.location, self.log_scale, self.freedom)


class _OfScores:
    """The likelihood as the posterior's functions ask for it; the counts beside the parameters are not needed."""

    def log_prob(self, p: StudentT, rows: SparseRows) -> Tensor:
        return p.log_prob()


class SCVISNetwork(nn.Module):
    """The equations of the module's docstring; one minibatch in, the terms of the loss out."""

    target: Tensor
    likelihood = _OfScores()

    def __init__(self, config: SCVISConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        self.config = config
        k = self.n_components = min(config.n_components, schema.n_genes)
        self.register_buffer("target", torch.ones(()))  # median total of the training cells
        projection = SparseLinear(schema.n_genes, k, fan_in=schema.n_genes, generator=generator)
        self.projection = projection.requires_grad_(False)
        self.encoder = MLP(k, config.encoder_widths, activation="elu", generator=generator)
        self.encoder_mean = torch_linear(self.encoder.n_out, config.n_latent, generator=generator)
        self.encoder_variance = torch_linear(self.encoder.n_out, config.n_latent, generator=generator)
        self.decoder = MLP(config.n_latent, config.decoder_widths, activation="elu", generator=generator)
        self.decoder_mean = torch_linear(self.decoder.n_out, k, generator=generator)
        self.decoder_variance = torch_linear(self.decoder.n_out, k, generator=generator)
        self.freedom = nn.Parameter(torch.ones(k))
        self.dropout = Dropout(config.dropout_rate)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _initialise(module, generator)

    @torch.no_grad()
    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Find the principal components of the training cells and the largest score; start at the spread of each."""
        self.target.fill_(float(np.median(data.library[train])))
        values = log_normalised(data.counts, target=float(self.target), rows=train)
        components = principal_components(values, self.n_components, seed=0)
        largest = max(float(np.abs(components.project(values)).max()), _TINY)
        self.projection.weight.copy_(torch.from_numpy(components.loadings / largest))
        self.projection.bias.copy_(torch.from_numpy(-components.mean @ components.loadings / largest))
        if self.config.initialisation == "data":
            variance = torch.from_numpy(components.variance / largest**2).float().clamp_min(10 * _LEAST_VARIANCE)
            self.decoder_mean.weight.mul_(variance.sqrt()[:, None])
            self.decoder_mean.bias.zero_()
            self.decoder_variance.weight.mul_(_NARROW)
            self.decoder_variance.bias.copy_(variance.expm1().log())  # softplus of it is the variance

    def scores(self, batch: Minibatch) -> Tensor:
        """Return x, the scaled scores of the cells, (cells, components)."""
        rows = batch.rows
        values = rows.values * (self.target / batch.library)[rows.row_of]
        scores: Tensor = self.projection(SparseRows(rows.indptr, rows.indices, values, rows.n_genes))
        return scores

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[GaussianPosterior]:
        """q(z | x)."""
        return Latent(self._posterior(self.scores(batch), generator))

    def _posterior(self, x: Tensor, generator: Generator | None) -> GaussianPosterior:
        h = self.encoder(x)
        weight = self.dropout(self.encoder_mean.weight, generator)
        return GaussianPosterior(linear(h, weight, self.encoder_mean.bias), _variance(self.encoder_variance(h)).sqrt())

    def sample_latent(
        self,
        latent: Latent[GaussianPosterior],
        batch: Minibatch,
        n_samples: int = 1,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw z (samples, cells, latent); beside it the log library size (1, cells), which nothing here needs."""
        return latent.z.sample(n_samples, generator), batch.library.log()[None]

    def decode(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> StudentT:
        """p(x | z) for z (samples, cells, latent), with the x of these cells."""
        return self._student_t(z, self.scores(batch))

    def _student_t(self, z: Tensor, x: Tensor) -> StudentT:
        h = self.decoder(z)
        log_scale = 0.5 * _variance(self.decoder_variance(h)).log()
        return StudentT(x, self.decoder_mean(h), log_scale, self.freedom.clamp(_LEAST_FREEDOM, _MOST_FREEDOM))

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Terms of the loss with one draw of z; the weights of the cells are an extra, so that the ELBO stays one."""
        x = self.scores(batch)
        q = self._posterior(x, step.generator)
        z = q.sample(1, step.generator)
        reconstruction = -self._student_t(z, x).log_prob()[0]
        p = transition_probabilities(x, self.config.true_perplexity)
        weight = p.sum(0).clamp(_LEAST_WEIGHT, _MOST_WEIGHT)
        return Loss(
            reconstruction,
            {"z": q.kl_to(0.0, 1.0)},
            {"tsne": tsne_cross_entropy(smoothed(p), z[0]), "cell_weights": (weight - 1) * reconstruction},
            factors={"tsne": float(self.n_components), "z": _LEAST_KL},
            schedule=self.schedule(step.step + 1) if step.training else {},
        )

    def schedule(self, iteration: int) -> dict[str, float]:
        """Return the shares of their last weights, K and 0.1, that the terms have at an iteration from 1."""
        k = float(self.n_components)
        return {"tsne": min(iteration / k, 1.0), "z": max(1.0, k / iteration / _LEAST_KL)}

    def kl(self, latent: Latent[GaussianPosterior], batch: Minibatch) -> dict[str, Tensor]:
        """Analytic divergence from the prior; (cells,)."""
        return {"z": latent.z.kl_to(0.0, 1.0)}

    def log_prior(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> Tensor:
        """Log p(z), (samples, cells)."""
        return GaussianPosterior(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)

    def log_posterior(self, z: Tensor, log_library: Tensor, latent: Latent[GaussianPosterior]) -> Tensor:
        """Log q(z | x), (samples, cells)."""
        return latent.z.log_prob(z)

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return the state that the decoder sees: z."""
        return z


_TINY = 1e-12
_NARROW = 0.1
"""What is left of the weights of the decoder's variance, so that it starts alike in all cells."""
_LEAST_VARIANCE, _MOST_VARIANCE = 1e-6, 1e10
_LEAST_FREEDOM, _MOST_FREEDOM = 0.1, 10.0
_LEAST_WEIGHT, _MOST_WEIGHT = 0.01, 2.0
_LEAST_KL = 0.1


def _variance(raw: Tensor) -> Tensor:
    return softplus(raw).clamp(_LEAST_VARIANCE, _MOST_VARIANCE)


@torch.no_grad()
def _initialise(layer: nn.Linear, generator: Generator) -> None:
    """Draw weights from a normal of variance 2 / inputs, cut at two standard deviations; biases are 0.1."""
    scale = math.sqrt(2 / layer.in_features)
    nn.init.trunc_normal_(layer.weight, std=scale, a=-2 * scale, b=2 * scale, generator=generator)
    nn.init.constant_(layer.bias, 0.1)


class SCVIS(Model[SCVISConfig]):
    """A two-dimensional map of cells, by a network that places new cells too; the module's docstring has its equations.

    The options of `SCVISConfig` are keyword arguments too. Batches are not corrected for.

    Parameters
    ----------
    adata
        Counts: cells x genes, best of a few thousand highly variable genes.
    config
        The network's configuration; further keywords replace its fields.
    seed
        Seed of everything random: weights, split, order, noise.

    Examples
    --------
    >>> model = celbo.SCVIS(adata)
    >>> model.train()
    >>> adata.obsm["X_scvis"] = model.get_latent_representation()
    >>> later.obsm["X_scvis"] = model.get_latent_representation(later)  # new cells on the same map
    """

    config_class = SCVISConfig
    network_class = SCVISNetwork

    @classmethod
    def paper_plan(cls, *, n_cells: int) -> TrainConfig:
        """Return the plan of the authors' code (shahcompbio/scvis af73849).

        Adam 0.01 with eps 1e-3, minibatches of 512, the gradient's norm clipped at 10, then its entries at 3 (0.3 in
        the head of the encoder's variance), no validation and the last weights. It takes 100 epochs of
        round(n / 512) iterations, but at least 3,000 iterations and at most the larger of 30,000 and two epochs.
        Not as there: the last, smaller minibatch of an epoch is kept.

        Parameters
        ----------
        n_cells
            Cells to train on.
        """
        size = _PAPER_BATCH
        iterations = max(3_000, round(n_cells / size) * 100)
        if iterations > 30_000:
            iterations = max(30_000, 2 * (n_cells // size))
        return TrainConfig(
            max_epochs=math.ceil(iterations / math.ceil(n_cells / size)),
            batch_size=size,
            optimizer="adam",
            learning_rate=0.01,
            adam_eps=1e-3,
            weight_decay=0.0,
            l2=_L2,
            schedule="constant",
            kl_warmup=0,
            early_stopping=False,
            restore_best=False,
            train_size=1.0,
            clip_norm=10.0,
            clip_values=(("*", 3.0), ("encoder_variance.*", 0.3)),
        )

    def default_plan(self) -> TrainConfig:
        """Return the plan that `train` follows where none is given: some 1,500 steps with a falling learning rate.

        The t-SNE term grows with the square of the minibatch, and half of the paper's gives the same map sooner.
        """
        n_cells = self._own_data().n_cells
        batch_size = 128 if n_cells < _FEW_CELLS else 256
        return TrainConfig(
            max_epochs=max(2, math.ceil(_STEPS / math.ceil(0.9 * n_cells / batch_size))),
            batch_size=batch_size,
            optimizer="adam",
            learning_rate=0.01,
            weight_decay=0.0,
            l2=_L2,
            kl_warmup=0,
            early_stopping=False,
            restore_best=False,
            clip_norm=10.0,
        )

    def get_log_likelihood(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        n_samples: int = 5,
        per_cell: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Return the log-density of the cells' scaled scores, the mean over draws of z, in nats per cell.

        Low values tell cells that the map cannot place, such as types it never saw. It is no log-probability of counts.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        n_samples
            Draws of z for each cell; scvis takes 5.
        per_cell
            Return the value of each cell.
        seed
            Seed of the draws; None is the model's.

        Returns
        -------
        The mean over cells, or (cells,) float64.
        """
        from celbo.posterior.evidence import reconstruction_error

        data, index = self._asked(adata, indices)
        seed = self.seed if seed is None else seed
        network: Any = self.network
        return -reconstruction_error(network, data, index, n_samples=n_samples, per_cell=per_cell, seed=seed)


_PAPER_BATCH = 512
_FEW_CELLS, _STEPS = 1_000, 1_500
_L2 = (("encoder*weight", 0.0005), ("decoder*weight", 0.0005))
