"""Optimisers, clipping and penalties against NumPy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from celbo.errors import ModelFileError, OptionError
from celbo.training.optim import Adam, Optimizer, TensorFlowRMSprop, clip_gradients, make_optimizer, make_penalty
from celbo.training.plan import TrainConfig


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))


def take_steps(net: nn.Module, optimizer: Optimizer | torch.optim.Optimizer, n: int) -> None:
    for i in range(n):
        optimizer.zero_grad()
        net(torch.full((4, 3), 0.1 * (i + 1))).square().sum().backward()
        optimizer.step(0.01) if isinstance(optimizer, Optimizer) else optimizer.step()


def test_rmsprop_is_that_of_tensorflow_1() -> None:
    rng = np.random.default_rng(0)
    weight, mean_square = rng.normal(size=5), np.ones(5)
    parameter = torch.tensor(weight, requires_grad=True)
    optimizer = TensorFlowRMSprop({"w": parameter})
    for _ in range(20):
        gradient = rng.normal(size=5)
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        weight = weight - 0.01 * gradient / np.sqrt(mean_square + 1e-10)
        parameter.grad = torch.tensor(gradient)
        optimizer.step(0.01)
    np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-12)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_a_parameter_without_gradient_stays(name: str) -> None:
    net = network()
    before = net[1].weight.clone()
    optimizer = make_optimizer(TrainConfig(optimizer=name, weight_decay=0.1), net)
    net[0](torch.ones(1, 3)).sum().backward()
    optimizer.step(0.1)
    assert torch.equal(net[1].weight, before) and "1.weight" not in {key.split("/")[0] for key in optimizer.state()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_is_that_of_torch(name: str, dtype: torch.dtype) -> None:
    plan = TrainConfig(optimizer=name, adam_eps=0.01, weight_decay=0.1)
    torch.set_default_dtype(dtype)
    try:
        ours, theirs = network(), network()
        take_steps(ours, make_optimizer(plan, ours), 5)
        if name == "adam":
            of_torch = torch.optim.Adam(theirs.parameters(), lr=0.01, eps=0.01, weight_decay=0.1)
        else:  # the weights of layers decay, and nothing else
            weights = [p for p in theirs.parameters() if p.dim() == 2]
            others = {"params": [p for p in theirs.parameters() if p.dim() != 2], "weight_decay": 0.0}
            of_torch = torch.optim.AdamW([{"params": weights}, others], lr=0.01, eps=0.01, weight_decay=0.1)
        take_steps(theirs, of_torch, 5)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_a_state_put_back_goes_on_to_the_same_bits(name: str) -> None:
    plan = TrainConfig(optimizer=name)
    straight, broken = network(), network()
    one, first, second = (make_optimizer(plan, net) for net in (straight, broken, broken))
    take_steps(straight, one, 3)
    take_steps(broken, first, 3)
    second.load(first.state())
    take_steps(straight, one, 2)
    take_steps(broken, second, 2)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), broken.parameters(), strict=True))


def test_norms_are_those_of_the_gradients_before_the_step() -> None:
    for dtype in (torch.float32, torch.float64):  # by the kernel, and without
        net = network().to(dtype)
        optimizer = make_optimizer(TrainConfig(weight_decay=0.3), net)
        net(torch.ones(4, 3, dtype=dtype)).square().sum().backward()
        expected = [p.grad.norm().item() for p in net.parameters()]
        np.testing.assert_allclose(optimizer.step(0.1).tolist(), expected, rtol=1e-6)


def test_steps_are_the_same_to_the_bit_on_one_and_two_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            parameter = torch.linspace(-1, 1, 100_003).requires_grad_()
            optimizer = Adam({"weight": parameter}, weight_decay=0.1, decayed=["weight"])
            for i in range(3):
                parameter.grad = torch.sin(parameter.detach() * (i + 1))
                norms = optimizer.step(0.01)
            results.append((parameter.detach(), norms))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_a_state_is_a_copy() -> None:
    net = network()
    optimizer = make_optimizer(TrainConfig(), net)
    take_steps(net, optimizer, 1)
    kept = optimizer.state()
    before = {name: value.clone() for name, value in kept.items()}
    take_steps(net, optimizer, 1)
    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_training_does_not_import_the_compiler_of_torch() -> None:
    code = """
import sys, torch
from celbo.training.optim import make_optimizer
from celbo.training.plan import TrainConfig
net = torch.nn.Linear(2, 1)
optimizer = make_optimizer(TrainConfig(), net)
net(torch.ones(1, 2)).sum().backward()
optimizer.step(0.1)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_frozen_parameters_stay() -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    take_steps(net, make_optimizer(TrainConfig(), net), 2)
    assert torch.equal(net[0].weight, before)


def test_a_network_that_is_all_frozen_is_refused() -> None:
    with pytest.raises(OptionError, match="no parameter to train"):
        make_optimizer(TrainConfig(), network().requires_grad_(False))


@pytest.mark.parametrize("wrong", ["nowhere/exp_avg", "0.weight/mean_square", "exp_avg"])
def test_a_state_of_another_optimiser_is_refused(wrong: str) -> None:
    net = network()
    optimizer = make_optimizer(TrainConfig(), net)
    take_steps(net, optimizer, 1)
    with pytest.raises(ModelFileError, match=wrong):
        optimizer.load(optimizer.state() | {wrong: torch.zeros(2, 3)})


def gradients() -> list[torch.Tensor]:
    return [torch.tensor([3.0, -4.0]), torch.tensor([12.0])]


def norms(grads: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(torch._foreach_norm(grads))


def test_clip_by_norm_scales_the_whole_gradient() -> None:
    grads = gradients()  # norm 13
    clip_gradients(TrainConfig(clip_norm=6.5), grads, norms(grads))
    torch.testing.assert_close(torch.cat(grads), torch.tensor([1.5, -2.0, 6.0]))


def test_clip_by_norm_leaves_a_short_gradient() -> None:
    grads = gradients()
    clip_gradients(TrainConfig(clip_norm=14.0), grads, norms(grads))
    assert torch.equal(torch.cat(grads), torch.cat(gradients()))


def test_clip_by_value_bounds_each_entry() -> None:
    grads = gradients()
    clip_gradients(TrainConfig(clip_value=3.5), grads, norms(grads))
    assert torch.equal(torch.cat(grads), torch.tensor([3.0, -3.5, 3.5]))


def test_clip_by_both_takes_the_norm_after_the_values() -> None:
    grads = gradients()
    clip_gradients(TrainConfig(clip_value=3.0, clip_norm=1.0), grads, norms(grads))
    torch.testing.assert_close(torch.cat(grads), torch.tensor([1.0, -1.0, 1.0]) / 3**0.5)


def test_penalties_are_sums_over_the_named_parameters() -> None:
    net = network()
    penalty = make_penalty(TrainConfig(l1=(("0.*", 0.5),), l2=(("1.weight", 2.0),)), net)
    expected = 0.5 * (net[0].weight.abs().sum() + net[0].bias.abs().sum()) + 2.0 * net[1].weight.square().sum()
    torch.testing.assert_close(penalty(), expected)


def test_no_penalty_is_none() -> None:
    assert make_penalty(TrainConfig(), network()) is None


def test_a_penalty_that_fits_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="'decoder\\*' matches no parameter"):
        make_penalty(TrainConfig(l2=(("decoder*", 1.0),)), network())
