"""DCA, the deep count autoencoder (Eraslan et al. 2019, doi:10.1038/s41467-018-07931-2; code theislab/dca 6abd124).

    u_n  = z-scores of log(1 + x_n / s_n)         s_n: total of cell n over the median total
    c_n  = W2 relu(BN(W1 u_n))                    code: the 32 units of the layer `center`, before batch norm and ReLU
    h_n  = relu(BN(W3 relu(BN(c_n))))             decoder, 64 units (one for each parameter in the "fork" types)
    x_ng ~ ZINB(mean s_n exp(a_ng), inverse dispersion theta_ng, dropout pi_ng), a, theta and pi from heads on h_n

Deterministic: there is no prior and no evidence bound; what is minimised is -log p(x_n | c_n), in nats per cell.

Differences from the original, for all types: it takes the mean of the loss over entries, here genes are summed and
cells averaged, a factor of the number of genes (the ridge keeps its meaning); it clips means to [1e-5, 1e6] and
dispersions to [1e-4, 1e4], which stops their gradients, and adds 1e-10 within logarithms, where everything here stays
in log space without either; the parts of a "fork" type with several decoder layers follow each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch, SparseRows
from celbo.data.moments import gene_moments
from celbo.data.schema import Schema
from celbo.errors import OptionError
from celbo.likelihoods import make_likelihood
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.special import log_softplus
from celbo.models.base import DenoisingModel
from celbo.models.options import Indices, gene_positions
from celbo.nn.latent import Latent, PointPosterior
from celbo.nn.layers import Dropout, GeneLinear, SparseLinear, torch_linear
from celbo.nn.mlp import ACTIVATIONS, MLP, Activation
from celbo.nn.transforms import InputTransform
from celbo.posterior.evidence import reconstruction_error
from celbo.posterior.stream import encoded_blocks, evaluating
from celbo.training.plan import Loss, StepState, TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["DCA", "DCAConfig", "DCANetwork"]

AEType = Literal[
    "normal", "poisson", "nb", "nb-conddisp", "nb-shared", "nb-fork",
    "zinb", "zinb-conddisp", "zinb-shared", "zinb-fork", "zinb-elempi",
]  # fmt: skip
Per = Literal["none", "gene", "cell", "entry", "mean"]


@dataclass(frozen=True)
class _Type:
    """What a type of autoencoder says about the counts, and where it takes it from."""

    likelihood: str
    dispersion: Per = "none"
    """One for each gene, for each cell (the same for all genes), or for each entry."""
    dropout: Per = "none"
    """One for each cell or entry, or an affine function of the log mean."""
    fork: bool = False
    """Whether each parameter has hidden layers of its own after the code."""


_TYPES: dict[str, _Type] = {
    "normal": _Type("squared-error"),
    "poisson": _Type("poisson"),
    "nb": _Type("nb", "gene"),
    "nb-conddisp": _Type("nb", "entry"),
    "nb-shared": _Type("nb", "cell"),
    "nb-fork": _Type("nb", "entry", fork=True),
    "zinb": _Type("zinb", "gene", "entry"),
    "zinb-conddisp": _Type("zinb", "entry", "entry"),
    "zinb-shared": _Type("zinb", "cell", "cell"),
    "zinb-fork": _Type("zinb", "entry", "entry", fork=True),
    "zinb-elempi": _Type("zinb", "entry", "mean"),
}


@dataclass(frozen=True, kw_only=True)
class DCAConfig:
    """What a DCA network is made of."""

    ae_type: AEType = "nb-conddisp"
    """What the decoder says about the counts; see `DCA`."""
    n_hidden: tuple[int, ...] = (64, 32, 64)
    """Units of the hidden layers; the middle one is the code."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    batch_norm: bool = True
    """Whether hidden layers are batch-normalised (a shift and no factor, as in the original)."""
    dropout_rate: float = 0.0
    """Dropout after each hidden layer."""
    input_dropout_rate: float = 0.0
    """Dropout of the input."""
    encoder_input: Literal["scaled", "log-normalised", "log1p", "counts"] = "scaled"
    """What the encoder sees; "scaled" is the z-scores of log-normalised counts."""
    size_factors: bool = True
    """Whether means are relative to the size factor of the cell."""
    latent: Literal["linear", "activated"] = "linear"
    """The code before batch norm and activation, as in the paper, or after them."""
    ridge: float = 0.0
    """Weight of the sum of squared dropout probabilities of a cell."""
    shared_pi: bool = False
    """For "zinb-elempi": one slope and one intercept for all genes."""
    initialisation: Literal["data", "glorot"] = "data"
    """Start at the mean expression, or with all biases zero as the original does."""

    limits: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {
        "n_hidden": (
            lambda v: isinstance(v, tuple) and len(v) > 0 and all(type(n) is int and n >= 1 for n in v),
            "a tuple of at least one positive whole number",
        ),
        "ridge": (lambda v: 0 <= v < math.inf, "0 or a positive number"),
    }

    @classmethod
    def paper(cls) -> DCAConfig:
        """Return the method as paper and README present it: ZINB with a dispersion for each entry."""
        return cls(ae_type="zinb-conddisp", initialisation="glorot")

    @classmethod
    def dca_0_3(cls) -> DCAConfig:
        """Return the default of the code, version 0.3.3: NB with a dispersion for each entry."""
        return cls(ae_type="nb-conddisp", initialisation="glorot")


class DCANetwork(nn.Module):
    """The equations of the module's docstring; one minibatch in, nats per cell out."""

    def __init__(self, config: DCAConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        self.config, self.kind = config, _TYPES[config.ae_type]
        self.likelihood = SquaredError() if config.ae_type == "normal" else make_likelihood(self.kind.likelihood)
        n, widths = schema.n_genes, config.n_hidden
        middle = len(widths) // 2
        self.transform = InputTransform(config.encoder_input, n)
        self.input_dropout = Dropout(config.input_dropout_rate)
        self.first = SparseLinear(n, widths[0], fan_in=n, generator=generator)
        pairs = itertools.pairwise(widths[: middle + 1])
        self.linears = nn.ModuleList(torch_linear(a, b, generator=generator) for a, b in pairs)
        self.activated = nn.ModuleList(_Activated(width, config) for width in widths[: middle + 1])

        kind = self.kind
        sizes = {"gene": 0, "none": 0, "mean": 0, "cell": 1, "entry": n}
        heads = {"mean": n, "theta": sizes[kind.dispersion], "dropout": sizes[kind.dropout]}
        heads = {name: size for name, size in heads.items() if size}
        width = widths[-1]
        self.heads = nn.ModuleDict(
            {name: GeneLinear(width, size, fan_in=width, generator=generator) for name, size in heads.items()}
        )
        self.branches = nn.ModuleDict(
            {
                name: MLP(
                    widths[middle],
                    widths[middle + 1 :],
                    activation=config.activation,
                    batch_norm=config.batch_norm,
                    batch_norm_scale=False,
                    dropout_rate=config.dropout_rate,
                    generator=generator,
                )
                for name in (heads if kind.fork else ["all"])
            }
        )
        if kind.dispersion == "gene":
            self.log_theta = nn.Parameter(torch.zeros(1, n))
        if kind.dropout == "mean":
            self.pi_slope = nn.Parameter(torch.empty(1 if config.shared_pi else n))
            self.pi_intercept = nn.Parameter(torch.zeros(1 if config.shared_pi else n))
        self._initialise(generator)

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[PointPosterior]:
        """Return the code of each cell, (cells, units of the middle layer)."""
        mask = None
        if self.training and self.config.input_dropout_rate > 0:
            mask = self.input_dropout.mask(batch.rows.dense, generator)
        h = self.transform.linear(batch, self.first, mask)
        for linear, activated in zip(self.linears, self.activated, strict=False):
            h = linear(activated(h, generator))
        if self.config.latent == "activated":
            h = self.activated[-1](h, generator)
        return Latent(PointPosterior(h))

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return z: the code is what the decoder sees."""
        return z

    def sample_latent(
        self,
        latent: Latent[PointPosterior],
        batch: Minibatch,
        n_samples: int = 1,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the code as often as asked, (samples, cells, units), and the log size factor, (1, cells)."""
        return latent.z.sample(n_samples, generator), self.log_size_factor(batch)[None]

    def log_size_factor(self, batch: Minibatch) -> Tensor:
        """Log of the total over the median total of the training cells, or of the size factor given; (cells,)."""
        if not self.config.size_factors:
            return torch.zeros_like(batch.library)
        if batch.size_factor is not None:
            return batch.size_factor.log()
        return (batch.library / self.transform.target).log()

    def decode(
        self, z: Tensor, log_library: Tensor, batch: Minibatch, generator: Generator | None = None
    ) -> CountParameters:
        """p(x | z, s): raw parameters for the code z (samples, cells, units) and log s (samples or 1, cells)."""
        h = z if self.config.latent == "activated" else self.activated[-1](z, generator)
        if self.kind.fork:
            out = {name: self._head(name)(self.branches[name](h, generator)) for name in self.heads}
        else:
            layers = [self._head(name) for name in self.heads]
            out = dict(zip(self.heads, GeneLinear.together(self.branches["all"](h, generator), layers), strict=True))
        a = out["mean"]  # (samples, cells, genes)
        log_theta = getattr(self, "log_theta", None)
        if "theta" in out:
            log_theta = log_softplus(out["theta"]).expand_as(a)
        dropout = out["dropout"].expand_as(a) if "dropout" in out else None
        if self.kind.dropout == "mean":
            dropout = self.pi_slope * a + self.pi_intercept
        return CountParameters(a, log_library, log_theta, dropout_logits=dropout, link="exp")

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """-log p(x | code) (for "normal" the sum of squares) and the ridge on the dropout probabilities."""
        z = self.encode(batch, step.generator).z.mean[None]
        p = self.decode(z, self.log_size_factor(batch)[None], batch, step.generator)
        reconstruction = -self.likelihood.log_prob(p, batch.rows)[0]
        if self.config.ridge == 0 or p.dropout_logits is None:
            return Loss(reconstruction, is_bound=False)
        ridge = p.dropout_logits.sigmoid().square().sum(-1)[0]
        return Loss(reconstruction, extras={"ridge": ridge}, factors={"ridge": self.config.ridge}, is_bound=False)

    @torch.no_grad()
    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Fit the input transform and, if so configured, start at the mean expression; by the training cells alone."""
        self.transform.fit(data, train)
        if self.config.initialisation != "data":
            return
        mean = torch.from_numpy(gene_moments(data.counts, train)[0]) + 0.5 / train.size
        mean = mean / self._mean_size_factor(data, train)
        self._head("mean").bias.copy_(mean if self.config.ae_type == "normal" else mean.log())
        if self.kind.dropout == "mean":
            self.pi_intercept.fill_(_START_DROPOUT_LOGIT)
        elif self.kind.dropout != "none":
            self._head("dropout").bias.fill_(_START_DROPOUT_LOGIT)

    def _mean_size_factor(self, data: CellData, train: np.ndarray) -> float:
        if not self.config.size_factors:
            return 1.0
        if data.size_factor is not None:
            return float(data.size_factor[train].mean())
        return float(data.library[train].mean() / self.transform.target)

    def _head(self, name: str) -> GeneLinear:
        head = self.heads[name]
        assert isinstance(head, GeneLinear)
        return head

    def _initialise(self, generator: Generator) -> None:
        """Draw weights as Keras does (Glorot, uniform); biases start at zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and name != "log_theta":
                nn.init.xavier_uniform_(parameter, generator=generator)
            elif name == "pi_slope":
                bound = math.sqrt(3 / parameter.shape[0])  # Glorot's for a vector; for a scalar it would be 1.7
                bound = bound if parameter.shape[0] > 1 else 0.0
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


_START_DROPOUT_LOGIT = -2.0
"""Most zeros are explained without inflation (Svensson 2020), so start with little of it."""


class _Activated(nn.Module):
    """Batch norm without a factor, activation, dropout: what follows the linear map of a hidden layer."""

    def __init__(self, width: int, config: DCAConfig) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, momentum=0.01, eps=1e-3) if config.batch_norm else None  # Keras' constants
        if self.norm is not None:
            self.norm.weight.requires_grad_(False)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the same shape, (..., width)."""
        if self.norm is not None:
            x = self.norm(x.reshape(-1, x.shape[-1])).view_as(x)
        out: Tensor = self.dropout(self.activation(x), generator)
        return out


class SquaredError(Likelihood):
    """Minus the squared difference of counts and `logits exp(log_scale)`, which may be negative: the "normal" type.

    It is a normal log-density of variance 1/2 up to a constant, in counts squared.
    """

    name = "squared-error"
    counts_only = False
    comparable = False

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Minus the squared difference; x is (cells, genes), the result (samples, cells, genes)."""
        return -(x - p.logits * p.log_scale.exp().unsqueeze(-1)).square()

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Minus the squared difference of each entry, (samples, cells, genes)."""
        return self.log_prob_entries(p, rows.dense)

    def mean(self, p: CountParameters) -> Tensor:
        """Expected counts, not below zero; (samples, cells, genes)."""
        return (p.logits * p.log_scale.exp().unsqueeze(-1)).clamp_min(0)

    def variance(self, p: CountParameters) -> Tensor:
        """One half; (samples, cells, genes)."""
        return torch.full_like(p.logits, 0.5)

    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, (samples, cells, genes)."""
        centre = p.logits * p.log_scale.exp().unsqueeze(-1)
        return centre + math.sqrt(0.5) * _noise(centre, generator)


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)


class DCA(DenoisingModel[DCAConfig]):
    """Deep count autoencoder; see the module's docstring for its equations.

    The options of `DCAConfig` are keyword arguments too. Batches are not modelled.

    The eleven values of `ae_type` are a family, "normal" (squared error of counts), "poisson", "nb" or "zinb", and
    where dispersion and dropout come from: one dispersion a gene and a dropout head ("nb", "zinb"), heads for each
    entry ("-conddisp"), one number a cell ("-shared"), heads with hidden layers of their own ("-fork"), or a dropout
    logit that is affine in the gene's log mean ("zinb-elempi").

    Paper and README present "zinb-conddisp", the code's default is "nb-conddisp". The default here is the latter: by
    molecular cross-validation (benchmarks/denoising.py) its output was the better one on all four real sets and both
    seeds, with a Poisson deviance of 0.0998, 0.0773, 0.2196 and 0.4492 an entry (PBMC, Kang, Paul, Zeisel) beside
    0.1014, 0.0810, 0.2213 and 0.4555. The mean before zero inflation, which DCA writes, says too much of what will be
    observed; with the inflation put back ZINB has 0.1005, 0.0787, 0.2198 and 0.4472, better on one set of four, so the
    inflation buys little. One dispersion a gene ("nb") denoises better still (0.0973, 0.0764, 0.2195, 0.4474) but
    reconstructs held-out cells worse on three of the sets. `DCAConfig.paper()` is the method of the paper.

    Denoising can create differences and correlations that are not in the data (Andrews & Hemberg 2018,
    doi:10.12688/f1000research.16613): test on counts.

    Parameters
    ----------
    adata
        Counts: cells x genes. The model keeps its own copy of what it needs.
    config
        The network's configuration; further keywords replace its fields.
    layer, batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        See `celbo.data.schema.DataKeys`. A size factor replaces the total over the median total in the mean.
    seed
        Seed of everything random: weights, split, order.

    Examples
    --------
    >>> model = celbo.DCA(adata)
    >>> model.train()
    >>> adata.layers["denoised"] = model.get_denoised_expression(return_numpy=True)
    >>> adata.obsm["X_dca"] = model.get_latent_representation()
    """

    config_class = DCAConfig
    network_class = DCANetwork

    def default_plan(self) -> TrainConfig:
        """Return celbo's own plan with a weight decay of 0.3.

        On the sets named in `DCA` it ends at a better reconstruction of held-out cells than the faithful plan (596.8,
        427.5, 1197.5, 1257.5 nats per cell and 608.6, 431.2, 1204.8, 1270.5) and at a better deviance of held-out
        molecules, in 30 to 40 epochs.
        """
        return TrainConfig(weight_decay=0.3)

    @classmethod
    def paper_plan(cls, *, n_genes: int | None = None) -> TrainConfig:
        """Return the training of the original: RMSprop of Keras, 300 epochs of batches of 32, the last weights kept.

        The original minimises the mean over entries, a factor of `n_genes` below nats per cell. RMSprop does not feel
        that factor, but a bound on gradients does: its 5 is 5 `n_genes` here. The original holds out the last 10% of
        the rows, which in a sorted file is a biased choice; here they are drawn by the seed. Its `--l1`, `--l2` and
        their forms for the encoder are `TrainConfig.l1` and `l2` with the patterns "*.weight", or "first.weight" and
        "linears.*.weight", and strengths times `n_genes`.

        Parameters
        ----------
        n_genes
            Genes of the data, for the bound on each entry of the gradient; None leaves the bound out.
        """
        return TrainConfig(
            max_epochs=300,
            batch_size=32,
            optimizer="keras-rmsprop",
            learning_rate=1e-3,
            clip_value=None if n_genes is None else 5.0 * n_genes,
            schedule="plateau",
            plateau_patience=10,
            plateau_factor=0.1,
            patience=15,
            kl_warmup=0,
            restore_best=False,
            train_size=0.9,
        )

    def get_dispersion(
        self, adata: AnnData | None = None, *, indices: Indices = None, gene_list: Sequence[str] | None = None
    ) -> pd.DataFrame | pd.Series:
        """Return the inverse dispersion theta: the variance of a count of mean mu is mu + mu^2 / theta.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        gene_list
            Names of the genes to return; None is all.

        Returns
        -------
        DataFrame (cells, genes); for "nb" and "zinb" a Series over genes, for the "shared" types one over cells.

        Raises
        ------
        OptionError
            For "normal" and "poisson", which have none.
        """
        if self.network.kind.dispersion == "gene":
            self._trained()
            theta = self.network.log_theta.detach().cpu().exp().numpy()[0]
            genes = gene_positions(gene_list, self.schema)
            return _named(theta, None, np.asarray(self.schema.genes), genes)
        return self._read("dispersion", adata, indices, gene_list)

    def get_dropout_probability(
        self, adata: AnnData | None = None, *, indices: Indices = None, gene_list: Sequence[str] | None = None
    ) -> pd.DataFrame | pd.Series:
        """Return pi, the probability that a count is zero whatever its mean; parameters as of `get_dispersion`.

        Returns
        -------
        DataFrame (cells, genes); for "zinb-shared" a Series over cells.

        Raises
        ------
        OptionError
            For the types without zero inflation.
        """
        return self._read("dropout", adata, indices, gene_list)

    def get_reconstruction_error(
        self, adata: AnnData | None = None, *, indices: Indices = None, per_cell: bool = False
    ) -> Any:
        """Return -log p(x | code) in nats per cell (for "normal" the sum of squares), or each cell's, (cells,).

        A cell's own counts made its code, so this is no evidence: the better a network copies, the lower it is.
        """
        return reconstruction_error(self.network, *self._asked(adata, indices), per_cell=per_cell)

    def _read(
        self, name: Literal["dispersion", "dropout"], adata: AnnData | None, indices: Indices, genes: Any
    ) -> pd.DataFrame | pd.Series:
        per: Per = getattr(self.network.kind, name)
        if per == "none":
            others = [t for t, kind in _TYPES.items() if getattr(kind, name) != "none"]
            where = f"ae_type={self.network.config.ae_type!r}"
            raise OptionError(f"has no {name}", where=where, fix=f"Use one of {', '.join(others)}.")
        data, index = self._asked(adata, indices)
        at = gene_positions(genes, self.schema)
        parts = []
        with evaluating(self.network):
            for block in encoded_blocks(self.network, data, index, batch_size=None, seed=self.seed):
                p = self.network.decode(*self.network.sample_latent(block.latent, block.batch), block.batch)
                values = p.log_theta_entries.exp()[0] if name == "dispersion" else p.dropout_logits.sigmoid()[0]
                parts.append((values[:, 0] if per == "cell" else values).cpu().numpy())
        cells = np.asarray(data.cell_names)[index]
        if per == "cell":
            return pd.Series(np.concatenate(parts), cells)
        return _named(np.concatenate(parts), cells, np.asarray(self.schema.genes), at)


def _named(values: Any, cells: Any, genes: Any, at: Any) -> pd.DataFrame | pd.Series:
    """Return (genes,) or (cells, genes) values with names, of the genes at some positions."""
    some = slice(None) if at is None else at
    if cells is None:
        return pd.Series(values[some], genes[some])
    return pd.DataFrame(values[:, some], cells, genes[some])
