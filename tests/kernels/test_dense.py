"""Dense products: value and gradient of torch's own, whichever route a layer takes."""

from __future__ import annotations

import pytest
import torch

from celbo.kernels.cpu_dense import affine, has_affine
from celbo.nn.layers import GeneLinear


def _case(*shape: int, n_out: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=g), torch.randn(shape[-1], n_out, generator=g)
    return x, weight, torch.randn(n_out, generator=g)


@pytest.mark.parametrize("shape", [(128, 64), (1, 128, 64), (3, 50, 64)])
def test_value_and_gradient_are_those_of_the_product_in_float64(shape):
    inputs = [t.requires_grad_() for t in _case(*shape, n_out=600)]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    if not has_affine(*inputs[:2]):
        pytest.skip("this build of torch has no oneDNN")
    value, exact = affine(inputs[0], inputs[1:])[0], wide[0] @ wide[1] + wide[2]
    slope = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    found, right = torch.autograd.grad(value, inputs, slope), torch.autograd.grad(exact, wide, slope.double())
    for ours, theirs in zip((value, *found), (exact, *right), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)


def test_several_maps_are_each_of_them():
    x, weight, bias = (t.requires_grad_() for t in _case(128, 64, n_out=600))
    other, shift = (t.requires_grad_() for t in _case(128, 64, n_out=500)[1:])
    if not has_affine(x, weight):
        pytest.skip("this build of torch has no oneDNN")
    inputs, slopes = (x, weight, bias, other, shift), (torch.randn(128, 600), torch.randn(128, 500))
    both = affine(x, (weight, bias), (other, shift))
    each = affine(x, (weight, bias)) + affine(x, (other, shift))
    assert all(torch.equal(a, b) for a, b in zip(both, each, strict=True))
    for a, b in zip(*(torch.autograd.grad(y, inputs, slopes) for y in (both, each)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    frozen = affine(x.detach(), (weight.detach(), bias), (other, shift.detach()))
    assert len(torch.autograd.grad(frozen, (bias, other), slopes)) == 2


def test_same_bits_again():
    x, weight, bias = _case(128, 64, n_out=600)
    assert torch.equal(_layer(weight, bias)(x), _layer(weight, bias)(x))


def test_small_and_float64_products_are_left_to_torch():
    x, weight, _ = _case(2, 64, n_out=600)
    assert not has_affine(x, weight)
    assert not has_affine(*(t.double() for t in _case(128, 64, n_out=600)[:2]))


@pytest.mark.parametrize("shape", [(2, 64), (128, 64), (2, 128, 64)])
def test_the_layer_gives_the_product_of_each_sample(shape):
    x, weight, bias = _case(*shape, n_out=600)
    torch.testing.assert_close(_layer(weight, bias)(x), x @ weight + bias, rtol=1e-5, atol=1e-4)


def _layer(weight: torch.Tensor, bias: torch.Tensor) -> GeneLinear:
    layer = GeneLinear(*weight.shape, fan_in=weight.shape[0], generator=torch.Generator())
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer
