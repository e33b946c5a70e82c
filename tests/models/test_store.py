"""Saved models: the same numbers back, checked against the data, and no file that can do harm."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import celbo
from celbo.errors import CategoryError, GenesError, InputError, ModelFileError, NotTrainedError


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
    "digest of a file elsewhere": lambda f: _edit(f, sha256={"../../etc/passwd": "0"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_damaged_or_hostile_folder_is_a_named_error(saved, adata, tmp_path, attack):
    folder = _copy(saved, tmp_path)
    ATTACKS[attack](folder)
    with pytest.raises(InputError) as caught:
        celbo.load(folder, adata)
    assert isinstance(caught.value, ModelFileError) or "option" in attack
