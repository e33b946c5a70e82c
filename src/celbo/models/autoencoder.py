"""The undercomplete autoencoder (Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647).

    y = t(x)    z = e(y - m)    y^ = d(z)    minimise  mean_n sum_g (y_ng - y^_ng)^2

t is a transform of the counts, log-normalisation by default, m the mean of y over the training cells. The code z has
fewer dimensions than there are genes and is a point: there is no likelihood, no evidence, and nothing is said about
codes between those of the cells. With `linear=True` both maps are linear and the best the network can do is the span
of the leading principal components (Baldi and Hornik 1989, doi:10.1016/0893-6080(89)90014-2), in a basis of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.data.schema import Schema
from celbo.errors import InputError, OptionError
from celbo.models.base import DenoisingModel
from celbo.models.options import Indices
from celbo.nn.latent import Latent, PointPosterior
from celbo.nn.layers import GeneLinear, torch_linear
from celbo.nn.mlp import MLP, Activation
from celbo.nn.transforms import InputTransform, TransformName
from celbo.posterior.stream import encoded_blocks, evaluating, place_of
from celbo.training.plan import Loss, StepState, TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Autoencoder", "AutoencoderConfig", "AutoencoderNetwork", "CentredInput", "points_of"]

Floats = npt.NDArray[np.float32]
WIDTHS: tuple[Callable[[Any], bool], str] = (
    lambda v: v is None or (isinstance(v, tuple) and all(type(n) is int and n >= 1 for n in v)),
    "a tuple of positive whole numbers, () for a single linear map, or None",
)
_BLOCK = 1024
_START = 0.03
"""Factor of the output's first weights: the network starts at the mean of each gene and little else, from where a
linear autoencoder finds the leading components first; from weights of full size it takes ten times as long."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What an autoencoder is made of."""

    n_latent: int = 10
    """Dimensions of the code."""
    n_hidden: tuple[int, ...] | None = None
    """Widths of the encoder's hidden layers, mirrored in the decoder; () is one linear map each way. None is (128,),
    and () with `linear`."""
    activation: Activation = "relu"
    """Non-linearity of the hidden layers."""
    linear: bool = False
    """Linear maps only: no non-linearity, no batch norm, no dropout."""
    batch_norm: bool = True
    """Whether hidden layers are batch-normalised."""
    dropout_rate: float = 0.0
    """Dropout of the encoder's hidden layers."""
    transform: TransformName = "log-normalised"
    """What is reconstructed of the counts, and what the encoder sees."""

    limits: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {"n_hidden": WIDTHS}

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the encoder's hidden layers."""
        if self.n_hidden is None:
            return () if self.linear else (128,)
        return tuple(self.n_hidden)


class CentredInput(nn.Module):
    """The transformed counts of a minibatch, and the mean of each gene over the training cells."""

    mean: Tensor

    def __init__(self, name: TransformName, n_genes: int) -> None:
        super().__init__()
        self.transform = InputTransform(name, n_genes)
        self.register_buffer("mean", torch.zeros(n_genes))

    def forward(self, batch: Minibatch) -> Tensor:
        """Return y, (cells, genes): not centred."""
        values: Tensor = self.transform(batch)
        return values

    @torch.no_grad()
    def fit(self, data: CellData, train: np.ndarray) -> Tensor:
        """Fit the transform and the means to the training cells; return the standard deviation of each gene."""
        self.transform.fit(data, train)
        total = torch.zeros(data.n_genes, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for start in range(0, len(train), _BLOCK):
            batch = data.minibatch(train[start : start + _BLOCK]).to(self.mean.device, self.mean.dtype)
            values = self(batch).to("cpu", torch.float64)
            total, squares = total + values.sum(0), squares + values.square().sum(0)
        mean = total / len(train)
        self.mean.copy_(mean)
        return (squares / len(train) - mean.square()).clamp_min(0).sqrt()


class AutoencoderNetwork(nn.Module):
    """The equations of the module's docstring."""

    def __init__(self, config: AutoencoderConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        if config.n_latent >= schema.n_genes:
            raise OptionError(
                f"is not below the {schema.n_genes} genes", where=f"n_latent={config.n_latent}",
                fix="With as many dimensions as genes a network learns to copy.",
            )  # fmt: skip
        self.input = CentredInput(config.transform, schema.n_genes)
        self.encoder = _stack(config, schema.n_genes, config.widths, config.dropout_rate, generator)
        self.code = torch_linear(self.encoder.n_out, config.n_latent, generator=generator)
        self.decoder = _stack(config, config.n_latent, config.widths[::-1], 0.0, generator)
        self.output = GeneLinear(self.decoder.n_out, schema.n_genes, fan_in=self.decoder.n_out, generator=generator)

    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Fit the transform to the training cells and start at the mean of each gene."""
        self.input.fit(data, train)
        with torch.no_grad():
            self.output.bias.copy_(self.input.mean)
            self.output.weight.mul_(_START)

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[PointPosterior]:
        """Return the code of each cell, (cells, latent)."""
        return self._encode(self.input(batch), generator)

    def _encode(self, values: Tensor, generator: Generator | None) -> Latent[PointPosterior]:
        return Latent(PointPosterior(self.code(self.encoder(values - self.input.mean, generator))))

    def decode_points(self, z: Tensor) -> Tensor:
        """Return y^ for z (..., latent), in the units of the transform; (..., genes)."""
        values: Tensor = self.output(self.decoder(z))
        return values

    def reconstruct(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """Return what the cells are and what they are reconstructed as, y and y^; (cells, genes) each."""
        values = self.input(batch)
        return values, self.decode_points(self._encode(values, None).z.mean)

    def denoise(self, batch: Minibatch) -> Tensor:
        """Return y^ as counts at each cell's own depth, (cells, genes)."""
        return self.input.transform.counts(self.reconstruct(batch)[1], batch)

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Squared error of each cell, summed over genes."""
        values = self.input(batch)
        decoded = self.decode_points(self._encode(values, step.generator).z.mean)
        return Loss((values - decoded).square().sum(1), is_bound=False)

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return z."""
        return z

    def sample_latent(
        self, latent: Latent[PointPosterior], batch: Minibatch, n_samples: int = 1, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the code n_samples times, (samples, cells, latent), and the log total of each cell, (1, cells)."""
        return latent.z.sample(n_samples, generator), batch.library.log()[None]


def _stack(
    config: AutoencoderConfig, n_in: int, widths: tuple[int, ...], dropout_rate: float, generator: Generator
) -> MLP:
    return MLP(
        n_in,
        widths,
        activation="linear" if config.linear else config.activation,
        batch_norm=config.batch_norm and not config.linear,
        dropout_rate=0.0 if config.linear else dropout_rate,
        generator=generator,
    )


class Autoencoder(DenoisingModel[AutoencoderConfig]):
    """Undercomplete autoencoder of transformed counts; see the module's docstring for its equations.

    The options of `AutoencoderConfig` are keyword arguments too. A batch column may be named, but the network does not
    see it. `history` has `objective_*`, minus the squared error of a cell summed over genes, and no ELBO.

    Parameters
    ----------
    adata
        Counts: cells x genes. The model keeps its own copy of what it needs.
    config
        The network's configuration; further keywords replace its fields.
    layer, batch_key, labels_key
        See `celbo.data.schema.DataKeys`.
    seed
        Seed of everything random: weights, split, order.

    Examples
    --------
    >>> model = celbo.Autoencoder(adata, n_latent=2)
    >>> model.train()
    >>> adata.obsm["X_autoencoder"] = model.get_latent_representation()
    """

    config_class = AutoencoderConfig
    network_class = AutoencoderNetwork

    def default_plan(self) -> TrainConfig:
        """Return the engine's plan; for the linear one Adam at 0.01 without decay, which ends at the least squares.

        About 700 steps of 256 cells down to a rate of zero, and at least 20 epochs. Weight decay would shrink the
        directions, and the weights of the best epoch on held-out cells are not those of the least error.
        """
        if not self.config.linear:
            return TrainConfig()
        n_cells = self._own_data().n_cells
        return TrainConfig(
            max_epochs=max(20, math.ceil(_LINEAR_STEPS * _LINEAR_CELLS / n_cells)),
            batch_size=_LINEAR_CELLS,
            optimizer="adam",
            learning_rate=1e-2,
            weight_decay=0.0,
            early_stopping=False,
            restore_best=False,
        )

    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        return_numpy: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Return what each cell is reconstructed as, in the units of the transform (log-normalised by default).

        `get_denoised_expression` gives the same in counts.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        return_numpy
            Return an array instead of a DataFrame indexed by cell and gene names.
        batch_size
            Cells at a time.

        Returns
        -------
        DataFrame (cells, genes), or a float32 array.
        """
        data, index = self._asked(adata, indices)
        with evaluating(self.network):
            blocks = encoded_blocks(self.network, data, index, batch_size=batch_size, seed=self.seed)
            parts = [self.network.decode_points(block.latent.z.mean).cpu().float().numpy() for block in blocks]
        values = np.concatenate(parts)
        if return_numpy:
            return values
        names = np.asarray(data.cell_names)[index]
        return pd.DataFrame(values, index=names, columns=np.asarray(self.schema.genes))

    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        per_cell: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Return the mean squared error over genes, in squared units of the transform.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        per_cell
            Return the error of each cell instead of their mean.
        batch_size
            Cells at a time.

        Returns
        -------
        A float, or (cells,) float64.
        """
        data, index = self._asked(adata, indices)
        errors = []
        with evaluating(self.network):
            for block in encoded_blocks(self.network, data, index, batch_size=batch_size, seed=self.seed):
                distance = self.network.input(block.batch) - self.network.decode_points(block.latent.z.mean)
                errors.append(distance.double().square().mean(1).cpu().numpy())
        values = np.concatenate(errors)
        return values if per_cell else float(values.mean())

    def decode(self, z: npt.ArrayLike) -> Floats:
        """Return what points of the latent space decode to, in the units of the transform.

        Parameters
        ----------
        z
            Codes; (points, latent). Any will be decoded, those far from every cell's too.

        Returns
        -------
        (points, genes) float32.
        """
        self._trained()
        with evaluating(self.network):
            values: Tensor = self.network.decode_points(points_of(z, self.network, self.config.n_latent))
        decoded: Floats = values.cpu().float().numpy()
        return decoded


_LINEAR_STEPS, _LINEAR_CELLS = 700, 256


def points_of(z: npt.ArrayLike, network: nn.Module, n_latent: int) -> Tensor:
    """Return points of a latent space as a tensor for the network, (points, latent), or raise an `InputError`."""
    array = np.asarray(z)
    if array.ndim != 2 or array.shape[1] != n_latent or not np.issubdtype(array.dtype, np.number):
        raise InputError(
            f"must be numbers of shape (points, {n_latent})", where="z", value=f"shape {array.shape}, {array.dtype}",
            fix=f"The latent space has {n_latent} dimensions.",
        )  # fmt: skip
    if not np.isfinite(array).all():
        raise InputError("holds values that are not finite", where="z")
    device, dtype = place_of(network)  # type: ignore[arg-type]
    return torch.as_tensor(array, device=device, dtype=dtype)
