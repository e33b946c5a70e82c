"""The variational posterior of a minibatch: what an encoder returns.

q(z | x) is Normal(mean, diag(scale ** 2)) for each cell, a mixture of such, or a point where the encoder is
deterministic; q(log l | x) is normal where the library size l is latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from celbo.errors import OptionError
from celbo.kernels import cpu_kernels_take

__all__ = ["GaussianPosterior", "Latent", "MixturePosterior", "PointPosterior", "Posterior"]

_FEW_CELLS = 1024
"""Cells up to which one thread in one call beats torch's several of them."""
_TINY = 2.0**-24
"""Half the step of float32's uniform numbers: keeps their logarithms finite."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Posterior(Protocol):
    """What can be asked of q(z | x) of some cells."""

    @property
    def mean(self) -> Tensor:
        """Mean; (cells, D)."""

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate; (cells, D)."""

    def sample(self, n_samples: int, generator: torch.Generator | None) -> Tensor:
        """Return draws; (n_samples, cells, D)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density in nats; value (..., cells, D), the result (..., cells)."""

    def take(self, index: Tensor) -> Posterior:
        """Return the distributions of some of the cells, in the order of their positions `index`."""


@dataclass(frozen=True)
class GaussianPosterior:
    """A normal distribution with a diagonal covariance for each cell.

    Coordinates are the last axis: the latent state has shape (cells, latent), the log library size (cells, 1).
    """

    mean: Tensor
    """Mean of each coordinate; (cells, D)."""
    scale: Tensor
    """Standard deviation of each coordinate, positive; (cells, D)."""

    _kl_to_standard: Tensor | None = None
    """The divergence to the standard normal where it was made along; (cells,)."""

    @classmethod
    def from_hidden(cls, h: Tensor, head: nn.Linear, *, variance_floor: float) -> GaussianPosterior:
        """Return the distribution that `head` makes of the last hidden state, (cells, hidden).

        Its output, (cells, 2 D), is the means, then the log variances: the variance is `exp(.) + variance_floor`.
        """
        if h.shape[0] <= _FEW_CELLS and cpu_kernels_take(h, head.weight):
            from celbo.kernels.cpu_latent import gaussian_head

            return cls(*gaussian_head(h, head.weight, head.bias, variance_floor))
        mean, log_variance = head(h).chunk(2, dim=-1)
        return cls(mean, (log_variance.exp() + variance_floor).sqrt())

    @classmethod
    def standard(cls, like: Tensor, n_latent: int) -> GaussianPosterior:
        """Return N(0, I) for each cell, (cells, n_latent), in the dtype and on the device of `like` (cells,)."""
        mean = like.new_zeros(like.shape[0], n_latent)
        return cls(mean, torch.ones_like(mean))

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate; (cells, D)."""
        return self.scale.square()

    def sample(self, n_samples: int, generator: torch.Generator | None) -> Tensor:
        """Return reparameterised draws, differentiable in mean and scale; (n_samples, cells, D).

        The noise is drawn in float32 whatever the precision, so that two precisions can share it.
        """
        noise = torch.randn((n_samples, *self.mean.shape), generator=generator, device=self.mean.device)
        return torch.addcmul(self.mean, self.scale, noise.to(self.mean.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density in nats, summed over coordinates; value (..., cells, D), the result (..., cells)."""
        standard = (value - self.mean) / self.scale
        return (-0.5 * standard.square() - self.scale.log() - _HALF_LOG_2PI).sum(-1)

    def kl_to(self, mean: Tensor | float, scale: Tensor | float) -> Tensor:
        """Return the divergence to Normal(mean, scale ** 2) in nats, summed over coordinates; (cells,)."""
        standard = isinstance(mean, float) and isinstance(scale, float) and (mean, scale) == (0.0, 1.0)
        if standard and self._kl_to_standard is not None:
            return self._kl_to_standard
        ratio = self.scale / scale
        shift = (self.mean - mean) / scale
        return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)

    def take(self, index: Tensor) -> GaussianPosterior:
        """Return the distributions of some of the cells, in the order of their positions `index`."""
        return GaussianPosterior(self.mean[index], self.scale[index])


@dataclass(frozen=True)
class PointPosterior:
    """All mass in one point for each cell: the code of a deterministic autoencoder, which has no density."""

    mean: Tensor
    """The code; (cells, D)."""

    @property
    def variance(self) -> Tensor:
        """Zeros; (cells, D)."""
        return torch.zeros_like(self.mean)

    def sample(self, n_samples: int, generator: torch.Generator | None) -> Tensor:
        """Return the code as often as asked; (n_samples, cells, D)."""
        return self.mean.expand(n_samples, *self.mean.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise: a point has no density."""
        raise OptionError(
            "has no density, so there is no evidence to compute", where="the code of a deterministic autoencoder",
            fix="Use a variational model, or get_reconstruction_error.",
        )  # fmt: skip

    def take(self, index: Tensor) -> PointPosterior:
        """Return the codes of some of the cells, in the order of their positions `index`."""
        return PointPosterior(self.mean[index])


@dataclass(frozen=True)
class MixturePosterior:
    """A mixture of diagonal normal distributions for each cell: q(z | x) = sum_y q(y | x) q(z | x, y)."""

    log_weight: Tensor
    """log q(y | x); (cells, K)."""
    components: GaussianPosterior
    """q(z | x, y), with means and scales of shape (K, cells, D)."""

    @property
    def weight(self) -> Tensor:
        """q(y | x); (cells, K)."""
        return self.log_weight.exp()

    @property
    def mean(self) -> Tensor:
        """Mean over the components; (cells, D)."""
        return torch.einsum("nk,knd->nd", self.weight, self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, within and between components; (cells, D)."""
        within = torch.einsum("nk,knd->nd", self.weight, self.components.variance)
        return within + torch.einsum("nk,knd->nd", self.weight, (self.components.mean - self.mean).square())

    def sample(self, n_samples: int, generator: torch.Generator | None) -> Tensor:
        """Return draws of a component and then of z, (n_samples, cells, D); without a gradient for the weights."""
        noise = torch.rand((n_samples, *self.log_weight.shape), generator=generator, device=self.log_weight.device)
        gumbel = -(-noise.clamp(_TINY, 1 - _TINY).log()).log()
        y = (self.log_weight.detach() + gumbel.to(self.log_weight.dtype)).argmax(-1)  # (samples, cells)
        cells = torch.arange(y.shape[1], device=y.device)
        drawn = GaussianPosterior(self.components.mean[y, cells], self.components.scale[y, cells])
        return drawn.sample(1, generator)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density in nats; value (..., cells, D), the result (..., cells)."""
        each = self.components.log_prob(value.unsqueeze(-3))  # (..., K, cells)
        return (each + self.log_weight.T).logsumexp(-2)

    def take(self, index: Tensor) -> MixturePosterior:
        """Return the distributions of some of the cells, in the order of their positions `index`."""
        c = self.components
        return MixturePosterior(self.log_weight[index], GaussianPosterior(c.mean[:, index], c.scale[:, index]))


Z = TypeVar("Z", bound=Posterior)


@dataclass(frozen=True)
class Latent(Generic[Z]):
    """The posterior of everything that is latent in a cell."""

    z: Z
    """Of the latent state, before any transform; (cells, latent)."""
    library: GaussianPosterior | None = None
    """Of the log library size; (cells, 1). None where the library size is observed."""

    def take(self, index: Tensor) -> Latent[Any]:
        """Return the posterior of some of the cells, in the order of their positions `index`; repeats are allowed."""
        library = None if self.library is None else self.library.take(index)
        return Latent(self.z.take(index), library)
