"""The variational posterior of a minibatch: what an encoder returns.

q(z | x) is Normal(mean, diag(scale ** 2)) for each cell, and so is q(log l | x) where the library size l is latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["GaussianPosterior", "Latent"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianPosterior:
    """A normal distribution with a diagonal covariance for each cell.

    Coordinates are the last axis: the latent state has shape (cells, latent), the log library size (cells, 1).
    """

    mean: Tensor
    """Mean of each coordinate; (cells, D)."""
    scale: Tensor
    """Standard deviation of each coordinate, positive; (cells, D)."""

    @classmethod
    def from_head(cls, head: Tensor, *, variance_floor: float) -> GaussianPosterior:
        """Return the distribution of an encoder's last output, (cells, 2 D): means, then log variances.

        The variance is `exp(log variance) + variance_floor`.
        """
        mean, scale = _MeanAndScale.apply(head, variance_floor)  # type: ignore[no-untyped-call]
        return cls(mean, scale)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate; (cells, D)."""
        return self.scale.square()

    def sample(self, n_samples: int, generator: torch.Generator | None) -> Tensor:
        """Return reparameterised draws, differentiable in mean and scale; (n_samples, cells, D).

        The noise is drawn in float32 whatever the precision, so that two precisions can share it.
        """
        noise = torch.randn((n_samples, *self.mean.shape), generator=generator, device=self.mean.device)
        return self.mean + self.scale * noise.to(self.mean.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density in nats, summed over coordinates; value (..., cells, D), the result (..., cells)."""
        standard = (value - self.mean) / self.scale
        return (-0.5 * standard.square() - self.scale.log() - _HALF_LOG_2PI).sum(-1)

    def kl_to(self, mean: Tensor | float, scale: Tensor | float) -> Tensor:
        """Return the divergence to Normal(mean, scale ** 2) in nats, summed over coordinates; (cells,)."""
        if isinstance(mean, float) and isinstance(scale, float) and (mean, scale) == (0.0, 1.0):
            to_standard: Tensor = _KLToStandard.apply(self.mean, self.scale)  # type: ignore[no-untyped-call]
            return to_standard
        ratio = self.scale / scale
        shift = (self.mean - mean) / scale
        return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)

    def take(self, index: Tensor) -> GaussianPosterior:
        """Return the distributions of some of the cells, in the order of their positions `index`."""
        return GaussianPosterior(self.mean[index], self.scale[index])


@dataclass(frozen=True)
class Latent:
    """The posterior of everything that is latent in a cell."""

    z: GaussianPosterior
    """Of the latent state, before any transform; (cells, latent)."""
    library: GaussianPosterior | None = None
    """Of the log library size; (cells, 1). None where the library size is observed."""

    def take(self, index: Tensor) -> Latent:
        """Return the posterior of some of the cells, in the order of their positions `index`; repeats are allowed."""
        library = None if self.library is None else self.library.take(index)
        return Latent(self.z.take(index), library)


# A latent state is small: what its arithmetic costs is the number of operations that autograd records. So the two below
# are one each, with the gradient in closed form.


class _MeanAndScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        mean, log_variance = head.chunk(2, dim=-1)
        variance = log_variance.exp()
        scale = (variance + floor).sqrt_()
        ctx.save_for_backward(variance, scale)
        return mean.clone(), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_scale: Tensor) -> tuple[Tensor, None]:
        variance, scale = ctx.saved_tensors
        return torch.cat([by_mean, (by_scale * variance).div_(scale).mul_(0.5)], -1), None


class _KLToStandard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(mean, scale)
        return torch.addcmul(scale * scale, mean, mean).sub_(1).mul_(0.5).sub_(scale.log()).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return grad * mean, (scale - scale.reciprocal()).mul_(grad)
