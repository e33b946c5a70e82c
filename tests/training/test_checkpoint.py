"""Checkpoints: a resumed run is the run, another run is refused, damage is survived or named."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from standin import TinyVAE, make_cells, plain_history, same_tensors

import celbo.training.checkpoint as checkpoint_module
from celbo.data.cells import CellData
from celbo.errors import CelboWarning, ModelFileError, OptionError, WriteError
from celbo.training.checkpoint import CheckpointFolder, Snapshot, _checksum
from celbo.training.engine import FitResult, fit
from celbo.training.plan import Loss, TrainConfig

PLAN = TrainConfig(max_epochs=6, batch_size=32, learning_rate=0.01, checkpoint_every=1)


def train(
    cells: CellData, folder: Path | None = None, plan: TrainConfig = PLAN, *, seed: int = 0, hook=None, **options: Any
) -> tuple[TinyVAE, FitResult]:
    network = TinyVAE(cells.n_genes, hook=hook)
    result = fit(network, cells, plan, seed=seed, device="cpu", progress=False, checkpoint_dir=folder, **options)
    return network, result


def stop_in(epoch: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[..., Loss | None]:
    def hook(network, batch, step, loss):
        if step.training and step.epoch == epoch and step.step % 5 == 3:
            raise error

    return hook


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoints of a run that was stopped in epoch 3."""
    folder = tmp_path_factory.mktemp("broken_off")
    train(make_cells(), folder, hook=stop_in(3), fingerprint={"model": "A"})
    return folder


@pytest.fixture(scope="module")
def straight() -> dict[str, torch.Tensor]:
    """Return the weights of the same run when it is not stopped."""
    return train(make_cells(), fingerprint={"model": "A"})[0].state_dict()


@pytest.fixture
def broken(broken_off: Path, tmp_path: Path) -> Path:
    """Return a copy of those checkpoints."""
    return shutil.copytree(broken_off, tmp_path / "run")


def resume(folder: Path, cells: CellData | None = None, plan: TrainConfig = PLAN, **options: Any) -> TinyVAE:
    """Go on in that folder; the network after it."""
    options = {"fingerprint": {"model": "A"}, "resume": True} | options
    return train(cells or make_cells(), folder, plan, **options)[0]


def contents(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {p.stem: safetensors.torch.load_file(p) for p in folder.glob("*.safetensors")}


def test_the_last_two_checkpoints_are_kept_with_four_files_each(cells: CellData, tmp_path: Path) -> None:
    train(cells, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["epoch-000005", "epoch-000006"]
    expected = ["best.safetensors", "optimizer.safetensors", "state.json", "weights.safetensors"]
    assert sorted(p.name for p in (tmp_path / "run" / "epoch-000006").iterdir()) == expected


def test_the_state_names_epoch_step_seed_plan_and_digests(cells: CellData, tmp_path: Path) -> None:
    train(cells, tmp_path, fingerprint={"model": "Tiny"})
    state = json.loads((tmp_path / "epoch-000006" / "state.json").read_text())
    assert (state["epoch"], state["step"], len(state["history"])) == (6, 30, 6)
    assert state["identity"]["seed"] == 0 and state["identity"]["fingerprint"] == {"model": "Tiny"}
    assert state["identity"]["plan"]["max_epochs"] == 6 and set(state["sha256"]) == {
        "weights.safetensors",
        "best.safetensors",
        "optimizer.safetensors",
    }


def test_checkpoints_hold_batch_norm_and_optimiser_by_name(cells: CellData, tmp_path: Path) -> None:
    train(cells, tmp_path)
    saved = contents(tmp_path / "epoch-000006")
    assert {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"} <= saved["weights"].keys()
    assert {"encoder.weight/exp_avg", "encoder.weight/exp_avg_sq", "encoder.weight/step"} <= saved["optimizer"].keys()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("epoch", [1, 4, 5])
def test_a_resumed_run_is_the_straight_run_to_the_bit(
    cells: CellData, tmp_path: Path, epoch: int, optimizer: str
) -> None:
    plan = replace(PLAN, optimizer=optimizer)
    straight, first = train(cells, tmp_path / "straight", plan)
    train(cells, tmp_path / "broken", plan, hook=stop_in(epoch))
    resumed, second = train(cells, tmp_path / "broken", plan, resume=True)
    assert same_tensors(straight.state_dict(), resumed.state_dict())
    assert plain_history(first).equals(plain_history(second))
    one, other = (contents(tmp_path / name / "epoch-000006") for name in ("straight", "broken"))
    assert all(same_tensors(one[name], other[name]) for name in ("weights", "best", "optimizer"))


def test_checkpoints_do_not_change_the_run(cells: CellData, tmp_path: Path) -> None:
    (with_them, first), (without, second) = train(cells, tmp_path), train(cells)
    assert same_tensors(with_them.state_dict(), without.state_dict())
    assert plain_history(first).equals(plain_history(second))


def test_many_stops_in_one_run_change_nothing(cells: CellData, tmp_path: Path) -> None:
    straight, first = train(cells)
    for epoch in range(1, 6):
        train(cells, tmp_path, hook=stop_in(epoch), resume=True)
    resumed, second = train(cells, tmp_path, resume=True)
    assert same_tensors(straight.state_dict(), resumed.state_dict())
    assert plain_history(first).equals(plain_history(second))


@pytest.mark.filterwarnings("ignore:Training met numbers")
def test_a_halved_learning_rate_is_resumed(cells: CellData, tmp_path: Path) -> None:
    def spoil(network, batch, step, loss):
        if step.training and step.epoch == 1 and not network.spoilt:
            network.spoilt = True
            return Loss(loss.reconstruction * float("nan"), loss.kl)
        return None

    def run(hook, **options):
        network = TinyVAE(cells.n_genes, hook=hook)
        network.spoilt = False
        return network, fit(network, cells, PLAN, seed=0, device="cpu", progress=False, **options)

    straight, first = run(spoil)
    stop = stop_in(3)
    run(lambda *args: stop(*args) or spoil(*args), checkpoint_dir=tmp_path)
    resumed, second = train(cells, tmp_path, resume=True)
    assert first.retries == second.retries == 1 and plain_history(first).equals(plain_history(second))
    assert same_tensors(straight.state_dict(), resumed.state_dict())


def test_early_stopping_is_resumed_and_a_finished_run_is_not_trained_again(cells: CellData, tmp_path: Path) -> None:
    def worse(network, batch, step, loss):
        return None if step.training else Loss(loss.reconstruction + 50 * step.epoch, loss.kl)

    plan = replace(PLAN, patience=3, kl_warmup=0.0)
    _, first = train(cells, tmp_path, plan, hook=worse)
    network, second = train(cells, tmp_path, plan, hook=stop_in(4, error=AssertionError), resume=True)
    assert first.stopped == second.stopped == "plateau" and len(second.history) == 4
    assert same_tensors(network.state_dict(), contents(tmp_path / "epoch-000004")["best"])


def test_a_run_without_validation_is_resumed(cells: CellData, tmp_path: Path) -> None:
    plan = replace(PLAN, train_size=1.0)
    straight, first = train(cells, None, plan)
    train(cells, tmp_path, plan, hook=stop_in(2))
    resumed, second = train(cells, tmp_path, plan, resume=True)
    assert same_tensors(straight.state_dict(), resumed.state_dict())
    assert plain_history(first).equals(plain_history(second))


def test_ctrl_c_leaves_the_checkpoint_of_the_last_finished_epoch_and_says_how_to_resume(
    cells: CellData, tmp_path: Path
) -> None:
    plan = replace(PLAN, checkpoint_every=100)
    result = train(cells, tmp_path, plan, hook=stop_in(3))[1]
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-000003"]
    assert f"checkpoint_dir={str(tmp_path)!r} and resume=True" in result.message


def test_resume_begins_where_there_is_nothing(cells: CellData, tmp_path: Path) -> None:
    assert len(train(cells, tmp_path / "new", resume=True)[1].history) == 6


def test_checkpoint_every_spares_epochs_but_not_the_last(cells: CellData, tmp_path: Path) -> None:
    train(cells, tmp_path, replace(PLAN, checkpoint_every=4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-000004", "epoch-000006"]


def test_checkpoints_are_written_by_time_at_the_end_and_on_ctrl_c(
    cells: CellData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a number of epochs: an epoch takes 25 s here, so that the third and the sixth are due."""
    now, written = [0.0], []
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: now[0])
    save = CheckpointFolder.save
    monkeypatch.setattr(CheckpointFolder, "save", lambda self, good: (written.append(good.epoch), save(self, good)))

    def late(network, batch, step, loss):
        now[0] += 0 if step.training else 25

    plan = replace(PLAN, max_epochs=8, checkpoint_every=None)
    train(cells, tmp_path / "whole", plan, hook=late)
    assert written == [3, 6, 8]
    written.clear()
    stop = stop_in(5)
    train(cells, tmp_path / "broken", plan, hook=lambda *args: stop(*args) or late(*args))
    assert written == [3, 5]
    one, other = train(cells, tmp_path / "broken", plan, resume=True)[0], train(cells, None, plan)[0]
    assert same_tensors(one.state_dict(), other.state_dict())


def test_a_short_run_writes_one_checkpoint(cells: CellData, tmp_path: Path) -> None:
    train(cells, tmp_path, replace(PLAN, checkpoint_every=None))
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-000006"]


def test_what_a_kill_left_behind_is_removed(broken: Path) -> None:
    (broken / ".epoch-000004.0123456789ab.tmp").mkdir()
    resume(broken)
    assert sorted(p.name for p in broken.iterdir()) == ["epoch-000005", "epoch-000006"]


# -- another run -----------------------------------------------------------------------------------------------------


def test_the_same_run_without_resume_is_refused(broken: Path) -> None:
    with pytest.raises(OptionError, match=r"already holds 3 epochs of this very run.*resume=True"):
        resume(broken, resume=False)


@pytest.mark.parametrize("resuming", [True, False])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"plan": replace(PLAN, learning_rate=0.02)}, "plan.learning_rate is 0.01 there and 0.02 here"),
        ({"plan": replace(PLAN, max_epochs=7)}, "plan.max_epochs is 6 there and 7 here"),
        ({"fingerprint": {"model": "B"}}, "fingerprint.model is 'A' there and 'B' here"),
        ({"fingerprint": {}}, "fingerprint.model is 'A' there and missing here"),
        ({"train_indices": np.arange(100)}, "split is"),
    ],
)
def test_another_run_is_refused_and_the_differences_listed(
    broken: Path, change: dict[str, Any], told: str, resuming: bool
) -> None:
    with pytest.raises(OptionError, match="different run") as caught:
        resume(broken, **change, resume=resuming)
    assert told in str(caught.value)


def test_other_data_and_another_network_are_refused(broken: Path) -> None:
    with pytest.raises(OptionError, match="counts is"):
        resume(broken, make_cells(seed=1))
    with pytest.raises(OptionError, match=r"genes is 12 there and 13 here.*network is"):
        resume(broken, make_cells(n_genes=13))


def test_other_threads_are_told(broken: Path) -> None:
    state = json.loads((broken / "epoch-000003" / "state.json").read_text())
    forge(broken, conditions=state["conditions"] | {"threads": 99})
    with pytest.warns(CelboWarning, match=f"threads was 99 and is {torch.get_num_threads()}"):
        resume(broken)


def test_checkpoint_every_may_change(broken: Path, straight: dict[str, torch.Tensor]) -> None:
    assert same_tensors(resume(broken, plan=replace(PLAN, checkpoint_every=2)).state_dict(), straight)


def test_a_fingerprint_that_is_not_plain_values_is_refused(cells: CellData, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="fingerprint"):
        train(cells, tmp_path, fingerprint={"model": object()})


# -- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "cut in half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "missing": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "other bytes": lambda p: p.write_bytes(b"\x80\x04\x95cos\nsystem\n" * 99),
    "deep JSON": lambda p: p.write_bytes(b"[" * 200_000),
}


@pytest.mark.parametrize("name", ["weights.safetensors", "best.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    broken: Path, straight: dict[str, torch.Tensor], name: str, damage: str
) -> None:
    DAMAGES[damage](broken / "epoch-000003" / name)
    with pytest.warns(CelboWarning, match=r"cannot be read.*Going on from epoch-000002"):
        assert same_tensors(resume(broken).state_dict(), straight)


def test_when_all_are_damaged_it_is_an_error_and_nothing_is_overwritten(broken: Path) -> None:
    for checkpoint in broken.iterdir():
        flip(checkpoint / "weights.safetensors")
    with pytest.raises(ModelFileError, match=r"epoch-000003/weights.safetensors' cannot be read: its SHA-256"):
        resume(broken)
    assert sorted(p.name for p in broken.iterdir()) == ["epoch-000002", "epoch-000003"]


def forge(folder: Path, **changes: Any) -> None:
    """Change the newest state as a stranger could, with a right checksum; drop the other checkpoint."""
    shutil.rmtree(folder / "epoch-000002")
    path = folder / "epoch-000003" / "state.json"
    state = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(state | {"checksum": _checksum(state)}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format_version": 99}, "version 99"),
        ({"epoch": "3"}, "wrong kind"),
        ({"epoch": 2}, "wrong kind"),
        ({"step": 1.5}, "wrong kind"),
        ({"history": {"a": 1}}, "wrong kind"),
        ({"history": [{"elbo_train": "x"}] * 3}, "wrong kind"),
        ({"identity": []}, "wrong kind"),
        ({"sha256": {}}, "SHA-256"),
        ({"best_epoch": 7}, "wrong kind"),
        ({"history": [{"elbo_train": 1.0}] * 3}, "wrong kind"),
    ],
)
def test_a_forged_state_is_a_model_file_error(broken: Path, changes: dict[str, Any], told: str) -> None:
    forge(broken, **changes)
    with pytest.raises(ModelFileError, match=told):
        resume(broken)


@pytest.mark.parametrize(
    ("file", "tensors"),
    [
        ("weights", {"encoder.weight": torch.zeros(3, 3)}),
        ("weights", {"stranger": torch.zeros(3)}),
        ("weights", {"encoder.weight": torch.zeros(16, 12, dtype=torch.float64)}),
        ("best", {"norm.running_mean": torch.zeros(17)}),
        ("optimizer", {"encoder.weight/exp_avg": torch.zeros(1)}),
        ("optimizer", {"encoder.weight/step": torch.zeros(4)}),
        ("optimizer", {"encoder.weight/stranger": torch.zeros(())}),
    ],
)
def test_forged_tensors_are_a_model_file_error_that_names_them(
    broken: Path, file: str, tensors: dict[str, torch.Tensor]
) -> None:
    shutil.rmtree(broken / "epoch-000002")
    state = json.loads((broken / "epoch-000003" / "state.json").read_text())
    saved = contents(broken / "epoch-000003")
    saved[file] |= tensors
    numbers = {name: state[name] for name in ("epoch", "step", "best_epoch", "retries")}
    folder = CheckpointFolder(broken, identity=state["identity"], conditions=state["conditions"])
    folder.save(Snapshot(**saved, **numbers, rows=tuple(state["history"])))
    with pytest.raises(ModelFileError, match=f"do not fit the network: .*{next(iter(tensors))}"):
        resume(broken)


# -- a disk that fails -----------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_write_error_and_leaves_the_last_checkpoint(
    broken: Path, straight: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match=r"epoch-000004' cannot be written: the disk is full"):
            resume(broken)
    assert sorted(p.name for p in broken.iterdir()) == ["epoch-000002", "epoch-000003"]
    assert same_tensors(resume(broken).state_dict(), straight)


def test_a_file_in_the_way_of_the_folder_is_a_write_error_before_training(cells: CellData, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(WriteError, match="not a folder for checkpoints"):
        train(cells, tmp_path / "run", hook=stop_in(0, error=AssertionError))
