"""AutoImpute (Talwar et al. 2018, doi:10.1038/s41598-018-34688-x; code divyanshu-talwar/AutoImpute b09485d).

    X_ng = log2(1 + x_ng m / l_n)             l_n: total of cell n, m: the median total
    h_n  = sigmoid(X_n E + b_E)               2,000 units
    Y_n  = h_n D + b_D                        what is put in the place of X_n, every entry
    minimise  ||X - Y * M||^2_F + lambda / 2 (||E||^2_F + ||D||^2_F),    M = [X != 0]

An entry that is zero takes no part, so Y is what a gene would be in a cell *if it were seen there*. At masked entries
this beats the mean of the gene over the cells that show it (ratio of norms 0.30, 0.30, 0.27, 0.24 and 0.39, 0.44, 0.39,
0.29 on PBMC, Kang, Paul, Zeisel; benchmarks/denoising.py). But nearly all zeros in counts of molecules are small means,
where Y is far too high: as expected counts it is worse than one mean for all cells on all four sets, and worse than no
denoising on two. Deterministic: no prior, no evidence bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.data.sampler import split_cells
from celbo.data.schema import Schema
from celbo.models.base import DenoisingModel, Fitting
from celbo.models.options import Indices, gene_positions
from celbo.nn.latent import Latent, PointPosterior
from celbo.nn.layers import GeneLinear, SparseLinear
from celbo.nn.transforms import InputTransform
from celbo.posterior.stream import encoded_blocks, evaluating
from celbo.training.engine import FitResult
from celbo.training.plan import Loss, StepState, TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["AutoImpute", "AutoImputeConfig", "AutoImputeNetwork"]

_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda v: 0 < v < math.inf, "a positive number")


@dataclass(frozen=True, kw_only=True)
class AutoImputeConfig:
    """What an AutoImpute network is made of."""

    n_hidden: int = 2000
    """Units of the hidden layer."""
    penalty: float = 1.0
    """lambda, the weight of the squares of both weight matrices."""
    init_std: float = 0.02
    """Standard deviation of the first weights."""
    init_bias_std: float = 0.0
    """Standard deviation of the first biases."""

    limits: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {
        "penalty": (lambda v: 0 <= v < math.inf, "0 or a positive number"),
        "init_std": _POSITIVE,
        "init_bias_std": (lambda v: 0 <= v < math.inf, "0 or a positive number"),
    }

    @classmethod
    def paper(cls) -> AutoImputeConfig:
        """Return the network of the original code: all weights and biases start as N(0, 1).

        Faulty: with 2,000 units the first outputs are noise of standard deviation 25 or more, training takes it away
        only at the entries that are seen, and at all others, which one wants to know, it stays (see `AutoImpute`).
        """
        return cls(init_std=1.0, init_bias_std=1.0)


class AutoImputeNetwork(nn.Module):
    """The equations of the module's docstring; one minibatch in, squared log2 units per cell out."""

    def __init__(self, config: AutoImputeConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        n, k = schema.n_genes, config.n_hidden
        self.transform = InputTransform("log2-normalised", n)
        self.encoder = SparseLinear(n, k, fan_in=n, generator=generator)
        self.decoder = GeneLinear(k, n, fan_in=k, generator=generator)
        for name, parameter in self.named_parameters():
            std = config.init_bias_std if name.endswith("bias") else config.init_std
            nn.init.normal_(parameter, std=std, generator=generator)

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[PointPosterior]:
        """Return the hidden units, (cells, units), from 0 to 1."""
        return Latent(PointPosterior(self.transform.linear(batch, self.encoder).sigmoid()))

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return z: the hidden units are what the decoder sees."""
        return z

    def sample_latent(
        self, latent: Latent[PointPosterior], batch: Minibatch, n_samples: int = 1, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden units as often as asked, (samples, cells, units), and the log total, (1, cells)."""
        return latent.z.sample(n_samples, generator), batch.library.log()[None]

    def output(self, batch: Minibatch) -> Tensor:
        """Return Y, (cells, genes), in log2(1 + normalised counts)."""
        out: Tensor = self.decoder(self.encode(batch).z.mean)
        return out

    def denoise(self, batch: Minibatch) -> Tensor:
        """Return the counts that Y stands for at each cell's depth, not below zero; (cells, genes)."""
        return self.transform.counts(self.output(batch), batch)

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Squared errors at the entries that are not zero, summed over genes; the plan adds the penalty."""
        error = (self.transform(batch) - self.output(batch)) * (batch.rows.dense != 0)
        return Loss(error.square().sum(1), is_bound=False)

    @torch.no_grad()
    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Take the median total of the training cells."""
        self.transform.fit(data, train)


class AutoImpute(DenoisingModel[AutoImputeConfig]):
    """Sigmoid autoencoder of one layer that is trained on the entries that are not zero.

    See the module's docstring for its equations. The options of `AutoImputeConfig` are keyword arguments too. The
    original selects 1,000 genes first; here the genes are those of `adata`. Batches are not modelled.

    The initialisation is not the original's N(0, 1), which leaves its noise at the entries that are never seen. On 30
    cells of mouse cortex (1,000 genes, a tenth of the non-zeros masked, the faithful plan) the error there, as a ratio
    of norms on the log2 scale, ended at 4.1 and 4.7 with it (two seeds) and at 0.30 and 0.26 with the default; the mean
    of the gene over the cells that show it, which belongs beside any such figure, had 0.32 and 0.27.

    Parameters
    ----------
    adata
        Counts: cells x genes. The model keeps its own copy of what it needs.
    config
        The network's configuration; further keywords replace its fields.
    layer, batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        See `celbo.data.schema.DataKeys`.
    seed
        Seed of everything random: weights, split, order.
    """

    config_class = AutoImputeConfig
    network_class = AutoImputeNetwork

    def default_plan(self) -> TrainConfig:
        """Return a bounded plan: Adam on minibatches, 20 epochs from 2,000 cells on and more below.

        More epochs lower the error at the entries that are seen, held-out cells included, and raise it at those that
        are not: a network with 2,000 units learns to copy.
        """
        epochs = math.ceil(20 * max(1.0, math.sqrt(2000 / self._own_data().n_cells)))
        return TrainConfig(optimizer="adam", learning_rate=4e-4, max_epochs=min(epochs, 200), weight_decay=0.0)

    @classmethod
    def paper_plan(cls, *, n_cells: int) -> TrainConfig:
        """Return the training of the original: RMSprop of TensorFlow 1 at 1e-4 on all cells at once, 7,000 steps.

        It stops at the first step that lowers the squared error per cell by no more than 1e-4. The original asks for a
        change below that in either direction, which happens by chance: from about step 170 on, 30 cells of mouse cortex
        go up and down by 0.05 to 0.15 a step. The error minimised is per cell where the original sums over the cells;
        RMSprop does not feel the factor once the first 50 steps have made it forget that its accumulator began at one.

        Parameters
        ----------
        n_cells
            Cells of the data; all are trained on, in one batch.
        """
        return TrainConfig(
            max_epochs=7000,
            batch_size=max(2, n_cells),
            optimizer="rmsprop",
            learning_rate=1e-4,
            schedule="constant",
            stop_on="train",
            patience=1,
            min_delta=1e-4,
            kl_warmup=0,
            restore_best=False,
            train_size=1.0,
        )

    def _fit(self, asked: Fitting) -> FitResult:
        """Add the penalty to the plan: half lambda times the squares, over the number of training cells."""
        data, penalty = self._own_data(), self.config.penalty
        split = split_cells(
            data.n_cells,
            train_size=asked.plan.train_size,
            seed=self.seed,
            train_indices=asked.train_indices,
            validation_indices=asked.validation_indices,
        )
        strength = 0.5 * penalty / len(split.train)
        ours = (("encoder.weight", strength), ("decoder.weight", strength)) if penalty else ()
        return super()._fit(replace(asked, plan=replace(asked.plan, l2=(*asked.plan.l2, *ours))))

    def get_imputed_values(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        gene_list: Sequence[str] | None = None,
        return_numpy: bool = False,
    ) -> Any:
        """Return what the original writes: the output Y in place of every entry, zero or not, negative or not.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        gene_list
            Names of the genes to return; None is all.
        return_numpy
            Return an array instead of a DataFrame indexed by cell and gene names.

        Returns
        -------
        DataFrame (cells, genes), or a float32 array; log2(1 + counts at the median total of the training cells).
        """
        data, index = self._asked(adata, indices)
        at = gene_positions(gene_list, self.schema)
        some = slice(None) if at is None else at
        with evaluating(self.network):
            blocks = encoded_blocks(self.network, data, index, batch_size=None, seed=self.seed)
            values = np.concatenate([self.network.output(block.batch).cpu().numpy()[:, some] for block in blocks])
        if return_numpy:
            return values
        return pd.DataFrame(values, np.asarray(data.cell_names)[index], np.asarray(self.schema.genes)[some])
