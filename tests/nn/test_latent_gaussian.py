"""The Gaussian of an encoder's output and its divergence: closed gradients are those of the plain formulas."""

from __future__ import annotations

import torch
from torch.autograd import gradcheck

from celbo.nn.latent import GaussianPosterior


def _head() -> torch.Tensor:
    return (3 * torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).requires_grad_()


def test_gradient_of_mean_and_scale_is_the_numeric_one():
    def both(head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q = GaussianPosterior.from_head(head, variance_floor=1e-4)
        return q.mean, q.scale

    assert gradcheck(both, (_head(),))


def test_gradient_of_the_divergence_is_the_numeric_one():
    assert gradcheck(lambda head: GaussianPosterior.from_head(head, variance_floor=0.1).kl_to(0.0, 1.0), (_head(),))


def test_the_variance_has_its_floor():
    q = GaussianPosterior.from_head(torch.full((1, 2), -200.0), variance_floor=1e-4)
    torch.testing.assert_close(q.scale, torch.tensor([[1e-2]]))


def test_divergence_from_the_standard_normal_is_that_of_the_general_formula():
    q = GaussianPosterior.from_head(_head().detach(), variance_floor=1e-4)
    zero, one = torch.zeros(8 // 2, dtype=torch.float64), torch.ones(8 // 2, dtype=torch.float64)
    torch.testing.assert_close(q.kl_to(0.0, 1.0), q.kl_to(zero, one))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.scale), torch.distributions.Normal(zero, one)
    )
    torch.testing.assert_close(q.kl_to(0.0, 1.0), exact.sum(-1))
