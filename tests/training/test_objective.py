"""What is maximised where it is not the ELBO; plateau schedules and the optimisers of older papers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from standin import TinyVAE, make_cells

from celbo.errors import OptionError
from celbo.training.engine import FitResult, fit
from celbo.training.optim import KerasRMSprop, clip_gradients
from celbo.training.plan import Loss, TrainConfig
from celbo.training.schedule import plateau_cuts


def loss(**changes: Any) -> Loss:
    plain = Loss(torch.tensor([1.0, 2.0]), {"z": torch.tensor([0.5, 1.5])}, {"ridge": torch.tensor(0.25)})
    return replace(plain, **changes)


def test_factors_and_weights_multiply_the_terms() -> None:
    both = loss(factors={"z": 3.0, "ridge": 2.0})
    weights = {"z": torch.tensor(0.5), "ridge": torch.tensor(0.1)}
    assert float(both.total(weights)) == pytest.approx(np.mean([1 + 1.5 * 0.5 + 0.05, 2 + 1.5 * 1.5 + 0.05]))
    assert both.total({}).item() == pytest.approx(-both.objective().mean().item())
    torch.testing.assert_close(both.elbo(), torch.tensor([-1.5, -3.5]))  # factors do not touch the bound


def test_schedule_of_a_network_weighs_what_is_minimised_and_not_what_epochs_are_compared_by() -> None:
    plain, scheduled = loss(factors={"z": 3.0}), loss(factors={"z": 3.0}, schedule={"z": 4.0})
    assert scheduled.total({}).item() == pytest.approx(plain.total({}).item() + 3 * 3.0 * 1.0)
    assert scheduled.total({"z": torch.tensor(0.5)}).item() == pytest.approx(plain.total({}).item() + 3.0)
    torch.testing.assert_close(scheduled.objective(), plain.objective())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"extras": {}}, ["elbo"]),
        ({}, ["objective", "elbo"]),
        ({"extras": {}, "factors": {"z": 0.1}}, ["objective", "elbo"]),
        ({"extras": {}, "kl": {}, "is_bound": False}, ["objective"]),
    ],
)
def test_history_tells_the_objective_where_it_is_not_the_elbo(changes: dict, expected: list[str]) -> None:
    def hook(network: Any, batch: Any, step: Any, made: Loss) -> Loss:
        return replace(made, **{"extras": {"size": torch.tensor(2.0)}, **changes})

    history = trained(TrainConfig(max_epochs=2), hook).history
    names = [name for name in ("objective", "elbo") if f"{name}_train" in history]
    assert names == expected
    if "objective" in names:
        terms = history.iloc[-1]
        kl = 0.0 if "kl" in changes else terms["kl_z_validation"] * changes.get("factors", {}).get("z", 1.0)
        size = terms.get("size_validation", 0.0)
        assert terms["objective_validation"] == pytest.approx(-terms["reconstruction_validation"] - kl - size)


def test_the_best_epoch_is_that_of_the_objective() -> None:
    def hook(network: Any, batch: Any, step: Any, made: Loss) -> Loss:
        return replace(made, extras={"time": torch.tensor(100.0 * step.epoch)})

    result = trained(TrainConfig(max_epochs=4), hook)
    assert result.best_epoch == 1 and result.history["elbo_validation"].idxmax() > 1


def test_stop_on_train_looks_at_the_cells_trained_on() -> None:
    def hook(network: Any, batch: Any, step: Any, made: Loss) -> Loss:
        return replace(made, extras={"time": torch.tensor(100.0 * step.epoch)})

    plan = TrainConfig(max_epochs=30, train_size=1.0, stop_on="train", patience=2, kl_warmup=0)
    result = trained(plan, hook)
    assert result.stopped == "plateau" and len(result.history) == 3


def test_plateau_schedule_cuts_the_rate() -> None:
    def hook(network: Any, batch: Any, step: Any, made: Loss) -> Loss:
        return replace(made, extras={"time": torch.tensor(100.0 * step.epoch)})

    plan = TrainConfig(
        max_epochs=6, schedule="plateau", plateau_patience=2, plateau_factor=0.5, learning_rate=1e-2, patience=50
    )
    rates = trained(plan, hook).history["learning_rate"]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3])


@pytest.mark.parametrize(
    ("curve", "patience", "cuts"),
    [([], 2, 0), ([1, 2, 3], 1, 0), ([3, 2, 1], 2, 1), ([3, 2, 1, 0, 0], 2, 2), ([1, 0, 2, 1, 1], 2, 1)],
)
def test_plateau_cuts(curve: list[float], patience: int, cuts: int) -> None:
    assert plateau_cuts(curve, patience=patience) == cuts


def test_rmsprop_is_that_of_keras_2() -> None:
    rng = np.random.default_rng(0)
    weight, mean_square = rng.normal(size=5), np.zeros(5)
    parameter = torch.tensor(weight, requires_grad=True)
    optimizer = KerasRMSprop({"w": parameter})
    for _ in range(20):
        gradient = rng.normal(size=5)
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        weight = weight - 0.01 * gradient / (np.sqrt(mean_square) + 1e-7)
        parameter.grad = torch.tensor(gradient)
        optimizer.step(0.01)
    np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-12)


def test_clip_values_bound_named_parameters_after_the_norm() -> None:
    grads = [torch.tensor([3.0, -4.0]), torch.tensor([12.0])]
    plan = TrainConfig(clip_norm=6.5, clip_values=(("*", 5.0), ("sd.*", 0.3)))
    clip_gradients(plan, grads, torch.tensor([5.0, 12.0]), names=["sd.weight", "mean.weight"])
    torch.testing.assert_close(grads[0], torch.tensor([0.3, -0.3]))
    torch.testing.assert_close(grads[1], torch.tensor([5.0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"plateau_factor": 1.0},
        {"plateau_patience": 0},
        {"stop_on": "test"},
        {"clip_values": (("w", 0.0),)},
        {"schedule": "cosine"},
        {"optimizer": "sgd"},
    ],
)
def test_impossible_options_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_resuming_a_plateau_schedule_ends_at_the_same_bits(tmp_path: Path) -> None:
    plan = TrainConfig(max_epochs=6, schedule="plateau", plateau_patience=1, optimizer="keras-rmsprop")
    nets = [TinyVAE(12), TinyVAE(12), TinyVAE(12)]
    options: dict[str, Any] = {"seed": 0, "progress": False}
    fit(nets[0], make_cells(), plan, **options)
    calls = {"n": 0}

    def stop(network: Any, batch: Any, step: Any, made: Loss) -> None:
        calls["n"] += step.epoch == 3
        if calls["n"] == 2:
            raise KeyboardInterrupt

    nets[1].hook = stop
    assert fit(nets[1], make_cells(), plan, checkpoint_dir=tmp_path, **options).stopped == "interrupted"
    fit(nets[2], make_cells(), plan, checkpoint_dir=tmp_path, resume=True, **options)
    for a, b in zip(nets[0].state_dict().values(), nets[2].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def trained(plan: TrainConfig, hook: Any) -> FitResult:
    return fit(TinyVAE(12, hook=hook), make_cells(), plan, seed=0, progress=False)
