"""The plan: defaults for any number of cells, the plan of scvi-tools, refusals."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from celbo.errors import OptionError
from celbo.training.plan import TrainConfig, resolve

SIZES = [2, 10, 200, 700, 3_000, 20_000, 100_000, 1_000_000, 100_000_000]


@pytest.mark.parametrize("n", SIZES)
def test_every_default_is_resolved(n: int) -> None:
    plan = resolve(TrainConfig(), n)
    values = (plan.max_epochs, plan.batch_size, plan.learning_rate, plan.kl_warmup, plan.patience)
    assert None not in values


def test_small_data_get_more_epochs_and_smaller_minibatches() -> None:
    plans = [resolve(TrainConfig(), n) for n in (500, 1_500, 5_000)]
    assert [plan.max_epochs for plan in plans] == [60, 35, 30]
    assert [plan.batch_size for plan in plans] == [32, 64, 128]
    assert [plan.learning_rate for plan in plans] == [4e-3, 8e-3, 16e-3]


def test_epochs_fall_while_all_cells_seen_grow() -> None:
    plans = [(n, resolve(TrainConfig(), n)) for n in SIZES[2:8]]
    assert all(a[1].max_epochs >= b[1].max_epochs for a, b in itertools.pairwise(plans))
    seen = [n * plan.max_epochs for n, plan in plans]
    assert all(a < b for a, b in itertools.pairwise(seen))


def test_beyond_20000_cells_training_grows_with_the_root_of_their_number() -> None:
    small, large = (n * resolve(TrainConfig(), n).max_epochs for n in (20_000, 180_000))
    assert large / small == pytest.approx(3, rel=0.01)


def test_a_million_cells_take_few_epochs() -> None:
    assert 3 <= resolve(TrainConfig(), 1_000_000).max_epochs <= 8


def test_what_is_given_is_kept() -> None:
    plan = TrainConfig(max_epochs=3, batch_size=17, learning_rate=0.5, weight_decay=0.2, kl_warmup=2, patience=4)
    assert resolve(plan, 1_000) == plan


def test_resolving_twice_changes_nothing() -> None:
    plan = resolve(TrainConfig(), 5_000)
    assert resolve(plan, 100) == plan


@pytest.mark.parametrize(("n", "epochs"), [(700, 400), (20_000, 400), (30_000, 267), (1_000_000, 8), (10**8, 1)])
def test_scvi_tools_heuristic_for_epochs(n: int, epochs: int) -> None:
    assert resolve(TrainConfig.scvi_tools(), int(n * 0.9), n_cells=n).max_epochs == epochs


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.1), ("adam", 0.0), ("rmsprop", 0.0)])
def test_weight_decays_by_default_only_where_it_is_decoupled(optimizer: str, decay: float) -> None:
    assert resolve(TrainConfig(optimizer=optimizer), 1_000).weight_decay == decay


def test_scvi_tools_constants() -> None:
    plan = resolve(TrainConfig.scvi_tools(max_epochs=7), 1_000)
    expected = TrainConfig(
        max_epochs=7,
        batch_size=128,
        optimizer="adam",
        learning_rate=1e-3,
        adam_eps=0.01,
        weight_decay=1e-6,
        schedule="constant",
        kl_warmup=400,
        early_stopping=False,
        restore_best=False,
        epochs_rule="scvi-tools",
    )
    assert plan == replace(expected, patience=plan.patience)


def test_a_plan_comes_back_from_json() -> None:
    plan = TrainConfig(l1=(("decoder*", 0.1),), kl_warmup_terms=("z", "library"), kl_warmup=5)
    assert TrainConfig.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_an_unknown_option_in_json_is_refused() -> None:
    with pytest.raises(OptionError, match="'epochs' does not exist"):
        TrainConfig.from_dict({"epochs": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 0),
        ("max_epochs", 1.5),
        ("max_epochs", "ten"),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", -1e-3),
        ("optimizer", "sgd"),
        ("schedule", "linear"),
        ("kl_warmup", 1.5),
        ("kl_warmup", -1),
        ("kl_warmup_terms", "z"),
        ("patience", 0),
        ("train_size", 0.0),
        ("train_size", 1.1),
        ("clip_norm", 0.0),
        ("clip_value", float("inf")),
        ("n_threads", 0),
        ("warmup_fraction", 1.0),
        ("l1", (("w", -1.0),)),
        ("l2", (3,)),
        ("checkpoint_every", 0),
    ],
)
def test_an_impossible_value_is_an_option_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"training option '{name}'"):
        TrainConfig(**{name: value})


def test_the_plan_needs_no_torch() -> None:
    code = "import sys, celbo; celbo.TrainConfig(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
