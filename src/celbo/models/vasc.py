"""VASC: a variational autoencoder of scaled log counts with a layer of drop-outs (Wang & Gu 2018,
doi:10.1016/j.gpb.2018.08.003).

    x_ng = log2(1 + count) over the largest of the cell, in [0, 1]
    z_n ~ Normal(0, I)
    a_n = f(z_n),  v_ng = sigmoid(a_ng)                    expression before drop-out
    p_ng = exp(-v_ng ^ 2)                                  probability that it drops out
    s_ng = sigmoid((log((1 - p) / p) + L) / tau)           kept share: Gumbel softmax at temperature tau
    y_ng = v_ng s_ng                                       L ~ Logistic(0, 1), the difference of two Gumbels
    loss = sum_g -x log y - (1 - x) log(1 - y) + KL(q(z | x) || p(z))

The encoder drops half of its input; its first layer is linear, with an L1 penalty on its weights (of the plan).

The loss is no bound on an evidence: the cross entropy of values between 0 and 1 is no log-density, and the depth of a
cell is lost in x. So there is no likelihood, the history has an `objective` and no ELBO, and no counts are denoised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch, SparseRows
from celbo.data.schema import Schema
from celbo.models.base import Model
from celbo.models.options import Indices
from celbo.nn.latent import GaussianPosterior, Latent
from celbo.nn.layers import Dropout, GeneLinear, SparseLinear, torch_linear
from celbo.nn.mlp import MLP
from celbo.nn.transforms import InputTransform
from celbo.training.plan import Loss, StepState, TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["VASC", "VASCConfig", "VASCNetwork", "dropout_cross_entropy"]


@dataclass(frozen=True, kw_only=True)
class VASCConfig:
    """What a VASC network is made of."""

    n_latent: int = 2
    """Dimensions of the latent space."""
    encoder_widths: tuple[int, ...] = (512, 128, 32)
    """Units of the encoder's layers: the first is linear, the others are rectified."""
    decoder_widths: tuple[int, ...] = (32, 128, 512)
    """Units of the decoder's rectified layers."""
    dropout_rate: float = 0.5
    """Dropout of the input."""
    variance: Literal["learned", "constant", "floor"] = "learned"
    """Variance of q(z | x): learned freely, the constant e, or exp(softplus(.)), which cannot fall below 1."""
    temperature: float = 0.5
    """Temperature tau of the Gumbel softmax. At 0.5, where the paper's annealing ends, cell types separate better than
    at its 1: the kept share is nearer to 0 or 1, as drop-outs are."""
    annealing: bool = False
    """Whether every 100 epochs the temperature is set to exp(-0.0003 epoch) of its start, or to 0.5 if that is more."""
    noisy_prediction: bool = False
    """Whether dropouts are also drawn outside training; otherwise their expectation p is used."""

    limits: ClassVar[dict[str, Any]] = {
        "temperature": (lambda v: not isinstance(v, bool) and 0 < v < math.inf, "a finite number above 0"),
        "encoder_widths": (
            lambda v: isinstance(v, tuple) and len(v) > 0 and all(_is_size(w) for w in v),
            "a tuple of positive whole numbers, at least one",
        ),
    }

    @classmethod
    def paper(cls, *, variance: Literal["constant", "floor"] = "constant") -> VASCConfig:
        """Return the network as its authors' code has it (wang-research/VASC f17ad2d); train it by `VASC.paper_plan`.

        What is faulty there: the variance of q(z | x) is the constant e, larger than the prior's ("constant", its
        `var=False`), or has a floor of 1 ("floor", its `var=True`, which works for two dimensions only), so that no
        cell can be placed with precision; and drop-outs are drawn at prediction too.
        """
        return cls(variance=variance, temperature=1.0, noisy_prediction=True)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class VASCNetwork(nn.Module):
    """The equations of the module's docstring; one minibatch in, the terms of the loss out."""

    temperature: Tensor

    def __init__(self, config: VASCConfig, schema: Schema, generator: Generator) -> None:
        super().__init__()
        self.config = config
        first, *further = config.encoder_widths
        self.transform = InputTransform("log2-max", schema.n_genes)
        self.dropout = Dropout(config.dropout_rate)
        self.first = SparseLinear(schema.n_genes, first, fan_in=schema.n_genes, generator=generator)
        self.encoder = MLP(first, tuple(further), generator=generator)
        n_head = config.n_latent * (1 if config.variance == "constant" else 2)
        self.head = torch_linear(self.encoder.n_out, n_head, generator=generator)
        self.decoder = MLP(config.n_latent, config.decoder_widths, generator=generator)
        width = self.decoder.n_out
        self.output = GeneLinear(width, schema.n_genes, fan_in=width, generator=generator)
        self.register_buffer("temperature", torch.tensor(float(config.temperature)))  # of the epoch that is trained
        for name, parameter in self.named_parameters():  # as Keras starts
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def prepare(self, data: CellData, train: np.ndarray) -> None:
        """Do nothing: the transform looks at one cell at a time."""

    def encode(self, batch: Minibatch, generator: Generator | None = None) -> Latent[GaussianPosterior]:
        """q(z | x)."""
        return Latent(self._posterior(self.transform(batch), batch.rows, generator))

    def _posterior(self, x: Tensor, rows: SparseRows, generator: Generator | None) -> GaussianPosterior:
        stored = self.dropout(x[rows.row_of, rows.indices], generator)
        # the first layer takes log1p of what it is given
        h = self.encoder(self.first(SparseRows(rows.indptr, rows.indices, stored.expm1(), rows.n_genes)))
        if self.config.variance == "learned":
            return GaussianPosterior.from_hidden(h, self.head, variance_floor=0.0)
        if self.config.variance == "constant":
            mean = self.head(h)
            return GaussianPosterior(mean, torch.full_like(mean, math.exp(0.5)))
        mean, raw = self.head(h).chunk(2, dim=-1)
        return GaussianPosterior(mean, (0.5 * nn.functional.softplus(raw)).exp())

    def sample_latent(
        self,
        latent: Latent[GaussianPosterior],
        batch: Minibatch,
        n_samples: int = 1,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw z (samples, cells, latent); beside it the log library size (1, cells), which nothing here needs."""
        return latent.z.sample(n_samples, generator), batch.library.log()[None]

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return the state that the decoder sees: z."""
        return z

    def logits(self, z: Tensor) -> Tensor:
        """Return a, (..., genes), for z (..., latent)."""
        a: Tensor = self.output(self.decoder(z))
        return a

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Cross entropy and divergence of one draw of z, and in training of one draw of the drop-outs."""
        if step.training:
            self.temperature.fill_(self.temperature_at(step.epoch))
        x = self.transform(batch)
        q = self._posterior(x, batch.rows, step.generator)
        logits = self.logits(q.sample(1, step.generator)[0])
        noise = self._noise(logits, step.generator) if step.training or self.config.noisy_prediction else None
        loss = dropout_cross_entropy(x, logits, noise=noise, temperature=float(self.temperature))
        return Loss(loss, {"z": q.kl_to(0.0, 1.0)}, is_bound=False)

    def reconstruct(self, z: Tensor, generator: Generator | None) -> Tensor:
        """Return y, (cells, genes), for z (cells, latent): with expected drop-outs, or drawn ones as configured."""
        v = self.logits(z).sigmoid()
        noise = self._noise(v, generator) if self.config.noisy_prediction else None
        return v * _shares(v, noise, float(self.temperature))[0]

    def temperature_at(self, epoch: int) -> float:
        """Return the temperature of an epoch from 0."""
        start = self.config.temperature
        if not self.config.annealing:
            return start
        return max(start * math.exp(-_ANNEALING_RATE * (epoch // _ANNEALING_EVERY) * _ANNEALING_EVERY), _COLDEST)

    def _noise(self, logits: Tensor, generator: Generator | None) -> Tensor:
        return torch.rand(logits.shape, generator=generator, device=logits.device).to(logits.dtype)


_ANNEALING_RATE, _ANNEALING_EVERY, _COLDEST = 3e-4, 100, 0.5
_TINY = 1e-30
_BELOW_ONE = 1 - 2**-24


def dropout_cross_entropy(x: Tensor, logits: Tensor, *, noise: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Return the cross entropy of the values and of what is left after drop-out, summed over genes, (cells,) in nats.

    Parameters
    ----------
    x
        Values in [0, 1], (cells, genes).
    logits
        a, the logit of the expression before drop-out, (cells, genes).
    noise
        Uniform numbers in [0, 1) whose logits are L, (cells, genes). None takes the probability of being kept, 1 - p,
        for the kept share, whatever the temperature.
    temperature
        tau.
    """
    loss: Tensor = _CrossEntropy.apply(logits, x, noise, temperature)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Value and gradient together: 1 - y = sigmoid(-a) + v d, of a dropped share d = 1 - s, never cancels."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor, noise: Tensor | None, temperature: float) -> Tensor:
        v, rest = logits.sigmoid(), (-logits).sigmoid()
        kept, dropped = _shares(v, noise, temperature)
        beside = torch.addcmul(rest, v, dropped).clamp_min_(_TINY)  # 1 - y
        left = (v * kept).clamp_min_(_TINY)  # y
        if ctx.needs_input_grad[0]:
            # dy/da = y sigmoid(-a) (1 + d dlog(odds)/dlog(v) / tau),  dlog(odds)/dlog(v) = 2 v^2 / (1 - p)
            square = v.square()
            growth = 2 * square / (-torch.expm1(-square)).clamp_min_(_TINY)
            slope = torch.addcmul(
                torch.ones_like(v), dropped, growth, value=1 / (temperature if noise is not None else 1)
            )
            ctx.save_for_backward((left - x) / beside * rest * slope)
        return -(torch.xlogy(x, left) + (1 - x) * beside.log()).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (by_logits,) = ctx.saved_tensors
        return grad[:, None] * by_logits, None, None, None


def _shares(v: Tensor, noise: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the kept share s and the dropped one 1 - s, each without cancelling.

    With noise, s / (1 - s) = odds^(1 / tau); without, they are 1 - p and p = exp(-v^2).
    """
    square = v.square()
    if noise is None:
        return -torch.expm1(-square), torch.exp(-square)
    odds = torch.expm1(square) * (noise / (1 - noise.clamp_max(_BELOW_ONE)))
    odds = odds if temperature == 1 else odds.pow(1 / temperature)
    return 1 / (1 + 1 / odds), 1 / (1 + odds)


class VASC(Model[VASCConfig]):
    """A variational autoencoder that models drop-outs; the module's docstring has its equations.

    The options of `VASCConfig` are keyword arguments too. The latent representation is the mean of q(z | x). Batches
    are not corrected for.

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
    >>> model = celbo.VASC(adata)
    >>> model.train()
    >>> adata.obsm["X_vasc"] = model.get_latent_representation()
    """

    config_class = VASCConfig
    network_class = VASCNetwork

    @classmethod
    def paper_plan(cls, *, n_cells: int) -> TrainConfig:
        """Return the plan of the authors' code (wang-research/VASC f17ad2d): thousands of epochs.

        RMSprop 1e-3 as Keras has it, minibatches of 32 (256 for more than 150 cells, as their demo), all cells, L1 of
        0.01 on the first layer, up to 5,000 epochs. It stops when the training loss has not fallen by 1 in 50 epochs,
        not before epoch 500. There it is compared every 50 epochs only, and any rise stops it as well.

        Parameters
        ----------
        n_cells
            Cells to train on.
        """
        return TrainConfig(
            max_epochs=5_000,
            batch_size=256 if n_cells > 150 else 32,
            optimizer="keras-rmsprop",
            learning_rate=1e-3,
            weight_decay=0.0,
            l1=((_FIRST, 0.01),),
            schedule="constant",
            kl_warmup=450,  # of no term: it only says how many epochs early stopping does not count
            kl_warmup_terms=(),
            early_stopping=True,
            stop_on="train",
            patience=50,
            min_delta=1.0,
            restore_best=False,
            train_size=1.0,
        )

    def default_plan(self) -> TrainConfig:
        """Return the plan that `train` follows where none is given: some 1,500 steps with a falling learning rate.

        The divergence comes in slowly, or one of two dimensions is often lost. The L1 penalty is a tenth of the
        paper's, which is meant for thousands of epochs and here takes away from what the map tells.
        """
        steps_an_epoch = math.ceil(0.9 * self._own_data().n_cells / _BATCH)
        return TrainConfig(
            max_epochs=min(max(math.ceil(_STEPS / steps_an_epoch), 10), 100),
            batch_size=_BATCH,
            optimizer="adam",
            learning_rate=3e-3,
            weight_decay=0.0,
            l1=((_FIRST, 0.001),),
            kl_warmup=0.9,
            early_stopping=False,
            restore_best=False,
        )

    def get_reconstruction(
        self, adata: AnnData | None = None, *, indices: Indices = None, seed: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return what the decoder makes of the latent mean of each cell: y, on the scale of x, not of counts.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        seed
            Seed of the drop-outs where `noisy_prediction` draws them; None is the model's.

        Returns
        -------
        (cells, genes) float32 in [0, 1].
        """
        from celbo.posterior.stream import encoded_blocks, evaluating

        data, index = self._asked(adata, indices)
        network: Any = self.network
        out = np.empty((len(index), data.n_genes), np.float32)
        seed = self.seed if seed is None else seed
        with evaluating(network):
            for block in encoded_blocks(network, data, index, batch_size=None, seed=seed):
                y = network.reconstruct(block.latent.z.mean, block.generator)
                out[block.start : block.stop] = y.to("cpu", torch.float32).numpy()
        return out


_FIRST = "first.weight"
_BATCH, _STEPS = 64, 1_500
