"""Hierarchical Poisson factorisation (Gopalan et al. 2015; for single cells, scHPF: Levitin et al. 2019,
doi:10.15252/msb.20188557).

    xi_i ~ Gamma(a', b')      theta_ik ~ Gamma(a, xi_i)      capacity of cell i, and what it has of factor k
    eta_g ~ Gamma(c', d')     beta_gk ~ Gamma(c, eta_g)      capacity of gene g, and what it has of factor k
    x_ig ~ Poisson(sum_k theta_ik beta_gk)                   (shape, rate)

Inference: q is a Gamma for each number above and a multinomial for each stored count; coordinate ascent, at a cost that
is linear in the stored counts. There is no encoder: q of a new cell is found with the genes' q fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData, open_anndata
from celbo.data.counts import CountMatrix
from celbo.data.sampler import split_cells
from celbo.data.schema import DataKeys, Schema
from celbo.errors import OptionError, listed
from celbo.kernels import cpu_hpf as cavi
from celbo.kernels.cpu_hpf import GammaPrior, Loadings, StoredCounts
from celbo.models import hpf_ask
from celbo.models.base import DenoisingModel, Fitting
from celbo.models.hpf_fit import Ascent, counts_of, empirical_priors, log_factorials
from celbo.models.options import Indices, check_config, gene_positions
from celbo.training.device import check_seed, torch_threads
from celbo.training.engine import FitResult
from celbo.training.plan import TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["HPF", "HPFConfig", "HPFNetwork"]

Floats = npt.NDArray[np.float64]
_MAX_SWEEPS = 1000
_BLOCK = 20_000  # cells projected at a time
_MEANINGFUL = ("max_epochs", "train_size", "early_stopping", "n_threads", "checkpoint_every")
_SHAPE = (lambda v: v is None or 0.01 <= v <= 100, "from 0.01 to 100, or None for 1 / sqrt(n_components)")
_HYPER_SHAPE = (lambda v: 0.01 <= v <= 1e6, "from 0.01 to 1e6")
_RATE = (lambda v: v is None or 0 < v < math.inf, "a positive number, or None for the one of the data")


@dataclass(frozen=True, kw_only=True)
class HPFConfig:
    """What a factorisation is made of and how it is fitted."""

    n_components: int = 10
    """Factors."""
    a: float | None = 0.3
    """Shape of the prior of the cells' loadings theta; below 1 is sparse. None is 1 / sqrt(n_components)."""
    c: float | None = 0.3
    """Shape of the prior of the genes' loadings beta; None is 1 / sqrt(n_components)."""
    a_prime: float = 1.0
    """Shape of the prior of the cells' capacities."""
    b_prime: float | None = None
    """Rate of that prior; None is a_prime times mean over variance of the cells' totals."""
    c_prime: float = 1.0
    """Shape of the prior of the genes' capacities."""
    d_prime: float | None = None
    """Rate of that prior; None is c_prime times mean over variance of the genes' totals (at least b_prime / 1000)."""
    initialisation: Literal["nmf", "dirichlet"] = "nmf"
    """Start at a short factorisation of the square roots of the counts, or at random (scHPF)."""
    phi: Literal["each-side", "once"] = "each-side"
    """Allocate the counts to factors before each side's update (fewer sweeps), or once a sweep (scHPF)."""
    stopping: Literal["elbo", "nonzero-loss"] = "elbo"
    """Stop when the bound stops changing, or when the loss of the nonzero entries does (scHPF)."""
    tolerance: float = 1e-5
    """Relative change between two checks below which the fit has converged, twice in a row."""
    check_every: int = 10
    """Sweeps between two checks."""
    min_epochs: int = 30
    """Fewest sweeps before the fit may stop."""
    better_than_n_ago: int = 5
    """With "nonzero-loss": also stop where the loss is worse than at the last check and this many checks ago."""
    n_trials: int = 1
    """Fits from different starts, of which the one with the best bound (loss) is kept."""

    limits: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {
        "a": _SHAPE,
        "c": _SHAPE,
        "a_prime": _HYPER_SHAPE,
        "c_prime": _HYPER_SHAPE,
        "b_prime": _RATE,
        "d_prime": _RATE,
    }

    @classmethod
    def schpf(cls) -> HPFConfig:
        """Return the method as scHPF 0.5.0 runs it: random start, phi once a sweep, its loss, the best of 5 trials.

        That loss is no likelihood: a model that raises every rate is not penalised for it. scHPF trains on all cells:
        `train(train_size=1.0)`.
        """
        return cls(initialisation="dirichlet", phi="once", stopping="nonzero-loss", n_trials=5)


class HPFNetwork(nn.Module):
    """Nothing but the parameters of q, so that they are kept and saved like those of a network; float64."""

    cell_shape: Tensor
    cell_rate: Tensor
    cell_hyper_rate: Tensor
    cell_digest: Tensor
    gene_shape: Tensor
    gene_rate: Tensor
    gene_hyper_rate: Tensor
    hyper_rates: Tensor

    def __init__(self, config: HPFConfig, schema: Schema, generator: Generator) -> None:  # draws nothing
        super().__init__()
        self.config = config
        for side, n in (("cell", 0), ("gene", schema.n_genes)):  # of the cells trained on; none before
            self.register_buffer(f"{side}_shape", torch.ones(n, config.n_components, dtype=torch.float64))
            self.register_buffer(f"{side}_rate", torch.ones(n, config.n_components, dtype=torch.float64))
            self.register_buffer(f"{side}_hyper_rate", torch.ones(n, dtype=torch.float64))
        self.register_buffer("cell_digest", torch.zeros(0, dtype=torch.int64))  # tells their counts from others
        self.register_buffer("hyper_rates", torch.ones(2, dtype=torch.float64))  # b', d'

    @property
    def cells(self) -> Loadings:
        """The q of the cells that were trained on."""
        return Loadings(self.cell_shape.numpy(), self.cell_rate.numpy(), self.cell_hyper_rate.numpy())

    @property
    def genes(self) -> Loadings:
        """The q of the genes."""
        return Loadings(self.gene_shape.numpy(), self.gene_rate.numpy(), self.gene_hyper_rate.numpy())

    @property
    def priors(self) -> tuple[GammaPrior, GammaPrior]:
        """Priors of cells and genes."""
        config, (b, d) = self.config, self.hyper_rates.tolist()
        a, c = shapes(config)
        return GammaPrior(a, float(config.a_prime), b), GammaPrior(c, float(config.c_prime), d)

    def hold(
        self, cells: Loadings, genes: Loadings, priors: tuple[GammaPrior, GammaPrior], digest: npt.NDArray[np.int64]
    ) -> None:
        """Keep what a fit has found."""
        for side, q in (("cell", cells), ("gene", genes)):
            for name in ("shape", "rate", "hyper_rate"):
                setattr(self, f"{side}_{name}", torch.from_numpy(getattr(q, name)))
        self.cell_digest = torch.from_numpy(digest)
        self.hyper_rates = torch.tensor([p.hyper_rate for p in priors], dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for as many cells as were saved; all other shapes must fit."""
        saved = state_dict.get(prefix + "cell_digest")
        n = 0 if saved is None or saved.dim() != 1 else saved.shape[0]
        for name in ("cell_shape", "cell_rate", "cell_hyper_rate", "cell_digest"):
            setattr(self, name, getattr(self, name).new_ones((n, *getattr(self, name).shape[1:])))
        below = [name for name, value in state_dict.items() if value.is_floating_point() and bool((value <= 0).any())]
        if below:
            raise ValueError(f"shapes and rates that are not above zero: {listed(below)}")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def shapes(config: HPFConfig) -> tuple[float, float]:
    """Return a and c."""
    a, c = (1 / math.sqrt(config.n_components) if v is None else float(v) for v in (config.a, config.c))
    return a, c


class HPF(DenoisingModel[HPFConfig]):
    """Hierarchical Poisson factorisation; see the module's docstring for its equations.

    The options of `HPFConfig` are keyword arguments too. Batches and other covariates take no part. In `train` an epoch
    is a sweep over genes and cells; `max_epochs` (1000 by default, for each trial), `train_size`, `early_stopping`
    (False takes all sweeps), `n_threads` and checkpoints have a meaning, other options of `TrainConfig` are refused.
    A second call goes on from the first.

    `history` has the true bound of each sweep with all its terms: elbo_train = -(reconstruction_train + kl_cells_train
    + kl_genes_train), in nats per training cell; it never falls. elbo_validation = -(reconstruction_validation +
    kl_cells_validation) of the held-out cells, whose q follows by one update a sweep. Where other systems are compared
    by a loss of the entries that are not zero, this one is not: see `HPFConfig.schpf`.

    Parameters
    ----------
    adata
        Counts: cells x genes. The model keeps its own copy of what it needs.
    config
        The configuration; further keywords replace its fields.
    layer, batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        See `celbo.data.schema.DataKeys`.
    seed
        Seed of the start and of the split.

    Examples
    --------
    >>> model = celbo.HPF(adata, n_components=12)
    >>> model.train()
    >>> model.get_gene_scores()["factor_1"].nlargest(20)
    """

    config_class = HPFConfig
    network_class = HPFNetwork
    network: HPFNetwork
    _own_rows: npt.NDArray[np.int64] | None = None

    # -- training ----------------------------------------------------------------------------------------------------

    def _fit(self, asked: Fitting) -> FitResult:
        data, plan = self._own_data(), _checked_plan(asked)
        split = split_cells(
            data.n_cells,
            train_size=plan.train_size,
            seed=self.seed,
            train_indices=asked.train_indices,
            validation_indices=asked.validation_indices,
        )
        with torch_threads(plan.n_threads):
            start = (self._q(data, split.train), self.network.genes) if self.is_trained else None
            priors = self.network.priors if self.is_trained else self._priors_of(data, split.train)
            ascent = Ascent(self.config, data, split, plan, priors=priors, seed=self.seed, start=start)
            state, fitted = ascent.run(
                progress=asked.progress,
                checkpoint_dir=asked.checkpoint_dir,
                resume=asked.resume,
                fingerprint=self._fingerprint(),
            )
        if state is not None:
            self.network.hold(state.cells, state.genes, priors, _digests(data)[split.train])
        self._own_rows = None
        return fitted

    def _priors_of(self, data: CellData, train: npt.NDArray[np.int64]) -> tuple[GammaPrior, GammaPrior]:
        config = self.config
        hyper_shapes, rates = (config.a_prime, config.c_prime), (config.b_prime, config.d_prime)
        return empirical_priors(counts_of(data, train), *shapes(config), hyper_shapes, rates)

    # -- cells -------------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        give_mean: bool = True,
        n_samples: int = 1,
        return_dist: bool = False,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return the loadings theta of each cell: of cells trained on as found, of others with the genes' q fixed.

        Parameters
        ----------
        adata
            Other cells with the same genes; None is the data of the model.
        indices
            Positions or a boolean mask of the cells asked for; None is all.
        give_mean
            E[theta]; False draws from q(theta).
        n_samples
            Number of draws where `give_mean` is False.
        return_dist
            Return mean and variance of q(theta) as two arrays instead.
        batch_size
            Without effect: all cells are found at once.
        seed
            Seed of the draws; None is the model's.

        Returns
        -------
        (cells, factors) float32; (samples, cells, factors) for several draws.
        """
        q = self._q(*self._asked(adata, indices))
        if return_dist:
            return q.mean.astype(np.float32), (q.mean / q.rate).astype(np.float32)
        if give_mean:
            return q.mean.astype(np.float32)
        if n_samples < 1:
            raise OptionError("is not a positive whole number", where=f"n_samples={n_samples!r}")
        rng = np.random.default_rng(self.seed if seed is None else seed)
        draws = (rng.standard_gamma(q.shape, (n_samples, *q.shape.shape)) / q.rate).astype(np.float32)
        return draws[0] if n_samples == 1 else draws

    def get_cell_scores(self, adata: AnnData | None = None, *, indices: Indices = None) -> pd.DataFrame:
        """Return scHPF's cell scores, E[theta] E[xi]: the loadings relative to the cell's capacity.

        Returns
        -------
        DataFrame (cells, factors).
        """
        data, index = self._asked(adata, indices)
        scores = _scores(self._q(data, index), self.network.priors[0])
        return pd.DataFrame(scores, np.asarray(data.cell_names)[index], self._factors())

    def get_gene_scores(self) -> pd.DataFrame:
        """Return scHPF's gene scores, E[beta] E[eta]: the loadings relative to the gene's capacity.

        Returns
        -------
        DataFrame (genes, factors).
        """
        self._trained()
        scores = _scores(self.network.genes, self.network.priors[1])
        return pd.DataFrame(scores, np.asarray(self.schema.genes), self._factors())

    def get_loadings(self) -> pd.DataFrame:
        """Return the loadings of the genes, E[beta], as DataFrame (genes, factors)."""
        self._trained()
        return pd.DataFrame(self.network.genes.mean, np.asarray(self.schema.genes), self._factors())

    def get_denoised_expression(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["observed"] = "observed",
        zero_inflation: bool = False,
        n_samples: int = 1,
        return_numpy: bool = False,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return the expected counts of each gene in each cell, E[theta] E[beta].

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        gene_list
            Names of the genes to return; None is all.
        library_size
            "observed": at each cell's own depth. A number: scaled so that all genes of a cell have this total.
        zero_inflation, n_samples, batch_size, seed
            Without effect, as nothing is inflated or drawn; here for one call on all models.
        return_numpy
            Return an array instead of a DataFrame indexed by cell and gene names.

        Returns
        -------
        DataFrame (cells, genes), or a float32 array; in counts.
        """
        data, index = self._asked(adata, indices)
        at = gene_positions(gene_list, self.schema)
        theta, beta = self._q(data, index).mean, self.network.genes.mean
        if library_size != "observed":
            if isinstance(library_size, str | bool) or not 0 < library_size < math.inf:
                fix = "Pass 'observed' or a positive number."
                raise OptionError("is not a library size", where=f"library_size={library_size!r}", fix=fix)
            theta = theta * (library_size / (theta @ beta.sum(0)))[:, None]
        chosen = beta if at is None else beta[at]
        values = theta.astype(np.float32) @ chosen.T.astype(np.float32)
        if return_numpy:
            return values
        names = np.asarray(self.schema.genes)
        return pd.DataFrame(values, np.asarray(data.cell_names)[index], names if at is None else names[at])

    # -- how good it is ----------------------------------------------------------------------------------------------

    def get_elbo(self, adata: AnnData | None = None, *, indices: Indices = None, per_cell: bool = False) -> Any:
        """Return the bound on log p(x_i) of each cell in nats (negative): the mean, or each cell's, (cells,).

        That is the cell's part: the divergence of the genes' q belongs to no cell (`history` has it, kl_genes_train).
        """
        data, index = self._asked(adata, indices)
        q = self._q(data, index)
        values = -self._reconstruction(data, index, q) - cavi.divergence(q, self.network.priors[0])
        return values if per_cell else float(values.mean())

    def get_reconstruction_error(
        self, adata: AnnData | None = None, *, indices: Indices = None, per_cell: bool = False
    ) -> Any:
        """Return the reconstruction term of the negative bound in nats per cell (positive): the mean, or each cell's.

        It is minus the expected log-likelihood with the shares of the factors in each count as latent variables.
        """
        data, index = self._asked(adata, indices)
        values = self._reconstruction(data, index, self._q(data, index))
        return values if per_cell else float(values.mean())

    def get_log_likelihood(
        self, adata: AnnData | None = None, *, indices: Indices = None, per_cell: bool = False
    ) -> Any:
        """Return the Poisson log-likelihood of all entries, zeros too, at the rates E[theta] E[beta], in nats per cell.

        Of cells whose theta was found from these very counts it is no evidence: see `get_marginal_ll`.
        """
        data, index = self._asked(adata, indices)
        counts, genes = counts_of(data, index), self.network.genes.mean
        values = hpf_ask.log_likelihood(counts, self._q(data, index).mean, genes)
        return values if per_cell else float(values.mean())

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        n_samples: int = 500,
        per_cell: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Return the importance-weighted log p(x_i | beta) of each cell at the genes' means beta = E[beta].

        Theta and xi are integrated over, xi exactly; the genes' parameters are points, as a decoder's weights are.
        The proposal is half the mean-field q(theta | x) for these beta and half the same with half the shape and rate.

        Parameters
        ----------
        adata, indices
            The cells; for a fair figure, cells that were not trained on.
        n_samples
            Draws for each cell; the bound tightens with them.
        per_cell
            Return the value of each cell.
        seed
            Seed of the draws; None is the model's.

        Returns
        -------
        The mean over cells in nats per cell, or (cells,) float64.
        """
        data, index = self._asked(adata, indices)
        if isinstance(n_samples, bool) or n_samples < 1:
            raise OptionError("is not a positive whole number", where=f"n_samples={n_samples!r}")
        values = hpf_ask.marginal_ll(
            counts_of(data, index),
            self.network.genes.mean,
            self.network.priors[0],
            n_samples=n_samples,
            seed=self.seed if seed is None else seed,
        )
        return values if per_cell else float(values.mean())

    # -- how many factors --------------------------------------------------------------------------------------------

    def get_maximum_overlaps(self, *, n_top: Sequence[int] = (50, 100, 150, 200, 250, 300)) -> pd.DataFrame:
        """Return the largest overlaps of the factors' top genes, scHPF's table; see `hpf_ask.maximum_overlaps`."""
        return hpf_ask.maximum_overlaps(self.get_gene_scores().to_numpy(), n_top)

    @classmethod
    def select_k(
        cls,
        adata: AnnData,
        *,
        ks: Sequence[int] = (5, 8, 10, 12, 15, 20),
        config: HPFConfig | None = None,
        layer: str | None = None,
        train_share: float = 0.8,
        n_top: int = 100,
        max_epochs: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Fit several numbers of factors to a part of the molecules, and judge them by the others.

        Each count is thinned: x = train + held out, train ~ Binomial(x, train_share). Under a Poisson model the parts
        are independent given the rates, so the held-out log-likelihood is honest although every cell and gene is
        trained on, and no cell is scored with loadings that were fitted to the counts scored. (Holding out cells would
        need just that, or an integral over their loadings.) Noise that all molecules of a gene in a cell share counts
        as signal.

        Parameters
        ----------
        adata
            Counts: cells x genes.
        ks
            Numbers of factors.
        config
            The configuration but for their number.
        layer
            Layer with the counts.
        train_share
            Share of the molecules that is fitted to.
        n_top
            Top genes of the overlaps.
        max_epochs
            Most sweeps of each fit.
        seed
            Seed of the split and of the fits.

        Returns
        -------
        DataFrame, one row a number (index "n_components"): `log_likelihood`, Poisson log-likelihood of the held-out
        counts, zeros too, in nats per cell; `below_best` and its `standard_error` over cells; `chosen`, the smallest
        number within one standard error of the best; `elbo` of the fit; `epochs`; `max_overlap` of the top genes of
        two factors and `p_overlap` (see `get_maximum_overlaps`).
        """
        config = config or cls.config_class()
        configs = {k: replace(config, n_components=k) for k in dict.fromkeys(ks)}
        if not configs:
            raise OptionError("must hold at least one number of factors", where="ks")
        for one in configs.values():
            check_config(one)
        check_seed(seed)
        data = open_anndata(adata, DataKeys(layer=layer))
        train, held_out = hpf_ask.thinned(counts_of(data, np.arange(data.n_cells)), train_share, seed)
        seen = replace(data, counts=CountMatrix.from_scipy(train))
        scores, rows = {}, []
        for k, one in configs.items():
            model = cls.__new__(cls)
            model._bind(one, data.schema, seed, seen, None)
            model.train(max_epochs=max_epochs, train_size=1.0, progress=False)
            cells = model.network.cells.mean * ((1 - train_share) / train_share)
            scores[k] = hpf_ask.log_likelihood(held_out, cells, model.network.genes.mean)
            overlap = model.get_maximum_overlaps(n_top=(min(n_top, data.n_genes - 1),)).iloc[0]
            elbo = model.history["elbo_train"].loc[model._trained().best_epoch]
            rows.append({"elbo": elbo, "epochs": len(model.history),
                         "max_overlap": int(overlap["max_overlap"]), "p_overlap": overlap["p_max"]})  # fmt: skip
        index = pd.Index(list(scores), name="n_components")
        return pd.DataFrame(hpf_ask.smallest_good(scores), index).join(pd.DataFrame(rows, index))

    # -- what every getter needs -------------------------------------------------------------------------------------

    def _q(self, data: CellData, index: npt.NDArray[np.int64]) -> Loadings:
        """Return q of some cells: as kept where they were trained on, else with the genes' q fixed."""
        k, n = self.config.n_components, index.size
        q = Loadings(np.empty((n, k)), np.empty((n, k)), np.empty(n))
        kept = self._kept_rows(data)[index]
        known, others = np.flatnonzero(kept >= 0), np.flatnonzero(kept < 0)
        parts = [(known, self.network.cells.take(kept[known]))]
        genes, prior = self.network.genes, self.network.priors[0]
        for start in range(0, others.size, _BLOCK):
            at = others[start : start + _BLOCK]
            rows = StoredCounts.of(counts_of(data, index[at]))
            parts.append((at, cavi.project(rows, genes.weight, genes.mean.sum(0), prior)))
        for at, part in parts:
            q.shape[at], q.rate[at], q.hyper_rate[at] = part.shape, part.rate, part.hyper_rate
        return q

    def _kept_rows(self, data: CellData) -> npt.NDArray[np.int64]:
        """Return the row of each cell among those trained on, or -1; a loaded model may hold other cells' counts."""
        if data is not self.data:
            return np.full(data.n_cells, -1)
        if self._own_rows is None:
            rows, train = np.full(data.n_cells, -1), self._trained().split.train
            kept, there = self.network.cell_digest.numpy(), np.flatnonzero(train < data.n_cells)
            same = there[_digests(data)[train[there]] == kept[there]]
            rows[train[same]] = same
            self._own_rows = rows
        return self._own_rows

    def _reconstruction(self, data: CellData, index: npt.NDArray[np.int64], q: Loadings) -> Floats:
        """Return minus E[log p(x, shares of the factors | theta, beta)] + E[log q(shares)] of each cell, (cells,)."""
        counts, genes = counts_of(data, index), self.network.genes
        logs = cavi.log_rates(StoredCounts.of(counts), q.weight, genes.weight)
        values: Floats = hpf_ask.row_sums(log_factorials(counts.data), counts) - logs + q.mean @ genes.mean.sum(0)
        return values

    def _factors(self) -> pd.Index[str]:
        return pd.Index([f"factor_{k + 1}" for k in range(self.config.n_components)])


def _scores(q: Loadings, prior: GammaPrior) -> Floats:
    scores: Floats = q.mean * (prior.hyper_posterior_shape(q.shape.shape[1]) / q.hyper_rate)[:, None]
    return scores


def _digests(data: CellData) -> npt.NDArray[np.int64]:
    return cavi.row_digests(data.counts.indptr, data.counts.indices, data.counts.values)


def _checked_plan(asked: Fitting) -> TrainConfig:
    """Return the plan with the number of sweeps, or raise for options that coordinate ascent does not have."""
    default = TrainConfig()
    foreign = [f.name for f in fields(TrainConfig) if getattr(asked.plan, f.name) != getattr(default, f.name)]
    wrong = [name for name in dict.fromkeys((*asked.given, *foreign)) if name not in _MEANINGFUL]
    if wrong:
        fix = f"Coordinate ascent has {', '.join(_MEANINGFUL)}."
        raise OptionError("does not apply to this model", where=f"training option {wrong[0]!r}", fix=fix)
    if str(asked.device) not in ("auto", "cpu"):
        raise OptionError("is not possible for this model", where=f"device {asked.device!r}", fix="Use 'cpu'.")
    return replace(asked.plan, max_epochs=asked.plan.max_epochs or _MAX_SWEEPS)
