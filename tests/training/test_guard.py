"""The guard: the first bad step is named and undone, with half the learning rate; two retries, then an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from standin import TinyVAE, make_cells, plain_history, same_tensors

from celbo.data.cells import CellData
from celbo.data.counts import CountMatrix
from celbo.data.sampler import split_cells
from celbo.errors import CelboWarning, TrainingError
from celbo.training.checkpoint import Snapshot
from celbo.training.engine import FitResult, fit
from celbo.training.guard import Guard, NonFinite
from celbo.training.plan import Loss, TrainConfig
from celbo.training.run import Run

PLAN = TrainConfig(max_epochs=4, batch_size=32, learning_rate=0.01)


def with_outlier() -> CellData:
    """Return cells of which cell 7 has a million counts of gene 3."""
    cells = make_cells()
    counts = cells.counts.to_scipy().toarray().astype(np.int64)
    counts[7, 3] = 1_000_000
    matrix = CountMatrix.from_scipy(counts)
    return replace(cells, counts=matrix, library=matrix.total_counts().astype(np.float32))


def train(cells: CellData, hook=None, **options) -> tuple[TinyVAE, FitResult]:
    network = TinyVAE(cells.n_genes, hook=hook)
    split = {"train_indices": np.arange(130), "validation_indices": np.arange(130, 150)}
    return network, fit(network, cells, PLAN, seed=0, device="cpu", progress=False, **split, **options)


def plant(times: int, *, epoch: int = 1):
    """Return a hook that spoils the step with cell 7 in an epoch, so many times."""
    left = [times]

    def hook(network, batch, step, loss):
        if not (step.training and step.epoch == epoch and 7 in batch.index and left[0] > 0):
            return None
        left[0] -= 1
        return Loss(loss.reconstruction, {"z": loss.kl["z"] / 0.0})

    return hook


def test_one_bad_step_is_undone_with_half_the_learning_rate() -> None:
    cells = with_outlier()
    with pytest.warns(CelboWarning, match=r"retry 1 of 2"):
        _, result = train(cells, plant(1))
    expected = train(cells)[1].history["learning_rate"]
    rates = result.history["learning_rate"]
    assert result.retries == 1 and len(result.history) == 4
    assert rates[1] == expected[1] and np.allclose(rates[2:], expected[2:] / 2)


def test_the_warning_names_step_term_cell_gene_and_count() -> None:
    with pytest.warns(CelboWarning) as caught:
        train(with_outlier(), plant(1))
    text = str(caught[0].message)
    for part in ("step ", "(epoch 2)", "loss term 'kl_z'", "1e+06", "cell 'cell7'", "gene 'gene3'"):
        assert part in text


def test_a_gradient_that_is_not_finite_is_named_before_it_reaches_the_weights(cells: CellData) -> None:
    def hook(network, batch, step, loss):
        if step.training and step.step == 6 and not network.spoilt:
            network.spoilt = True
            loss.reconstruction.register_hook(lambda grad: grad * float("inf"))

    network = TinyVAE(cells.n_genes, hook=hook)
    network.spoilt = False
    with pytest.warns(CelboWarning, match=r"step 6 \(epoch 2\): gradient of '\w+.weight'"):
        fit(network, cells, PLAN, seed=0, device="cpu", progress=False)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_two_retries_are_enough_for_two_bad_steps() -> None:
    with pytest.warns(CelboWarning):
        _, result = train(with_outlier(), plant(2))
    assert result.retries == 2 and np.isfinite(result.history.to_numpy()).all()


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
def test_the_third_bad_step_is_a_training_error_that_names_cell_and_gene() -> None:
    with pytest.raises(TrainingError) as caught:
        train(with_outlier(), plant(3))
    text = str(caught.value)
    assert text.count("loss term 'kl_z'") == 3 and "2 retries" in text and "0.0025" in text
    assert "cell 'cell7'" in text and "gene 'gene3'" in text


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
def test_after_the_error_the_network_is_in_its_last_good_state() -> None:
    cells, states = with_outlier(), {}

    def remember(network, batch, step, loss):
        if not step.training:
            states[step.epoch] = {k: v.clone() for k, v in network.state_dict().items()}

    spoil = plant(3, epoch=2)
    network = TinyVAE(cells.n_genes, hook=lambda *args: remember(*args) or spoil(*args))
    split = {"train_indices": np.arange(130), "validation_indices": np.arange(130, 150)}
    with pytest.raises(TrainingError):
        fit(network, cells, PLAN, seed=0, device="cpu", progress=False, **split)
    assert same_tensors(network.state_dict(), states[1]) and not network.training


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
def test_data_that_are_bad_each_time_end_in_the_error(cells: CellData) -> None:
    def always(network, batch, step, loss):
        return Loss(loss.reconstruction * float("nan"), loss.kl)

    with pytest.raises(TrainingError, match=r"step 0 .* 'reconstruction'"):
        train(cells, always)


def test_a_held_out_loss_that_is_not_finite_is_caught_too(cells: CellData) -> None:
    left = [1]

    def hook(network, batch, step, loss):
        if step.training or not left[0]:
            return None
        left[0] = 0
        return Loss(loss.reconstruction * float("nan"), loss.kl)

    with pytest.warns(CelboWarning, match="validation after epoch 1: loss term 'reconstruction'"):
        _, result = train(cells, hook)
    assert result.retries == 1


def test_a_learning_rate_that_explodes_recovers_or_ends_in_the_error(cells: CellData) -> None:
    network = TinyVAE(cells.n_genes)
    wild = replace(PLAN, learning_rate=1e38, optimizer="rmsprop", schedule="constant")
    with pytest.warns(CelboWarning), pytest.raises(TrainingError):
        fit(network, cells, wild, seed=0, device="cpu", progress=False)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_a_retried_epoch_sees_the_same_cells_and_noise(cells: CellData) -> None:
    draws: list[tuple[int, float]] = []
    spoil = plant(1)

    def hook(network, batch, step, loss):
        if step.training:
            draws.append((step.step, float(torch.rand((), generator=step.generator))))
        return spoil(network, batch, step, loss)

    with pytest.warns(CelboWarning):
        train(cells, hook)
    again = [draw for draw in draws if draws.count(draw) == 2]
    assert again and len(set(draws)) == len(draws) - len(again) // 2


def guard(cells: CellData, lag: int) -> Guard:
    return Guard(cells, lambda: ["weight"], lag=lag)


def test_a_lagging_guard_names_the_first_bad_step_not_the_last(cells: CellData) -> None:
    watch, batch = guard(cells, 3), cells.minibatch([0, 1])
    with pytest.raises(NonFinite, match="step 1:"):
        for step in range(10):
            watch.watch(torch.tensor([1.0 if step < 1 else float("nan")]), ["a"], batch, f"step {step}")


def test_flush_looks_at_all_that_waits(cells: CellData) -> None:
    watch, batch = guard(cells, 100), cells.minibatch([0, 1])
    watch.watch(torch.tensor([0.0, 1.0, float("inf")]), ["a"], batch, "here")
    with pytest.raises(NonFinite, match="here: gradient of 'weight'"):
        watch.flush()
    watch.flush()


def test_a_lagging_guard_gives_the_same_run(cells: CellData, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = with_outlier()
    with pytest.warns(CelboWarning):
        network, result = train(cells, plant(1))
    monkeypatch.setattr("celbo.training.run._LAG", {"cpu": 2})
    with pytest.warns(CelboWarning):
        lagging, other = train(cells, plant(1))
    assert same_tensors(network.state_dict(), lagging.state_dict())
    assert plain_history(result).equals(plain_history(other))


def test_an_empty_minibatch_is_described(cells: CellData) -> None:
    batch = cells.minibatch([0, 1])
    empty = replace(batch, rows=type(batch.rows).from_dense(torch.zeros(2, cells.n_genes)))
    with pytest.raises(NonFinite, match="no count at all"):
        guard(cells, 0).watch(torch.tensor([float("nan")]), ["a"], empty, "here")


def test_the_snapshot_does_not_share_memory_with_the_network(cells: CellData) -> None:
    network = TinyVAE(cells.n_genes)
    run = Run(
        network, cells, replace(PLAN, kl_warmup=0.1, patience=3), split=split_cells(150, train_size=0.9, seed=0), seed=0
    )
    kept: Snapshot = run.good
    before = kept.weights["encoder.weight"].clone()
    with torch.no_grad():
        network.encoder.weight.add_(1.0)
    assert torch.equal(kept.weights["encoder.weight"], before)
