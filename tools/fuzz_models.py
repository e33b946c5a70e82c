"""Kinds of saved models, of every system, and of the checkpoints of a training.

A quarter of the damage is that of a disk, which the digests tell. The rest is that of a stranger, who puts right
digests beside what he has written.
"""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import safetensors.torch
import torch
from fuzz import Answer
from fuzz_counts import cells
from fuzz_damage import NUMBERS, SIZES, damage_bytes, damage_folder, damage_text

import celbo
from celbo.errors import CelboError, InputError, ModelFileError
from celbo.models.store import class_names, model_class
from celbo.training.checkpoint import _checksum
from celbo.training.history import TIMING_COLUMNS
from celbo.training.plan import TrainConfig

Tensors = dict[str, torch.Tensor]
SMALL: dict[str, dict[str, Any]] = {"SCVI": {"n_hidden": 8}, "LDVAE": {"n_hidden": 8}, "AutoImpute": {"n_hidden": 8}}
OPTIONS = {"progress": False, "n_threads": 1}
VALUES: tuple[Any, ...] = (
    *SIZES,
    *(None, True, False, "", "a", [], {}, [1], ["a"], [[]], {"a": 1}, 0.5, -0.5, 1e-300, 1e300, 2.0, 10**30, "\0"),
)
RAW = (*NUMBERS, "NaN", "Infinity", "-Infinity", "1e999", "[" * 3000, '{"a":1,"a":2}', "\\ud800")


class SavedModel:
    """The folder of a saved model."""

    def __init__(self, kind: str) -> None:
        self.kind, self.name = kind, f"model-{kind.lower()}"

    def make(self, folder: Path) -> Path:
        """Train a little one and save it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            keys = {} if self.kind == "HPF" else {"batch_key": "batch"}
            model = model_class(self.kind)(cells(), **keys, **SMALL.get(self.kind, {}))
            return model.train(max_epochs=2, **OPTIONS).save(folder / "model")

    def change(self, path: Path, rng: random.Random) -> str:
        """Damage one of its files, mostly with a right digest beside it."""
        if rng.random() < 0.25:
            return damage_folder(path, rng) if rng.random() < 0.3 else damage_bytes(rng.choice(files(path)), rng)
        file = rng.choice([path / "model.json", path / "model.json", *files(path)])
        told = damaged(file, rng)
        saved = path / "model.json"
        if file != saved and rng.random() < 0.9:
            seal(saved, file)
            told += ", sealed"
        return told

    def ask(self, path: Path) -> Answer:
        """Load it, with cells, and ask for their latent states."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                celbo.load(path)
            except ModelFileError as error:
                return Answer(3, said=str(error), wrong="" if str(path) in str(error) else "the file is not named")
            except CelboError as error:
                return Answer(3, said=str(error), wrong=f"{type(error).__name__}, which does not blame the file")
            try:
                model = celbo.load(path, cells())
                latent = model.get_latent_representation()
            except InputError as error:  # names of genes and columns are what they are
                return Answer(3, said=str(error))
            return Answer(0, digest(latent, model.history))


class Checkpoint:
    """The folder with the checkpoints of a training."""

    def __init__(self, kind: str) -> None:
        self.kind, self.name = kind, f"checkpoint-{kind.lower()}"

    def train(self, folder: Path, adata: anndata.AnnData, epochs: int, *, resume: bool) -> Any:
        """Train so many epochs, one checkpoint each."""
        model = model_class(self.kind)(adata, **SMALL.get(self.kind, {}))
        plan = TrainConfig(max_epochs=epochs, checkpoint_every=1, n_threads=1)
        return model.train(plan, checkpoint_dir=folder, resume=resume, progress=False)

    def make(self, folder: Path) -> Path:
        """Train, and take away the checkpoint of the last epoch, so that there is something to go on with."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.train(folder / "points", cells(), 3, resume=False)
        for old in (folder / "points" / "epoch-000003").iterdir():
            old.unlink()
        (folder / "points" / "epoch-000003").rmdir()
        return folder / "points"

    def change(self, path: Path, rng: random.Random) -> str:
        """Damage one of the files, mostly with right digests beside it."""
        if rng.random() < 0.25:
            return damage_bytes(rng.choice(files(path)), rng)
        file = rng.choice(files(path))
        told = damaged(file, rng)
        if rng.random() < 0.9:
            seal(file.with_name("state.json"), file)
            told += ", sealed"
        return told

    def ask(self, path: Path) -> Answer:
        """Go on from it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = self.train(path, cells(), 3, resume=True)
            except ModelFileError as error:
                return Answer(3, said=str(error), wrong="" if str(path) in str(error) else "the file is not named")
            except CelboError as error:
                return Answer(3, said=str(error))
            return Answer(0, digest(model.get_latent_representation(), model.history))


def files(folder: Path) -> list[Path]:
    """Return every file of a folder."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def digest(latent: Any, history: Any) -> str:
    """Return a digest of what a model says."""
    kept = history.drop(columns=list(TIMING_COLUMNS), errors="ignore")
    return hashlib.sha256(np.ascontiguousarray(latent).tobytes() + kept.to_csv().encode()).hexdigest()


# -- damage -----------------------------------------------------------------------------------------------------------


def damaged(file: Path, rng: random.Random) -> str:
    """Change a file in its structure."""
    try:
        if file.suffix == ".json":
            return change_json(file, rng)
        if file.suffix == ".csv":
            return damage_text(file, rng)
        return change_header(file, rng) if rng.random() < 0.2 else change_tensors(file, rng)
    except (ValueError, KeyError, TypeError, RuntimeError):  # a change that cannot be written
        return damage_bytes(file, rng)


def seal(description: Path, file: Path) -> None:
    """Put the digest of a file into the description beside it, and that of the description into itself."""
    try:
        saved = json.loads(description.read_text())
        if file != description:
            saved["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        if "checksum" in saved:
            saved["checksum"] = _checksum(saved)
        description.write_text(json.dumps(saved))
    except (ValueError, KeyError, TypeError, RecursionError):
        return


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value as (what it is in, its key there)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in items:
        found += [(value, key), *leaves(inner)]
    return found


def change_json(file: Path, rng: random.Random) -> str:
    """Change one value, or leave it out."""
    saved = json.loads(file.read_text())
    top = [saved] if rng.random() < 0.3 else [v for v in saved.values() if isinstance(v, dict)]  # names are many
    places = [(saved, key) for key in saved] if top == [saved] else [leaf for part in top for leaf in leaves(part)]
    inside, key = rng.choice(places)
    way = rng.choice(("value", "value", "value", "raw", "drop", "rename", "negate"))
    told = f"{file.name}: {way} {str(key)[:30]}"
    if way == "drop":
        del inside[key]
    elif way == "rename" and isinstance(inside, dict):
        inside[f"{key}x"] = inside.pop(key)
    elif way == "negate" and isinstance(inside[key], int | float):
        inside[key] = -inside[key] - 1
    elif way == "raw":
        inside[key] = "@here@"
        file.write_text(json.dumps(saved).replace('"@here@"', raw := rng.choice(RAW)))
        return f"{told} {raw[:20]}"
    else:
        inside[key] = value = rng.choice(VALUES)
        told += f" {str(value)[:20]}"
    file.write_text(json.dumps(saved))
    return told


def change_tensors(file: Path, rng: random.Random) -> str:
    """Change one tensor."""
    tensors: Tensors = safetensors.torch.load(file.read_bytes())
    if not tensors:
        return damage_bytes(file, rng)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    ways: dict[str, Callable[[], object]] = {
        "nan": lambda: one(value, rng, float("nan")),
        "inf": lambda: one(value, rng, float("inf")),
        "large": lambda: one(value, rng, 1e30 if value.is_floating_point() else 2**62),
        "negative": lambda: value.neg_().sub_(1),
        "zero": value.zero_,
        "float64": lambda: tensors.update({name: value.double()}),
        "int32": lambda: tensors.update({name: value.nan_to_num().int()}),
        "bool": lambda: tensors.update({name: value.bool()}),
        "bfloat16": lambda: tensors.update({name: value.bfloat16()}),
        "flat": lambda: tensors.update({name: value.reshape(-1)}),
        "turned": lambda: tensors.update({name: value.t().contiguous()}),
        "cut": lambda: tensors.update({name: value[: len(value) // 2].clone()}),
        "empty": lambda: tensors.update({name: value[:0].clone()}),
        "longer": lambda: tensors.update({name: torch.cat([value, value])}),
        "drop": lambda: tensors.pop(name),
        "rename": lambda: tensors.update({f"{name}x": tensors.pop(name)}),
        "another": lambda: tensors.update(another=torch.ones(3)),
    }
    way = rng.choice(sorted(ways))
    ways[way]()
    file.write_bytes(safetensors.torch.save(tensors))
    return f"{file.name}: {way} {name[:40]}"


def one(value: torch.Tensor, rng: random.Random, number: float) -> None:
    """Put a number somewhere."""
    value.view(-1)[rng.randrange(value.numel())] = number


def change_header(file: Path, rng: random.Random) -> str:
    """Change what the header of a file of tensors says of them."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    places = leaves(header)
    if not places:
        raise ValueError("no tensor is in it")
    inside, key = rng.choice(places)
    inside[key] = value = rng.choice((*VALUES, "F64", "I64", "U8", "BF16"))
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return f"{file.name}: header {key} {str(value)[:20]}"


KINDS = [*map(SavedModel, class_names()), *map(Checkpoint, ("SCVI", "SCVAE", "HPF"))]
