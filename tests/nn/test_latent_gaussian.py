"""The Gaussian of an encoder's head: the one operation on the CPU is the plain formulas, in value and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from celbo.nn.latent import GaussianPosterior


def posterior(dtype: torch.dtype, floor: float) -> tuple[list[torch.Tensor], GaussianPosterior]:
    g = torch.Generator().manual_seed(0)
    h, head = torch.randn(7, 33, generator=g), nn.Linear(33, 8)
    with torch.no_grad():
        head.weight.copy_(torch.randn(8, 33, generator=g) / 4)
        head.bias.copy_(torch.randn(8, generator=g))
    h, head = h.to(dtype).requires_grad_(), copy.deepcopy(head).to(dtype)
    return [h, head.weight, head.bias], GaussianPosterior.from_hidden(h, head, variance_floor=floor)


@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.1])
def test_value_and_gradient_are_those_of_the_plain_formulas_in_float64(floor):
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs, q = posterior(dtype, floor)
        g = torch.Generator().manual_seed(1)
        slopes = [torch.randn(s, generator=g).to(dtype) for s in (q.mean.shape, q.scale.shape, (7,))]
        outputs = [q.mean, q.scale, q.kl_to(0.0, 1.0)]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, slopes)])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradient_of_one_result_alone(which):
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs, q = posterior(dtype, 1e-4)
        one = (q.mean, q.scale, q.kl_to(0.0, 1.0))[which]
        results.append(torch.autograd.grad(one.square().sum(), inputs))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_variance_has_its_floor(dtype):
    head = nn.Linear(1, 2).to(dtype)
    nn.init.constant_(head.bias, -200.0)
    q = GaussianPosterior.from_hidden(torch.zeros(1, 1, dtype=dtype), head, variance_floor=1e-4)
    torch.testing.assert_close(q.scale, torch.tensor([[1e-2]], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_from_the_standard_normal_is_that_of_the_general_formula(dtype):
    _, q = posterior(dtype, 1e-4)
    zero, one = torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype)
    torch.testing.assert_close(q.kl_to(0.0, 1.0), q.kl_to(zero, one))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.scale), torch.distributions.Normal(zero, one)
    )
    torch.testing.assert_close(q.kl_to(0.0, 1.0), exact.sum(-1))


def test_a_number_that_is_none_stays_visible():
    q = GaussianPosterior.from_hidden(torch.full((2, 3), torch.nan), nn.Linear(3, 4), variance_floor=1e-4)
    assert all(t.isnan().all() for t in (q.mean, q.scale, q.kl_to(0.0, 1.0)))
