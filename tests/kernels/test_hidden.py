"""A hidden layer in one pass: value, gradient and running moments of torch's own layers in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import batch_norm

from celbo.data.minibatch import SparseRows
from celbo.kernels.cpu_hidden import Norm, hidden_layer, random_mask
from celbo.nn.layers import CovariateSizes, HiddenStack, SparseLinear, StackConfig, linear


def norm_of(units: int, weight: torch.Tensor, bias: torch.Tensor) -> Norm:
    return Norm(weight, bias, torch.zeros(units), torch.ones(units), 0.1, 1e-3)


@pytest.mark.parametrize("keep", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["none", "dense", "counts"])
@pytest.mark.parametrize(("cells", "units"), [(128, 128), (2, 5), (33, 1)])
def test_value_and_gradient_are_those_of_torch_in_float64(cells, units, kind, keep):
    g = torch.Generator().manual_seed(0)
    n_in = units if kind == "none" else 9
    x = 1 + torch.randn(cells, n_in, generator=g) if kind != "counts" else torch.poisson(torch.ones(cells, n_in), g)
    shape = {"none": (), "dense": (units, n_in), "counts": (n_in, units)}[kind]
    weight, bias, gamma, beta = (torch.randn(s, generator=g) for s in (shape, (units,), (units,), (units,)))
    tables = [torch.randn(n, units, generator=g) for n in (3, 2)]
    codes = [torch.randint(n, (cells,), generator=g) for n in (3, 2)]
    inputs = [x] * (kind != "counts") + [weight, bias] * (kind != "none") + [gamma, beta, *tables]
    wide = [t.double().requires_grad_() for t in inputs]
    for t in inputs:
        t.requires_grad_()
    norm, rows = norm_of(units, gamma, beta), SparseRows.from_dense(x.detach())
    source = (rows.indptr, rows.indices, rows.values) if kind == "counts" else x
    linear_map, shifts = None if kind == "none" else (weight, bias), list(zip(tables, codes, strict=True))
    value = hidden_layer(source, linear_map, shifts, norm, keep=keep, generator=torch.Generator().manual_seed(3))
    mask = random_mask(value, keep, torch.Generator().manual_seed(3)).double() if keep < 1 else 1

    *first, gamma64, beta64, one, two = wide
    y = first[0] if kind == "none" else None
    y = first[0] @ first[1].T + first[2] if kind == "dense" else y
    y = torch.log1p(x.double()) @ first[0] + first[1] if kind == "counts" else y
    y = y + one[codes[0]] + two[codes[1]]
    exact = torch.relu(batch_norm(y, None, None, gamma64, beta64, training=True, eps=1e-3)) * mask
    slope = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    found, right = torch.autograd.grad(value, inputs, slope), torch.autograd.grad(exact, wide, slope.double())
    for ours, theirs in zip((value, *found), (exact, *right), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_mean, 0.1 * y.detach().float().mean(0))
    torch.testing.assert_close(norm.running_variance, 0.9 + 0.1 * y.detach().float().var(0), rtol=1e-4, atol=1e-6)


def test_codes_of_cells_serve_several_samples():
    x, table, codes = torch.randn(6, 4), torch.randn(2, 4), torch.tensor([0, 1, 1])
    args = torch.ones(4), torch.zeros(4)
    value = hidden_layer(x, None, [(table, codes)], norm_of(4, *args))
    again = hidden_layer(x, None, [(table, codes.repeat(2))], norm_of(4, *args))
    assert torch.equal(value, again)
    assert torch.equal(value, hidden_layer(x + table[codes.repeat(2)], None, [], norm_of(4, *args)))


def test_a_number_that_is_none_stays_visible():
    x = torch.randn(4, 3)
    x[1, 1] = torch.nan
    assert hidden_layer(x, None, [], norm_of(3, torch.ones(3), torch.zeros(3)))[:, 1].isnan().all()


@pytest.mark.parametrize("first", ["counts", "dense", "wide", "outside"])
@pytest.mark.parametrize("position", ["after", "before"])
def test_stack_in_training_is_the_stack_without_the_kernel(position, first, monkeypatch):
    torch.manual_seed(0)
    config = StackConfig(n_layers=2, n_hidden=16, dropout_rate=0.2, dropout_position=position)
    fused = HiddenStack(config, CovariateSizes((3,)), first_fan_in=4, generator=torch.Generator().manual_seed(0))
    fused.first = {"outside": None, "counts": SparseLinear(70, 16, fan_in=70, generator=torch.Generator())}.get(first)
    if first in ("dense", "wide"):
        fused.first = linear(9 if first == "dense" else 70, 16, fan_in=9, generator=torch.Generator())
    plain = copy.deepcopy(fused)
    monkeypatch.setattr(plain, "_has_kernel", lambda h: False)
    x = {"outside": torch.randn(2, 40, 16), "dense": torch.randn(2, 40, 9), "wide": torch.randn(2, 40, 70)}.get(first)
    if x is None:
        x = SparseRows.from_dense(torch.poisson(torch.full((40, 70), 0.1)))
    codes = torch.randint(3, (40, 1))
    out = [stack(x, codes, torch.Generator().manual_seed(1), first=stack.first) for stack in (fused, plain)]
    torch.testing.assert_close(*out, rtol=1e-5, atol=1e-5)
    for name, buffer in fused.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))


def test_one_cell_is_refused_as_torch_does():
    stack = HiddenStack(
        StackConfig(n_hidden=4), CovariateSizes(), first_fan_in=4, generator=torch.Generator().manual_seed(0)
    )
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
