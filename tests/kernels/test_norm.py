"""Batch norm, ReLU and dropout in one pass: value, gradient and running moments of torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import batch_norm

from celbo.kernels.cpu_norm import Running, batch_norm_relu, random_mask
from celbo.nn.layers import CovariateSizes, HiddenStack, StackConfig


def _case(cells: int, units: int, dropped: bool) -> list[torch.Tensor | None]:
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (5 + torch.randn(cells, units, generator=g), torch.randn(units, generator=g), torch.rand(units))
    mask = torch.empty(cells, units).bernoulli_(0.7, generator=g) / 0.7 if dropped else None
    return [x, weight, bias, mask]


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(("cells", "units"), [(128, 128), (2, 5), (33, 1)])
def test_value_and_gradient_are_those_of_torch_in_float64(cells, units, dropped):
    *inputs, mask = _case(cells, units, dropped)
    inputs = [t.requires_grad_() for t in inputs]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    running = Running(torch.zeros(units), torch.ones(units), 0.1)
    value = batch_norm_relu(*inputs, mask, running, eps=1e-3)
    exact = torch.relu(batch_norm(wide[0], None, None, *wide[1:], training=True, eps=1e-3))
    exact = exact if mask is None else exact * mask.double()
    slope = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    found, right = torch.autograd.grad(value, inputs, slope), torch.autograd.grad(exact, wide, slope.double())
    for ours, theirs in zip((value, *found), (exact, *right), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(running.mean, 0.1 * inputs[0].detach().mean(0))
    torch.testing.assert_close(running.variance, 0.9 + 0.1 * inputs[0].detach().var(0))


def test_a_number_that_is_none_stays_visible():
    x, weight, bias, _ = _case(4, 3, False)
    x[1, 1] = torch.nan
    running = Running(torch.zeros(3), torch.ones(3), 0.1)
    assert batch_norm_relu(x, weight, bias, None, running, eps=1e-3)[:, 1].isnan().all()


@pytest.mark.parametrize("position", ["after", "before"])
def test_stack_in_training_is_the_stack_without_the_kernel(position, monkeypatch):
    torch.manual_seed(0)
    config = StackConfig(n_layers=2, n_hidden=16, dropout_rate=0.2, dropout_position=position)
    fused = HiddenStack(config, CovariateSizes((3,)), first_fan_in=4)
    plain = copy.deepcopy(fused)
    monkeypatch.setattr(plain, "_has_kernel", lambda h: False)
    x, codes = torch.randn(2, 40, 16), torch.randint(3, (40, 1))
    out = [stack(x, codes, torch.Generator().manual_seed(1)) for stack in (fused, plain)]
    torch.testing.assert_close(*out, rtol=1e-5, atol=1e-5)
    for name, buffer in fused.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))


def test_one_cell_is_refused_as_torch_does():
    stack = HiddenStack(StackConfig(n_hidden=4), CovariateSizes(), first_fan_in=4)
    with pytest.raises(ValueError, match="more than 1 value"):
        stack(torch.randn(1, 4), torch.zeros(1, 0, dtype=torch.int64))


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.001, 1.0])
def test_mask_keeps_its_share_and_the_mean(keep):
    mask = random_mask(torch.empty(1000, 1000), keep, torch.Generator().manual_seed(0))
    spread = (keep * (1 - keep) / 1e6) ** 0.5
    assert abs(float((mask > 0).float().mean()) - keep) < 5 * spread + 1e-5
    assert abs(float(mask.double().mean()) - 1) < 5 * spread / keep + 1e-6
    assert mask.unique().numel() == (1 if keep == 1 else 2)


def test_masks_of_rows_columns_and_draws_are_independent():
    g = torch.Generator().manual_seed(0)
    masks = torch.stack([random_mask(torch.empty(400, 400), 0.5, g) for _ in range(3)]) - 1
    n = masks[0].numel()
    pairs = [
        (masks[0], masks[1]),
        (masks[1], masks[2]),
        (masks[:, 1:], masks[:, :-1]),
        (masks[..., 1:], masks[..., :-1]),
    ]
    pairs += [(masks[:, 100 * k :], masks[:, : 400 - 100 * k]) for k in (1, 2, 3)]
    assert all(abs(float((a * b).mean())) < 5 / n**0.5 for a, b in pairs)


def test_mask_is_a_function_of_the_generator():
    one, again, other = (random_mask(torch.empty(7, 3), 0.5, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
