"""What the user holds: a model binds counts, a network, the engine and the posterior.

`Model` reads the data, trains and saves; `DenoisingModel` also says expected counts; `CountModel` adds what one asks of
a model of counts. A system in a file of its own gives its `config_class` and its `network_class`; data keys and
configuration fields become its keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from celbo.data.cells import CellData, open_anndata
from celbo.data.described import Described
from celbo.data.obs import HasObs
from celbo.data.sampler import split_cells
from celbo.data.scales import scales_of, warn_of_columns, warn_of_units
from celbo.data.schema import Schema
from celbo.errors import InputError, NotTrainedError
from celbo.models import questions
from celbo.models.group_questions import differential_expression
from celbo.models.options import (
    Indices,
    batch_codes,
    check_config,
    config_dict,
    constructor_signature,
    gene_positions,
    positions,
    requires_counts,
    split_options,
)
from celbo.training.device import check_seed
from celbo.training.engine import FitResult, fit
from celbo.training.plan import TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CountModel", "DenoisingModel", "Fitting", "Model"]

ConfigT = TypeVar("ConfigT")
Asked = tuple[CellData, npt.NDArray[np.int64]]
"""The data asked about, and the positions of the cells in them."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What was asked of `Model.train`, checked."""

    plan: TrainConfig
    given: tuple[str, ...]
    """Options of the plan that were given as keywords."""
    train_indices: npt.NDArray[np.int64] | None
    validation_indices: npt.NDArray[np.int64] | None
    device: str
    progress: bool | None
    checkpoint_dir: str | Path | None
    resume: bool


class Model(Generic[ConfigT]):
    """A network with the data it was built for. Systems derive from it and name their two classes.

    Parameters
    ----------
    adata
        Cells x genes. The model keeps its own copy of the counts and never writes into `adata`.
    config
        The network's configuration; None is the default one.
    seed
        Seed of weights, split, order of the cells and noise.
    **options
        Data keys (`layer`, `batch_key`, ...) and fields of the configuration, which replace those of `config`.

    Raises
    ------
    OptionError
        An option does not exist or has an impossible value.
    InputError
        The data cannot be used; the message names the cell, gene or column and the fix.
    """

    config_class: ClassVar[type[Any]]
    network_class: ClassVar[type[Any]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "config_class" in cls.__dict__:
            cls.__signature__ = constructor_signature(cls.config_class)  # type: ignore[attr-defined]

    def __init__(self, adata: AnnData, *, config: ConfigT | None = None, seed: int = 0, **options: Any) -> None:
        keys, given = split_options(type(self).__name__, self.config_class, options)
        checked = replace(config or self.config_class(), **given)  # type: ignore[type-var]
        check_config(checked)
        check_seed(seed)
        data = open_anndata(adata, keys, require_counts=requires_counts(checked))
        self._bind(checked, data.schema, seed, data, adata)

    def _bind(self, config: Any, schema: Schema, seed: int, data: CellData | None, adata: AnnData | None) -> None:
        self.config: ConfigT = config
        self.schema = schema
        self.seed = seed
        self._hold(data, adata)
        self.fitted: FitResult | None = None
        # Not from torch's global generator: models made at once in several threads share that one.
        self.network = self.network_class(config, schema, torch.Generator().manual_seed(seed))
        self.network.eval()

    def _hold(self, data: CellData | None, adata: AnnData | None) -> None:
        """Bind cells to the model: their counts, encoded against its schema, and the AnnData that they come from."""
        self.data = data
        self._described = None if adata is None else Described(adata)

    # -- training ----------------------------------------------------------------------------------------------------

    def train(
        self,
        plan: TrainConfig | None = None,
        *,
        max_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        train_size: float | None = None,
        train_indices: Indices = None,
        validation_indices: Indices = None,
        early_stopping: bool | None = None,
        kl_warmup: float | int | None = None,
        n_threads: int | None = None,
        device: str = "auto",
        progress: bool | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Train the network; None means the plan's value, and in the plan the default that is good on any size.

        A second call trains further, from the weights of the first.

        Parameters
        ----------
        plan
            The training plan; the keywords beside it win.
        max_epochs, batch_size, learning_rate, train_size, early_stopping, kl_warmup, n_threads
            See `TrainConfig`.
        train_indices, validation_indices
            Positions of the cells to train on and to hold out; by default drawn with the model's seed.
        device
            "auto", "cpu", "cuda", "cuda:1" or "mps".
        progress
            Whether to show a bar; None shows one on a terminal.
        checkpoint_dir
            Folder for checkpoints, written atomically as training goes on.
        resume
            Continue from the newest checkpoint in that folder; the end is the same to the bit as without the break.

        Returns
        -------
        The model itself.

        Raises
        ------
        TrainingError
            Training became non-finite and did not recover with a smaller learning rate.
        """
        given = {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "train_size": train_size,
            "early_stopping": early_stopping,
            "kl_warmup": kl_warmup,
            "n_threads": n_threads,
        }
        named = {k: v for k, v in given.items() if v is not None}
        n_cells = self._own_data().n_cells
        cells = {"train_indices": train_indices, "validation_indices": validation_indices}
        asked = Fitting(
            plan=replace(plan or self.default_plan(), **named),  # type: ignore[arg-type]
            given=tuple(named),
            **{k: None if v is None else positions(v, n_cells, k) for k, v in cells.items()},
            device=device,
            progress=progress,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )
        self.fitted = self._fit(asked)
        self.network.eval()
        return self

    def default_plan(self) -> TrainConfig:
        """Return the plan that `train` follows where none is given."""
        return TrainConfig()

    def _fit(self, asked: Fitting) -> FitResult:
        """Train the network by gradients; a system that is fitted otherwise replaces this."""
        if self.schema.keys.continuous_covariate_keys and not self.is_trained:
            self._scale_covariates(asked)
        return fit(
            self.network,
            self._own_data(),
            asked.plan,
            seed=self.seed,
            train_indices=asked.train_indices,
            validation_indices=asked.validation_indices,
            device=asked.device,
            progress=asked.progress,
            checkpoint_dir=asked.checkpoint_dir,
            resume=asked.resume,
            fingerprint=self._fingerprint(),
            prepare=not self.is_trained,
        )

    def _scale_covariates(self, asked: Fitting) -> None:
        """Put continuous covariates on the scales of the training cells, or warn where the configuration says no."""
        data, keys = self._own_data(), self.schema.keys.continuous_covariate_keys
        split = split_cells(
            data.n_cells,
            train_size=asked.plan.train_size,
            seed=self.seed,
            train_indices=asked.train_indices,
            validation_indices=asked.validation_indices,
        )
        assert data.covariates is not None
        values = data.covariates[split.train]
        scales = scales_of(values, keys)
        if getattr(self.config, "scale_covariates", True):
            warn_of_columns(values, scales, data.cell_names[split.train])
        else:
            warn_of_units(scales)
            scales = {}
        self.data = data.on_scales(scales)
        self.schema = self.data.schema

    def _fingerprint(self) -> dict[str, Any]:
        """Return what tells a checkpoint of this model from others."""
        scales = {"scales": self.schema.to_dict()["scales"]} if self.schema.scales else {}
        config = {name: value for name, value in config_dict(self.config).items() if name != "scale_covariates"}
        return {"model": type(self).__name__, "config": config, **scales}

    @property
    def is_trained(self) -> bool:
        """Whether `train` has finished an epoch."""
        return self.fitted is not None and self.fitted.best_epoch > 0

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch, from 1: ELBO, reconstruction and KL in nats per cell, learning rate, seconds and speed."""
        return self._trained().history

    @property
    def train_indices(self) -> npt.NDArray[np.int64]:
        """Positions of the cells that were trained on."""
        return self._trained().split.train

    @property
    def validation_indices(self) -> npt.NDArray[np.int64]:
        """Positions of the cells that were held out."""
        return self._trained().split.validation

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model into a folder: `weights.safetensors`, `model.json`, `history.csv` and the split.

        The folder appears whole or not at all. No pickle: a saved model cannot run code when it is loaded.
        """
        from celbo.models.store import save_model

        return save_model(self, Path(path), overwrite=overwrite)

    # -- latent ------------------------------------------------------------------------------------------------------

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
        """Return the latent state of each cell.

        Parameters
        ----------
        adata
            Other cells with the same genes; None is the data of the model.
        indices
            Positions or a boolean mask of the cells asked for; None is all.
        give_mean
            The mean of q(z | x); False draws from it.
        n_samples
            Number of draws where `give_mean` is False.
        return_dist
            Return the mean and the variance of q(z | x) as two arrays instead.
        batch_size
            Cells encoded at a time.
        seed
            Seed of the draws; None is the model's.

        Returns
        -------
        (cells, latent) float32; (samples, cells, latent) for several draws.
        """
        from celbo.posterior.latent import latent_representation

        data, index = self._asked(adata, indices)
        return latent_representation(
            self.network,
            data,
            index,
            give_mean=give_mean,
            n_samples=n_samples,
            return_dist=return_dist,
            batch_size=batch_size or 512,
            seed=self.seed if seed is None else seed,
        )

    # -- what every getter needs -------------------------------------------------------------------------------------

    def _trained(self) -> FitResult:
        if self.fitted is None or not self.is_trained:
            raise NotTrainedError("has not been trained", where=type(self).__name__, fix="Call model.train() first.")
        return self.fitted

    def _own_data(self) -> CellData:
        if self.data is None:
            raise InputError("was loaded without its data", where=type(self).__name__, fix="Pass adata to celbo.load.")
        return self.data

    def _data_of(self, adata: AnnData | None) -> CellData:
        """Return the model's own data, or `adata` checked, aligned and encoded."""
        if adata is None or (self._described is not None and self._described.is_of(adata)):
            return self._own_data()
        require_counts = requires_counts(self.config)
        return open_anndata(adata, self.schema.keys, schema=self.schema, require_counts=require_counts)

    def obs_of(self, adata: AnnData | None) -> HasObs | None:
        """Return what has the columns that describe the cells asked about; None where the model was loaded alone."""
        return self._described if adata is None else adata

    def _asked(self, adata: AnnData | None, indices: Indices) -> Asked:
        self._trained()
        data = self._data_of(adata)
        return data, positions(indices, data.n_cells, "indices")

    def __repr__(self) -> str:
        schema, fitted = self.schema, self.fitted
        cells = "no cells" if self.data is None else f"{self.data.n_cells:,} cells"
        sizes = [cells, f"{schema.n_genes:,} genes", f"{schema.n_batches} batch{'es' * (schema.n_batches != 1)}"]
        epochs = "" if fitted is None or not self.is_trained else f"trained for {len(fitted.history)} epochs"
        options = ", ".join(f"{name}={value!r}" for name, value in config_dict(self.config).items())
        return f"{type(self).__name__}: {', '.join(sizes)}, {epochs or 'not trained'}\n    {options}, seed={self.seed}"


class DenoisingModel(Model[ConfigT]):
    """A model that says expected counts: its network has `denoise`, or a likelihood and a decoder."""

    def get_denoised_expression(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["observed"] = "observed",
        zero_inflation: bool = False,
        n_samples: int = 10,
        return_numpy: bool = False,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return the expected counts of each gene in each cell, free of sampling noise.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        gene_list
            Names of the genes to return; None is all.
        library_size
            "observed": at each cell's own depth. A number: scaled to this total.
        zero_inflation
            Whether to include the zeros of a zero-inflated likelihood: what would be observed, not what was there.
        n_samples
            Draws of the latent state of each cell that are averaged; a deterministic model takes none.
        return_numpy
            Return an array instead of a DataFrame indexed by cell and gene names.
        batch_size
            Cells at a time.
        seed
            Seed of the draws; None is the model's.

        Returns
        -------
        DataFrame (cells, genes), or a float32 array; in counts.
        """
        from celbo.posterior.denoised import denoised_expression

        data, index = self._asked(adata, indices)
        genes = gene_positions(gene_list, self.schema)
        values = denoised_expression(
            self.network,
            data,
            index,
            genes=genes,
            library_size=library_size,
            zero_inflation=zero_inflation,
            n_samples=n_samples,
            batch_size=batch_size,
            seed=self.seed if seed is None else seed,
        )
        if return_numpy:
            return values
        names = np.asarray(self.schema.genes)
        cells = np.asarray(data.cell_names)[index]
        return pd.DataFrame(values, index=cells, columns=names if genes is None else names[genes])


class CountModel(DenoisingModel[ConfigT]):
    """A model of counts: expression, evidence, samples and comparisons besides the latent state."""

    differential_expression = differential_expression
    differential_abundance = questions.differential_abundance
    get_credible_intervals = questions.get_credible_intervals
    get_feature_correlation_matrix = questions.get_feature_correlation_matrix
    posterior_predictive_check = questions.posterior_predictive_check

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
        """Return the expected expression of each gene in each cell, free of noise and of library size.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        gene_list
            Names of the genes to return; None is all. Shares are still of all genes.
        transform_batch
            Batch to decode as: None is each cell's own, a name is that batch, several names their average.
        library_size
            Total that the shares are multiplied by; "latent" is each cell's own library size.
        n_samples
            Draws of the latent state for each cell.
        give_mean
            Decode the mean latent state instead of draws: no noise, but not the posterior mean of the expression.
        return_mean
            Average over the draws; False keeps them, (samples, cells, genes).
        return_numpy
            Return an array instead of a DataFrame indexed by cell and gene names.
        path
            Stream the result into this file (`.npy`) with bounded memory, and return its path.
        batch_size
            Cells decoded at a time.
        seed
            Seed of the draws; None is the model's.

        Returns
        -------
        DataFrame (cells, genes), or an array; in counts per `library_size`.
        """
        from celbo.posterior import expression

        data, index = self._asked(adata, indices)
        genes = gene_positions(gene_list, self.schema)
        options: dict[str, Any] = {
            "genes": genes,
            "transform_batch": batch_codes(transform_batch, self.schema),
            "library_size": library_size,
            "n_samples": n_samples,
            "give_mean": give_mean,
            "return_mean": return_mean,
            "seed": self.seed if seed is None else seed,
            "batch_size": batch_size,
        }
        if path is not None:
            return expression.write_expression(self.network, data, index, Path(path), **options)
        values = expression.normalized_expression(self.network, data, index, **options)
        if return_numpy or values.ndim == 3:
            return values
        names = np.asarray(self.schema.genes)
        return pd.DataFrame(
            values,
            index=np.asarray(data.cell_names)[index],
            columns=names if genes is None else names[genes],
        )

    def get_elbo(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        n_samples: int = 1,
        per_cell: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Return the evidence lower bound in nats per cell (negative): the mean, or each cell's, (cells,)."""
        from celbo.posterior.evidence import elbo

        return self._evidence(elbo, self._asked(adata, indices), n_samples, per_cell, seed)

    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        n_samples: int = 1,
        per_cell: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Return minus the expected log-likelihood given the latent state, in nats per cell (positive)."""
        from celbo.posterior.evidence import reconstruction_error

        return self._evidence(reconstruction_error, self._asked(adata, indices), n_samples, per_cell, seed)

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        n_samples: int = 500,
        per_cell: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Return the log marginal likelihood by importance weighting with q as the proposal, in nats per cell.

        log p(x) ~ log mean_k p(x | z_k) p(z_k) / q(z_k | x) (Burda et al. 2016), a lower bound that tightens with
        `n_samples`. The mean over cells, or with `per_cell` each cell's, (cells,).
        """
        from celbo.posterior.evidence import marginal_ll

        return self._evidence(marginal_ll, self._asked(adata, indices), n_samples, per_cell, seed)

    def _evidence(self, of: Callable[..., Any], asked: Asked, n_samples: int, per_cell: bool, seed: int | None) -> Any:
        seed = self.seed if seed is None else seed
        return of(self.network, *asked, n_samples=n_samples, per_cell=per_cell, seed=seed)

    def posterior_predictive_sample(
        self, adata: AnnData | None = None, *, indices: Indices = None, n_samples: int = 1, seed: int | None = None
    ) -> Any:
        """Draw new counts for each cell from p(x' | x): CSR (cells, genes), or a list of them for several samples."""
        from celbo.posterior.expression import posterior_predictive_sample

        data, index = self._asked(adata, indices)
        seed = self.seed if seed is None else seed
        return posterior_predictive_sample(self.network, data, index, n_samples=n_samples, seed=seed)

    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        give_mean: bool = True,
        seed: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the library size of each cell in counts, (cells,): observed, or the mean or a draw of q(l | x)."""
        from celbo.posterior.latent import latent_library_size

        data, index = self._asked(adata, indices)
        seed = self.seed if seed is None else seed
        sizes: npt.NDArray[np.float32] = latent_library_size(self.network, data, index, give_mean=give_mean, seed=seed)
        return sizes
