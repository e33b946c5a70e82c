"""Saved models: the same numbers back, checked against the data, and no file that can do harm."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import celbo
from celbo.errors import CategoryError, GenesError, InputError, ModelFileError, NotTrainedError
from celbo.models.store import class_names, model_class


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"batch": ["a", "b"] * 30}, index=[f"cell{i}" for i in range(60)])
    counts = rng.poisson(2, (60, 20)).astype(np.float32)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(20)]))


@pytest.fixture(scope="module")
def saved(adata, tmp_path_factory) -> tuple[Path, np.ndarray]:
    model = celbo.SCVI(adata, batch_key="batch", n_hidden=8, n_latent=3)
    model.train(max_epochs=2, progress=False)
    folder = model.save(tmp_path_factory.mktemp("models") / "model")
    return folder, model.get_latent_representation()


def _copy(saved, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


def test_loaded_model_gives_the_same_bits(saved, adata):
    model = celbo.load(saved[0], adata)
    assert model.get_latent_representation().tobytes() == saved[1].tobytes()


def test_history_and_split_come_back(saved, adata):
    model = celbo.load(saved[0], adata)
    assert list(model.history.index) == [1, 2]
    assert sorted([*model.train_indices, *model.validation_indices]) == list(range(60))


def test_epochs_of_an_early_file_are_counted_from_one(saved, tmp_path):
    folder = _copy(saved, tmp_path)
    history = pd.read_csv(folder / "history.csv")
    history.assign(epoch=history["epoch"] - 1).to_csv(folder / "history.csv", index=False)
    described = json.loads((folder / "model.json").read_text())
    best = described["training"]["best_epoch"]
    described["training"]["best_epoch"] = best - 1
    described["sha256"]["history.csv"] = hashlib.sha256((folder / "history.csv").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(described))
    model = celbo.load(folder)
    assert list(model.history.index) == [1, 2] and model.fitted.best_epoch == best


def test_folder_holds_no_pickle(saved):
    assert {p.name for p in saved[0].iterdir()} == {
        "weights.safetensors",
        "split.safetensors",
        "model.json",
        "history.csv",
    }


def test_reordered_and_extra_genes_are_aligned(saved, adata):
    extra = ad.AnnData(np.ones((60, 1), np.float32), obs=adata.obs, var=pd.DataFrame(index=["new"]))
    other = ad.concat([adata[:, ::-1], extra], axis=1, merge="first")
    assert celbo.load(saved[0], other).get_latent_representation().tobytes() == saved[1].tobytes()


def test_missing_genes_are_listed(saved, adata):
    with pytest.raises(GenesError, match="'g3'"):
        celbo.load(saved[0], adata[:, [g for g in adata.var_names if g != "g3"]].copy())


def test_unseen_batch_is_listed(saved, adata):
    other = adata.copy()
    other.obs["batch"] = ["a", "new"] * 30
    with pytest.raises(CategoryError, match="'new'"):
        celbo.load(saved[0], other)


def test_model_without_data_answers_for_data_given(saved, adata):
    model = celbo.load(saved[0])
    assert model.get_latent_representation(adata).tobytes() == saved[1].tobytes()
    with pytest.raises(InputError, match="without its data"):
        model.get_latent_representation()


def test_untrained_model_is_not_saved(adata, tmp_path):
    with pytest.raises(NotTrainedError):
        celbo.SCVI(adata).save(tmp_path / "m")


def test_existing_folder_is_kept_unless_asked(saved, adata, tmp_path):
    copy = _copy(saved, tmp_path)
    model = celbo.load(copy, adata)
    with pytest.raises(InputError, match="exists"):
        model.save(copy)
    model.save(copy, overwrite=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a saved model"):
        model.save(mine, overwrite=True)
    assert (mine / "thesis.txt").exists()


def _edit(folder: Path, **changes: object) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _inside(folder: Path, part: str, **changes: object) -> None:
    _edit(folder, **{part: {**json.loads((folder / "model.json").read_text())[part], **changes}})


def _rewrite(folder: Path, old: str, new: str) -> None:
    text = (folder / "model.json").read_text()
    assert old in text
    (folder / "model.json").write_text(text.replace(old, new))


def _replaced(folder: Path, name: str, content: bytes) -> None:
    """Put other content under a right digest, as somebody could who wants to."""
    (folder / name).write_bytes(content)
    _inside(folder, "sha256", **{name: hashlib.sha256(content).hexdigest()})


def _retensored(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.torch.load((folder / f"{name}.safetensors").read_bytes())
    change(tensors)
    _replaced(folder, f"{name}.safetensors", safetensors.torch.save(tensors))


def _doubled(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: value.double() for name, value in tensors.items()})


def _infinite(tensors: dict[str, torch.Tensor]) -> None:
    next(value for value in tensors.values() if value.is_floating_point()).fill_(np.inf)


def _negative(tensors: dict[str, torch.Tensor]) -> None:
    for name, value in tensors.items():
        if "running_var" in name:
            value.fill_(-1)


ATTACKS = {
    "no folder": shutil.rmtree,
    "no description": lambda f: (f / "model.json").unlink(),
    "no weights": lambda f: (f / "weights.safetensors").unlink(),
    "truncated weights": lambda f: (f / "weights.safetensors").write_bytes(
        (f / "weights.safetensors").read_bytes()[:99]
    ),
    "pickle for weights": lambda f: (f / "weights.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "changed history": lambda f: (f / "history.csv").write_text("epoch\n"),
    "not json": lambda f: (f / "model.json").write_text("{"),
    "json of another kind": lambda f: (f / "model.json").write_text("[1]"),
    "deep json": lambda f: (f / "model.json").write_text("[" * 100_000),
    "binary json": lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"),
    "future format": lambda f: _edit(f, format=99),
    "unknown class": lambda f: _edit(f, **{"class": "os.system"}),
    "unknown option": lambda f: _edit(f, config={"n_latnt": 3}),
    "impossible option": lambda f: _edit(f, config={"n_latent": -3}),
    "other shapes": lambda f: _edit(f, config={"n_latent": 7}),
    "no genes": lambda f: _edit(f, schema={}),
    "schema is a list": lambda f: _edit(f, schema=[]),
    "no training": lambda f: _edit(f, training=None),
    "an infinite seed": lambda f: _rewrite(f, '"seed": 0', '"seed": Infinity'),
    "a seed beyond all floats": lambda f: _rewrite(f, '"seed": 0', '"seed": 1e999'),
    "a seed that is text": lambda f: _edit(f, seed="0"),
    "a seed below zero": lambda f: _edit(f, seed=-1),
    "a seed of many digits": lambda f: _edit(f, seed=10**4000),
    "a name twice": lambda f: _rewrite(f, '"seed": 0', '"seed": 0, "seed": 1'),
    "an option that is infinite": lambda f: _inside(
        f, "config", variance_floor=1e-300, dropout_rate=0.99999, n_latent=2**80
    ),
    "an option of another type": lambda f: _inside(f, "config", dropout_rate="0.1"),
    "layers without end": lambda f: _inside(f, "config", n_layers=10**12),
    "units without end": lambda f: _inside(f, "config", n_hidden=10**12),
    "zero genes": lambda f: _inside(f, "schema", features={"rna": []}),
    "genes that are numbers": lambda f: _inside(f, "schema", features={"rna": list(range(20))}),
    "a gene twice": lambda f: _inside(f, "schema", features={"rna": ["g0"] * 20}),
    "more genes than weights": lambda f: _inside(f, "schema", features={"rna": [f"g{i}" for i in range(21)]}),
    "other features": lambda f: _inside(f, "schema", features={"protein": ["a"]}),
    "no batch": lambda f: _inside(f, "schema", batches=[]),
    "batches that are text": lambda f: _inside(f, "schema", batches="ab"),
    "a batch twice": lambda f: _inside(f, "schema", batches=["a", "a"]),
    "covariates without a key": lambda f: _inside(f, "schema", covariates={"donor": ["x"]}),
    "an unknown key": lambda f: _inside(f, "schema", keys={"colour": "red"}),
    "a key of another type": lambda f: _inside(f, "schema", keys={"layer": 3}),
    "batches without a key": lambda f: _inside(f, "schema", keys={}),
    "a plan with an unknown option": lambda f: _inside(f, "training", plan={"speed": 1}),
    "a plan with an impossible value": lambda f: _inside(f, "training", plan={"max_epochs": -1}),
    "a plan that is a list": lambda f: _inside(f, "training", plan=[]),
    "a best epoch that was never": lambda f: _inside(f, "training", best_epoch=99),
    "a best epoch that is half": lambda f: _inside(f, "training", best_epoch=1.5),
    "stopped by nobody": lambda f: _inside(f, "training", stopped="tired"),
    "retries below zero": lambda f: _inside(f, "training", retries=-1),
    "an empty history": lambda f: _replaced(f, "history.csv", b"epoch,reconstruction_train\n"),
    "a history of text": lambda f: _replaced(f, "history.csv", b"epoch,reconstruction_train\n1,a\n2,b\n"),
    "a history with a gap": lambda f: _replaced(f, "history.csv", b"epoch,reconstruction_train\n1,1\n3,1\n"),
    "an infinite history": lambda f: _replaced(f, "history.csv", b"epoch,reconstruction_train\n1,1\n2,inf\n"),
    "a history of zeros": lambda f: _replaced(f, "history.csv", bytes(100)),
    "a weight that is infinite": lambda f: _retensored(f, "weights", _infinite),
    "weights of another type": lambda f: _retensored(f, "weights", _doubled),
    "a variance below zero": lambda f: _retensored(f, "weights", _negative),
    "a tensor too many": lambda f: _retensored(f, "weights", lambda t: t.update(more=torch.zeros(2))),
    "a tensor too few": lambda f: _retensored(f, "weights", lambda t: t.popitem()),
    "a split without cells": lambda f: _retensored(f, "split", lambda t: t.update(train=t["train"][:0])),
    "a split below zero": lambda f: _retensored(f, "split", lambda t: t["train"].fill_(-1)),
    "a split of shares": lambda f: _retensored(f, "split", lambda t: t.update(train=torch.rand(3))),
    "a cell in both parts": lambda f: _retensored(f, "split", lambda t: t.update(validation=t["train"][:1].clone())),
    "another split": lambda f: _retensored(f, "split", lambda t: t.update(test=t["train"].clone())),
    "a digest that is none": lambda f: _edit(f, sha256={"weights.safetensors": 1}),
    "digest of a file elsewhere": lambda f: _edit(f, sha256={"../../etc/passwd": "0"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_damaged_or_hostile_folder_is_a_named_error(saved, adata, tmp_path, attack):
    folder = _copy(saved, tmp_path)
    ATTACKS[attack](folder)
    for cells in (adata, None):
        with pytest.raises(ModelFileError, match=re.escape(str(folder))):
            celbo.load(folder, cells)


@pytest.mark.parametrize("name", class_names())
def test_every_model_is_loaded_within_the_bounds_of_its_weights(name: str, adata, tmp_path):
    plan = {"max_epochs": 2, "progress": False} if name != "HPF" else {"max_epochs": 3, "progress": False}
    model = model_class(name)(adata).train(**plan)
    again = celbo.load(model.save(tmp_path / name), adata)
    assert again.get_latent_representation().tobytes() == model.get_latent_representation().tobytes()
    size = {"n_hidden": 10**9} if name not in ("HPF", "SCVIS", "VASC") else {"n_components": 10**9, "n_latent": 10**9}
    known = json.loads((tmp_path / name / "model.json").read_text())["config"]
    for option, value in size.items():
        if option in known:
            _inside(tmp_path / name, "config", **{option: (value,) if isinstance(known[option], list) else value})
    with pytest.raises(ModelFileError, match=r"model\.json"):
        celbo.load(tmp_path / name)


def test_loading_a_model_of_boundless_sizes_takes_no_memory(saved, tmp_path):
    folder = _copy(saved, tmp_path)
    _inside(folder, "config", n_hidden=900_000, n_latent=900_000, n_layers=900_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError, match="sizes in it are not those of the stored weights"):
        celbo.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_what_somebody_put_into_the_folder_of_a_model_stays(saved, adata, tmp_path):
    folder = _copy(saved, tmp_path)
    (folder / "notes.txt").write_text("mine")
    celbo.load(folder, adata).save(folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    celbo.load(folder, adata)
