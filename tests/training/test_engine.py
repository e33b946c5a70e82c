"""The engine: what a run gives, the same bits from the same seed, early stopping, Ctrl-C."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from standin import TinyVAE, make_cells, plain_history, same_tensors

from celbo.data.cells import CellData
from celbo.errors import InputError, OptionError
from celbo.training import progress as progress_module
from celbo.training.engine import FitResult, fit
from celbo.training.plan import Loss, TrainConfig
from celbo.training.progress import Progress

PLAN = TrainConfig(max_epochs=4, batch_size=32, learning_rate=0.01)


def train(
    cells: CellData, plan: TrainConfig = PLAN, *, seed: int = 0, hook=None, **options
) -> tuple[TinyVAE, FitResult]:
    network = TinyVAE(cells.n_genes, hook=hook)
    return network, fit(network, cells, plan, seed=seed, device="cpu", progress=False, **options)


def test_history_has_one_row_an_epoch_and_the_named_columns(cells: CellData) -> None:
    _, result = train(cells)
    assert list(result.history.index) == [1, 2, 3, 4] and result.history.index.name == "epoch"
    assert list(result.history.columns) == [
        "elbo_train",
        "elbo_validation",
        "reconstruction_train",
        "reconstruction_validation",
        "kl_z_train",
        "kl_z_validation",
        "kl_weight",
        "learning_rate",
        "seconds",
        "cells_per_second",
    ]
    assert (result.history.dtypes == np.float64).all() and np.isfinite(result.history.to_numpy()).all()


def test_the_elbo_is_minus_reconstruction_minus_kl(cells: CellData) -> None:
    h = train(cells)[1].history
    for which in ("train", "validation"):
        np.testing.assert_allclose(h[f"elbo_{which}"], -h[f"reconstruction_{which}"] - h[f"kl_z_{which}"], rtol=1e-12)
    assert (h["elbo_train"] < 0).all()


def test_training_raises_the_held_out_elbo(cells: CellData) -> None:
    history = train(cells, replace(PLAN, max_epochs=30))[1].history
    assert history["elbo_validation"].iloc[-1] > history["elbo_validation"].iloc[0] + 5


def test_the_same_seed_gives_the_same_bits(cells: CellData) -> None:
    (one, first), (other, second) = train(cells), train(cells)
    assert same_tensors(one.state_dict(), other.state_dict())
    assert plain_history(first).equals(plain_history(second))


def test_another_seed_gives_other_numbers(cells: CellData) -> None:
    (one, _), (other, _) = train(cells), train(cells, seed=1)
    assert not same_tensors(one.state_dict(), other.state_dict())


def test_the_global_generators_are_neither_read_nor_changed(cells: CellData) -> None:
    torch.manual_seed(3)
    first = train(cells)[1]
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.rand(7)
    assert plain_history(train(cells)[1]).equals(plain_history(first))


def test_the_noise_of_validation_is_the_same_each_epoch_and_that_of_training_is_not(cells: CellData) -> None:
    draws: dict[bool, list[float]] = {True: [], False: []}

    def look(network, batch, step, loss):
        draws[step.training].append(float(torch.rand((), generator=step.generator)))

    train(cells, hook=look)
    assert len(set(draws[False])) == 1 and len(set(draws[True])) == len(draws[True])


def test_validation_is_in_eval_mode_at_full_kl_weight(cells: CellData) -> None:
    seen = set()

    def look(network, batch, step, loss):
        seen.add((step.training, network.training, float(step.weights["z"]) == 1.0))

    train(cells, replace(PLAN, kl_warmup=100), hook=look)
    assert seen == {(True, True, False), (False, False, True)}


def test_the_kl_weight_is_what_the_loss_is_weighted_with(cells: CellData) -> None:
    plan = replace(PLAN, kl_warmup=4, max_epochs=6, early_stopping=False)
    assert train(cells, plan)[1].history["kl_weight"].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


def test_a_kl_term_of_weight_zero_has_no_gradient(cells: CellData) -> None:
    def huge_kl(network, batch, step, loss):
        return Loss(loss.reconstruction, {"z": loss.kl["z"] * 1e6}) if step.training else loss

    with_kl, _ = train(cells, replace(PLAN, max_epochs=1, kl_warmup=400), hook=huge_kl)
    without, _ = train(cells, replace(PLAN, max_epochs=1, kl_warmup=400))
    assert same_tensors(with_kl.state_dict(), without.state_dict())


def test_terms_that_are_not_warmed_up_weigh_one(cells: CellData) -> None:
    def with_library(network, batch, step, loss):
        assert "library" not in step.weights
        return Loss(loss.reconstruction, {**loss.kl, "library": loss.kl["z"] * 0 + 2.0}, {"extra": torch.tensor(3.0)})

    h = train(cells, hook=with_library)[1].history
    assert np.allclose(h["kl_library_train"], 2.0) and np.allclose(h["kl_library_validation"], 2.0)
    assert np.allclose(h["extra_train"], 3.0)
    np.testing.assert_allclose(h["elbo_train"], -h["reconstruction_train"] - h["kl_z_train"] - 2.0, rtol=1e-12)


def test_the_learning_rate_follows_the_one_cycle_to_nearly_zero(cells: CellData) -> None:
    rate = train(cells, replace(PLAN, max_epochs=40, early_stopping=False))[1].history["learning_rate"]
    assert rate.max() == pytest.approx(0.01, rel=0.02) and rate.iloc[-1] < 1e-6
    assert rate.iloc[0] < rate.max()


def test_a_constant_schedule_is_constant(cells: CellData) -> None:
    assert set(train(cells, replace(PLAN, schedule="constant"))[1].history["learning_rate"]) == {0.01}


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_the_other_optimisers_train_too(cells: CellData, optimizer: str) -> None:
    h = train(cells, replace(PLAN, optimizer=optimizer, max_epochs=15))[1].history
    assert h["elbo_validation"].max() > h["elbo_validation"].iloc[0] + 1


def test_clipping_and_penalties_change_the_path(cells: CellData) -> None:
    plain = train(cells)[0].state_dict()
    for plan in (replace(PLAN, clip_norm=0.1), replace(PLAN, clip_value=1e-4), replace(PLAN, l2=(("decoder*", 1.0),))):
        assert not same_tensors(train(cells, plan)[0].state_dict(), plain)


@pytest.mark.parametrize("n_train", [33, 65, 2, 3])
def test_a_last_batch_of_one_cell_is_no_trouble(cells: CellData, n_train: int) -> None:
    sizes = []

    def look(network, batch, step, loss):
        sizes.append(batch.n_cells) if step.training else None

    result = train(cells, hook=look, train_indices=np.arange(n_train), validation_indices=np.array([100]))[1]
    assert min(sizes) >= 2 and sum(sizes) == n_train * len(result.history)


def test_training_on_all_cells_leaves_no_validation(cells: CellData) -> None:
    network, result = train(cells, replace(PLAN, train_size=1.0))
    assert result.history["elbo_validation"].isna().all() and len(result.split.validation) == 0
    assert result.best_epoch == 4 and result.stopped == "finished" and not network.training


def test_given_indices_are_the_split(cells: CellData) -> None:
    result = train(cells, train_indices=np.arange(100), validation_indices=np.arange(120, 150))[1]
    assert result.split.train.tolist() == list(range(100)) and result.split.validation.tolist() == list(range(120, 150))


def test_one_training_cell_is_an_input_error(cells: CellData) -> None:
    with pytest.raises(InputError, match="at least 2 cells"):
        train(cells, train_indices=np.array([3]))


def test_early_stopping_ends_a_plateau_and_restores_the_best_weights(cells: CellData) -> None:
    kept = {}

    def worse_after_five(network, batch, step, loss):
        if step.training:
            return None
        kept[step.epoch] = {k: v.clone() for k, v in network.state_dict().items()}
        return Loss(loss.reconstruction * 0 + abs(step.epoch - 5) + 1.0, loss.kl and {"z": loss.kl["z"] * 0})

    network, result = train(cells, replace(PLAN, max_epochs=50, patience=3, kl_warmup=0.0), hook=worse_after_five)
    assert result.stopped == "plateau" and len(result.history) == 9 and result.best_epoch == 6
    assert same_tensors(network.state_dict(), kept[5]) and "epoch 6." in result.message


def test_without_restore_best_the_last_weights_stay(cells: CellData) -> None:
    kept = {}

    def look(network, batch, step, loss):
        if not step.training:
            kept[step.epoch] = {k: v.clone() for k, v in network.state_dict().items()}
            return Loss(loss.reconstruction + 100 * step.epoch, loss.kl)
        return None

    network, result = train(cells, replace(PLAN, restore_best=False), hook=look)
    assert result.best_epoch == 1 and same_tensors(network.state_dict(), kept[3])


def test_without_early_stopping_all_epochs_run(cells: CellData) -> None:
    def worse(network, batch, step, loss):
        return Loss(loss.reconstruction + 100 * step.epoch, loss.kl)

    result = train(cells, replace(PLAN, max_epochs=8, patience=1, early_stopping=False), hook=worse)[1]
    assert len(result.history) == 8 and result.stopped == "finished" and result.best_epoch == 1


def interrupt_at(wanted: int):
    def hook(network, batch, step, loss):
        if step.step == wanted and step.training:
            raise KeyboardInterrupt

    return hook


def test_ctrl_c_keeps_the_best_weights_so_far(cells: CellData, caplog: pytest.LogCaptureFixture) -> None:
    steps = 5  # an epoch: 135 cells in minibatches of 32
    network, result = train(cells, replace(PLAN, max_epochs=40), hook=interrupt_at(3 * steps + 2))
    full = train(cells, replace(PLAN, max_epochs=40))[1].history
    assert result.stopped == "interrupted" and len(result.history) == 3
    assert result.best_epoch == full["elbo_validation"][:3].argmax() + 1 and not network.training
    assert "interrupted after 3 of 40 epochs" in caplog.text


def test_ctrl_c_in_the_first_epoch_leaves_the_network_as_it_began(cells: CellData) -> None:
    network, result = train(cells, hook=interrupt_at(2))
    assert result.stopped == "interrupted" and len(result.history) == 0 and result.best_epoch == 0
    assert same_tensors(network.state_dict(), TinyVAE(cells.n_genes).state_dict())


def test_threads_are_set_during_the_fit_and_put_back(cells: CellData) -> None:
    before, during = torch.get_num_threads(), set()

    def look(network, batch, step, loss):
        during.add(torch.get_num_threads())

    train(cells, replace(PLAN, n_threads=before + 1, max_epochs=1), hook=look)
    assert during == {before + 1} and torch.get_num_threads() == before


def test_prepare_is_called_once_and_only_if_wanted(cells: CellData) -> None:
    assert train(cells)[0].prepared == 1
    assert train(cells, prepare=False)[0].prepared == 0


def test_a_float64_network_trains(cells: CellData) -> None:
    network = TinyVAE(cells.n_genes).double()
    seen = set()
    network.hook = lambda net, batch, step, loss: seen.add(loss.reconstruction.dtype)
    fit(network, cells, PLAN, seed=0, device="cpu", progress=False)
    assert seen == {torch.float64}


@pytest.mark.parametrize("device", ["tpu9", "cuda:99", "meta", 7.5])
def test_a_device_that_is_not_there_is_an_option_error(cells: CellData, device: object) -> None:
    with pytest.raises(OptionError, match="device"):
        fit(TinyVAE(cells.n_genes), cells, PLAN, seed=0, device=device, progress=False)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_an_impossible_seed_is_an_option_error(cells: CellData, seed: object) -> None:
    with pytest.raises(OptionError, match="seed"):
        train(cells, seed=seed)


def test_resume_without_a_folder_is_an_option_error(cells: CellData) -> None:
    with pytest.raises(OptionError, match="needs a folder"):
        train(cells, resume=True)


def test_off_a_terminal_a_line_an_epoch_is_logged(cells: CellData, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="celbo.training")
    train(cells)
    lines = [r.getMessage() for r in caplog.records if "held out" in r.getMessage() and "/4: ELBO" in r.getMessage()]
    assert len(lines) == 4
    assert not any(word in lines[0] for word in ("cells/s", "left"))  # the first epoch is one of compiling
    assert all("cells/s" in line and "left" in line for line in lines[1:])


def lines_of(progress: Progress, clock: Callable[[float], None], caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what is logged of two epochs of 20 steps: 60 s of compiling, then 1 s a step and 4 s for validation."""
    caplog.set_level(logging.INFO, logger="celbo.training")
    row = {"elbo_train": -3.0, "elbo_validation": -4.0}
    for epoch in range(2):
        for step in range(20):
            clock(1.0 if step or epoch else 60.0)
            progress.step(50)
        clock(4.0)
        progress.epoch(row)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("done", [0, 2])
def test_the_time_left_is_told_by_warm_steps(
    done: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now[0])
    progress = Progress(show=False, n_epochs=10 + done, n_cells=1000, done=done)
    first, second = lines_of(progress, lambda seconds: now.__setitem__(0, now[0] + seconds), caplog)
    assert first.endswith(", 50 cells/s, 03:00 left")  # nine epochs of 20 s: validation is not known yet
    assert second.endswith(", 42 cells/s, 03:12 left")  # eight of 24 s


def test_the_bar_tells_no_time_by_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    now, shown = [1000.0], io.StringIO()
    monkeypatch.setattr(progress_module.sys, "stderr", shown)
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now[0])
    progress = Progress(show=True, n_epochs=10, n_cells=1000)
    for step in range(12):
        now[0] += 1.0 if step else 60.0
        progress.step(50)
        assert ("left" in str(progress._bar.postfix)) == (step >= 10), step
    progress.close()


def test_the_bar_shows_epoch_elbo_and_speed(cells: CellData, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress_module.sys, "stderr", shown)
    fit(TinyVAE(cells.n_genes), cells, PLAN, seed=0, device="cpu", progress=True)
    last = shown.getvalue().split("\r")[-1]
    assert "epoch 4/4" in last and "ELBO -" in last and "held out -" in last and "cells/s" in last


def test_no_warning_is_given_on_the_way(cells: CellData) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(cells)
    assert caught == []


def test_the_smallest_data_train_with_all_defaults() -> None:
    result = train(make_cells(n_cells=5), TrainConfig(max_epochs=2))[1]
    assert len(result.history) == 2
