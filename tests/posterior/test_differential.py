"""Differential expression: its table, its calls where the truth is known, and what it costs."""

from __future__ import annotations

import subprocess
import sys
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import celbo
from celbo.data.groups import groups_of
from celbo.errors import CategoryError, CelboWarning, InputError, OptionError
from celbo.posterior import differential
from celbo.posterior.differential import Question, default_delta, differential_expression
from celbo.posterior.shrinkage import Evidence, OnGrid, expected_fdr

COLUMNS = {
    "group1": "O", "group2": "O", "proba_de": "f", "bayes_factor": "f",
    "lfc_mean": "f", "lfc_median": "f", "lfc_std": "f", "lfc_lower": "f", "lfc_upper": "f",
    "scale1": "f", "scale2": "f", "raw_mean1": "f", "raw_mean2": "f", "detection1": "f", "detection2": "f",
    "auroc": "f", "marker_score": "f",
    "expected_fdr": "f", "is_de": "b", "delta": "f", "pseudocount": "f", "confounded": "b",
}  # fmt: skip
VANILLA = {
    {"proba_de": "proba_higher"}.get(name, name): kind
    for name, kind in COLUMNS.items()
    if name not in ("expected_fdr", "delta")
}
PUBLISHED = {"calibrated": False}


def trained(adata, *, batch_key: str | None = "batch", epochs: int = 8):
    """Return a model of the genes that have a count."""
    seen = adata[:, np.asarray(adata.X.sum(0)).ravel() > 0].copy()
    model = celbo.SCVI(seen, batch_key=batch_key, seed=0)
    model.train(max_epochs=epochs, n_threads=1, device="cpu", progress=False)
    model.cells = seen  # the model holds it by a weak reference
    return model


@pytest.fixture(scope="module")
def model():
    """Return a model of 400 cells x 300 genes, 2 batches, 3 types, 6 samples, with planted differences."""
    return trained(
        celbo.datasets.simulate(
            n_cells=400, n_genes=300, n_batches=2, n_cell_types=3, n_samples_per_batch=3, library_size=2000, seed=2
        ),
        epochs=20,
    )


def ask(model, groupby="cell_type", group1="type_1", group2=None, samples=None, **options) -> pd.DataFrame:
    """Compare groups of the model's own cells."""
    values = model.cells.obs[groupby] if isinstance(groupby, str) else groupby
    groups = groups_of(model.cells, model.data.cell_names, groupby=values, group1=group1, group2=group2)
    return differential_expression(model.network, model.data, groups, Question(**options), samples=samples)


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "columns"),
    [({}, COLUMNS), (PUBLISHED, COLUMNS), ({"mode": "vanilla"}, VANILLA)],
    ids=["calibrated", "published", "vanilla"],
)
def test_the_columns_are_those_of_the_contract(model, options, columns) -> None:
    table = ask(model, group1=None, **options)
    assert {name: kind.kind for name, kind in table.dtypes.items()} == columns
    assert list(table.columns) == list(columns)
    assert table.index.name == "gene"
    assert list(table["group1"].unique()) == ["type_1", "type_2", "type_3"]
    assert set(table["group2"]) == {"rest"}
    assert np.isfinite(table.select_dtypes("float")).all().all()
    for _, part in table.groupby("group1"):
        assert sorted(part.index) == sorted(model.schema.genes)


@pytest.mark.parametrize("options", [{}, PUBLISHED, {"calibrated": False, "n_samples": 100}, {"test_mode": "two"}])
@pytest.mark.parametrize("target", [0.01, 0.2])
def test_genes_are_called_in_the_order_of_their_evidence_down_to_the_target(model, options, target) -> None:
    table = ask(model, group1=None, fdr_target=target, **options)
    for _, part in table.sort_values(["proba_de", "expected_fdr"], ascending=[False, True]).groupby("group1"):
        assert part["proba_de"].between(0, 1).all()
        assert (np.diff(part["proba_de"]) <= 1e-12).all()
        assert (np.diff(part["expected_fdr"]) >= 0).all()
        assert (part["is_de"] == (part["expected_fdr"] <= target)).all()
        last = np.append(np.diff(part["proba_de"]) < -1e-12, True)  # of the genes with the same probability
        running = np.cumsum(1 - part["proba_de"]) / np.arange(1, len(part) + 1)
        if options.get("calibrated", True):  # a gene that more likely does not differ is not called on others' account
            running = np.where(part["proba_de"] < 0.5, np.maximum(running, 1 - part["proba_de"]), running)
        assert part["expected_fdr"][last].to_numpy() == pytest.approx(np.asarray(running)[last], abs=1e-9)
    more, fewer = (ask(model, fdr_target=target, **options)["is_de"].sort_index() for target in (0.2, 0.01))
    assert (more >= fewer).all()


@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["calibrated", "published"])
def test_the_bayes_factor_is_the_log_of_the_odds(model, options) -> None:
    table = ask(model, **options)
    p = table["proba_de"]
    inside = p.between(1e-6, 1 - 1e-6) if not options else p.between(0.01, 0.99)
    odds = np.log(p / (1 - p))[inside]
    assert table["bayes_factor"][inside].to_numpy() == pytest.approx(odds.to_numpy(), abs=0.02 if options else 1e-6)


def test_the_published_rule_calls_by_the_bayes_factor(model) -> None:
    table = ask(model, mode="vanilla", n_samples=1000)
    p = table["proba_higher"]
    expected = np.log((p + 0.0005) / (1 - p + 0.0005))
    assert table["bayes_factor"].to_numpy() == pytest.approx(expected.to_numpy())
    assert (table["is_de"] == (table["bayes_factor"].abs() > 3)).all()
    assert (np.sign(table["bayes_factor"]) == np.sign(table["lfc_mean"]))[:30].all()


@pytest.mark.parametrize(
    "options", [{}, {"calibrated": False}, {"mode": "vanilla"}], ids=["calibrated", "pairs", "vanilla"]
)
def test_the_called_come_first_by_the_size_of_their_score_and_ties_by_evidence(model, options) -> None:
    for _, part in ask(model, group1=None, **options).groupby("group1"):
        size, evidence = (
            part["marker_score"].abs(),
            part["bayes_factor"].abs() if "mode" in options else part["bayes_factor"],
        )
        keys = list(zip(~part["is_de"], -size, -evidence, strict=True))
        assert keys == sorted(keys) and (bool(options) or 0 < part["is_de"].sum() < len(part))


def test_the_score_is_the_sure_fold_change_times_the_root_of_the_separation(model) -> None:
    table = ask(model)
    apart = 2 * table["auroc"] - 1
    rise = table["lfc_lower"].clip(lower=0) * np.sqrt(apart.clip(lower=0))
    fall = table["lfc_upper"].clip(upper=0) * np.sqrt((-apart).clip(lower=0))
    assert table["marker_score"].to_numpy() == pytest.approx((rise + fall).to_numpy(), abs=1e-12)
    assert (table["marker_score"] > 0.1).sum() > 1 and (table["marker_score"] < -0.1).sum() > 1


@pytest.mark.parametrize(
    ("options", "slack"),
    [({}, 1e-6), ({"pseudocount": 1e-3}, 1e-6), ({**PUBLISHED, "delta": 0.0}, 3e-4), ({"delta": 1.0}, 1e-6)],
    ids=["calibrated", "pseudocount", "published", "delta"],
)
@pytest.mark.parametrize("tail", [0.01, 0.1, 0.4])
def test_what_is_tested_is_the_fold_change_that_is_shown(model, options, slack, tail) -> None:
    table = ask(model, credible_level=1 - 2 * tail, **options)
    delta = table["delta"]
    beyond = (table["lfc_lower"] >= delta) | (table["lfc_upper"] <= -delta)
    sure, unsure = table["proba_de"] > 1 - tail + slack, table["proba_de"] < 1 - tail - slack
    assert beyond[sure].all()
    assert not beyond[unsure].any()
    assert sure.sum() >= (3 if tail == 0.4 or "calibrated" not in options else 0)  # pairs of cells are rarely sure
    assert unsure.sum() >= 3


def test_intervals_hold_the_median_and_widen_with_their_level(model) -> None:
    narrow, wide = (ask(model, credible_level=level).sort_index() for level in (0.5, 0.99))
    for table in (narrow, wide):
        assert (table["lfc_lower"] < table["lfc_median"]).all()
        assert (table["lfc_median"] < table["lfc_upper"]).all()
    assert (wide["lfc_lower"] < narrow["lfc_lower"]).all()
    assert (wide["lfc_upper"] > narrow["lfc_upper"]).all()
    assert wide["lfc_mean"].equals(narrow["lfc_mean"])


def test_raw_columns_are_those_of_the_counts(model) -> None:
    table = ask(model).loc[list(model.schema.genes)]
    counts, mine = model.cells.X.toarray(), (model.cells.obs["cell_type"] == "type_1").to_numpy()
    for side, cells in ((1, mine), (2, ~mine)):
        assert table[f"raw_mean{side}"].to_numpy() == pytest.approx(counts[cells].mean(0), rel=1e-5, abs=1e-9)
        assert table[f"detection{side}"].to_numpy() == pytest.approx((counts[cells] > 0).mean(0))


def test_scales_are_shares_and_their_ratio_is_near_the_fold_change(model) -> None:
    table = ask(model)
    for scale in ("scale1", "scale2"):
        assert table[scale].sum() == pytest.approx(1, abs=0.05)
    often = table[(table["raw_mean1"] > 5) & (table["raw_mean2"] > 5)]
    ratio = np.log2(often["scale1"] / often["scale2"])
    assert (ratio - often["lfc_mean"]).abs().max() < 0.35  # shrunk towards none
    assert (often["lfc_mean"].abs() < ratio.abs() + 0.1).all()


# -- sides, seeds, sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, PUBLISHED, {"mode": "vanilla"}, {"samples": True}], ids=str)
def test_to_swap_the_groups_is_to_negate(model, options) -> None:
    samples = model.cells.obs["sample"].astype("category").cat.codes.to_numpy(np.int64)
    options = {"samples": samples} if "samples" in options else options
    one, other = (
        ask(model, group1=a, group2=b, **options).sort_index() for a, b in (("type_1", "type_2"), ("type_2", "type_1"))
    )
    sign = -1 if "mode" in options else 1
    for name, mirrored, factor in (
        ("lfc_mean", "lfc_mean", -1), ("lfc_lower", "lfc_upper", -1), ("scale1", "scale2", 1),
        ("raw_mean1", "raw_mean2", 1), ("bayes_factor", "bayes_factor", sign),
    ):  # fmt: skip
        assert one[name].to_numpy() == pytest.approx(factor * other[mirrored].to_numpy(), abs=1e-6)
    assert (one["is_de"] == other["is_de"]).all()


def test_the_rest_of_two_groups_is_the_other(model) -> None:
    halves = np.where(model.cells.obs["cell_type"] == "type_1", "a", "b")
    rest, named = ask(model, halves, "a"), ask(model, halves, "a", "b")
    pd.testing.assert_frame_equal(rest.drop(columns="group2"), named.drop(columns="group2"))


def test_the_rest_is_the_explicit_group_up_to_what_is_drawn(model) -> None:
    rest = ask(model).sort_index()
    explicit = ask(model, np.where(model.cells.obs["cell_type"] == "type_1", "a", "b"), "a", "b").sort_index()
    assert spearmanr(rest["lfc_mean"], explicit["lfc_mean"])[0] > 0.98
    assert (rest["is_de"] != explicit["is_de"]).mean() < 0.02
    for name in ("raw_mean1", "raw_mean2", "detection2"):
        assert rest[name].to_numpy() == pytest.approx(explicit[name].to_numpy())


def test_the_seed_decides_the_table_and_another_agrees(model) -> None:
    tables = [ask(model, group1=None, seed=seed) for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    one, other = (t.set_index("group1", append=True).sort_index() for t in (tables[0], tables[2]))
    assert (one["lfc_mean"] != other["lfc_mean"]).any()
    assert spearmanr(one["lfc_mean"], other["lfc_mean"])[0] > 0.99
    assert (one["is_de"] & other["is_de"]).sum() > 0.95 * (one["is_de"] | other["is_de"]).sum()


def test_a_part_of_the_cells_says_nearly_what_all_say(model) -> None:
    every, part = (ask(model, n_samples=n).sort_index() for n in (5000, 60))
    assert spearmanr(every["lfc_mean"], part["lfc_mean"])[0] > 0.7
    assert part["lfc_std"].median() > every["lfc_std"].median()
    assert part["raw_mean1"].equals(every["raw_mean1"])  # what was counted is of all cells
    assert part["is_de"].sum() < every["is_de"].sum()


def test_the_state_of_the_network_is_as_it_was(model) -> None:
    model.network.train()
    ask(model)
    assert all(module.training for module in model.network.modules())
    model.network.eval()


# -- options -----------------------------------------------------------------------------------------------------------


IMPOSSIBLE = {
    "mode": ["Change", "", None, 3, ["change"]],
    "test_mode": ["one", None, 2],
    "calibrated": ["no", None, 1],
    "batch_correction": ["no", None, 0],
    "importance_weighting": ["yes", None],
    "delta": [-1, -1e-9, np.nan, np.inf, "x", True, [0.2], 1j],
    "pseudocount": [-1, np.nan, np.inf, "a", False],
    "fdr_target": [0, 1, -1, 2, 5, np.nan, None, "a", True, [0.05]],
    "credible_level": [0, 1, 95, np.nan, None, "x"],
    "n_samples": [0, -5, 1.5, None, True, "10", np.nan],
    "densest": [0, -1, 1.5, np.nan, "x", True],
    "seed": [-1, 1.5, None, "a", 2**64, True],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in IMPOSSIBLE.items() for v in values], ids=str)
@pytest.mark.parametrize("published", [False, True])
def test_an_impossible_value_is_named_with_its_option(model, name, value, published) -> None:
    options = (PUBLISHED if published else {}) | {name: value}
    with pytest.raises(OptionError, match=f"^{name}="):
        ask(model, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"transform_batch": (7,)}, CategoryError, "Known: 'batch_1', 'batch_2'"),
        ({"transform_batch": ()}, CategoryError, "transform_batch does not name any"),
        ({"transform_batch": (0,), "batch_correction": False}, OptionError, "no sense without batch correction"),
        ({"samples": np.arange(400) % 6, "mode": "vanilla"}, OptionError, "sample_key.*Leave out mode and calibrated"),
        ({"samples": np.arange(400) % 6, "calibrated": False}, OptionError, "sample_key"),
        ({"samples": np.zeros(400, int)}, InputError, "group 'type_1' is of one sample only"),
        ({"samples": np.full(400, -1)}, InputError, "group 'type_1' has no cells with a sample"),
        ({"samples": np.arange(400)}, InputError, "names 400 samples of 400 cells.*a donor"),
    ],
    ids=lambda value: str(value)[:50].replace("\n", " "),
)
def test_what_does_not_go_together_is_named(model, options, error, words) -> None:
    with pytest.raises(error, match=words):
        ask(model, **options)


def test_a_group_of_one_sample_is_named_among_many(model) -> None:
    samples = np.arange(400) % 6
    samples[(model.cells.obs["cell_type"] == "type_2").to_numpy()] = 0
    with pytest.raises(InputError, match="group 'type_2' is of one sample only"):
        ask(model, group1=None, samples=samples)
    assert len(ask(model, group1=["type_1", "type_3"], samples=samples)) == 2 * model.schema.n_genes


def test_an_empty_group_is_named(model) -> None:
    groups = groups_of(None, model.data.cell_names, groupby=model.cells.obs["cell_type"])
    empty = groups.kept([groups.cells[0], groups.cells[1][:0], groups.cells[2]])
    with pytest.raises(InputError, match="group 'type_2' has no cells"):
        differential_expression(model.network, model.data, empty, Question())


def test_the_threshold_is_that_of_the_outer_genes() -> None:
    rng = np.random.default_rng(0)
    lfc = np.concatenate([rng.normal(0, 0.05, 800), rng.normal(-2, 0.05, 100), rng.normal(3, 0.05, 100)])
    assert default_delta(lfc) == pytest.approx(0.6 * 2.5, rel=0.02)
    assert default_delta(rng.normal(0, 0.02, 1000)) == 0.1
    assert default_delta(np.zeros(10)) == 0.1
    assert default_delta(np.array([np.nan, np.inf, 1.0])) == 0.1


@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["calibrated", "published"])
def test_a_threshold_from_the_data_is_returned_and_is_the_one_used(model, options) -> None:
    table = ask(model, delta=None, **options)
    delta = table["delta"].unique()
    assert len(delta) == 1
    assert delta[0] >= 0.1
    pd.testing.assert_frame_equal(table, ask(model, delta=float(delta[0]), **options))


def test_a_larger_threshold_is_harder_to_pass(model) -> None:
    p = [ask(model, delta=delta)["proba_de"].sort_index() for delta in (0, 0.25, 1, 100)]
    assert all((a >= b).all() for a, b in pairwise(p))
    assert (p[0] >= 0.5).all()  # up or down, whatever is nearer
    assert p[3].max() < 1e-6


@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["calibrated", "published"])
def test_a_pseudocount_is_returned_and_pulls_towards_none(model, options) -> None:
    none, some = ask(model, pseudocount=0, **options).sort_index(), ask(model, pseudocount=1e-2, **options).sort_index()
    assert set(none["pseudocount"]) == {0.0}
    assert set(some["pseudocount"]) == {1e-2}
    assert (some["lfc_mean"].abs() <= none["lfc_mean"].abs() + 1e-3).mean() > 0.95
    assert ask(model, pseudocount=1e9, **options)["lfc_mean"].abs().max() < 1e-6


def test_pseudocounts_by_default_are_none_or_one_count_in_a_hundred_cells(model) -> None:
    assert set(ask(model)["pseudocount"]) == {0.0}
    everyone = 0.01 / model.data.library.mean()
    assert ask(model, **PUBLISHED)["pseudocount"].unique() == pytest.approx([everyone])


def test_two_tails_are_no_less_than_one(model) -> None:
    three, two = (ask(model, test_mode=mode)["proba_de"].sort_index() for mode in ("three", "two"))
    assert (two >= three - 1e-12).all()
    assert (two <= 2 * three + 1e-12).all()


@pytest.mark.parametrize(
    "options",
    [{"importance_weighting": True}, {"densest": 0.8}, {"densest": 1}, {"transform_batch": (1,)},
     {"importance_weighting": True, "calibrated": False, "n_samples": 200}],
    ids=str,
)  # fmt: skip
def test_further_options_change_the_table_a_little(model, options) -> None:
    base = ask(model, **{k: v for k, v in options.items() if k in ("calibrated", "n_samples")}).sort_index()
    table = ask(model, **options).sort_index()
    assert np.isfinite(table.select_dtypes("float")).all().all()
    assert spearmanr(base["lfc_mean"], table["lfc_mean"])[0] > 0.8
    if "densest" not in options or options["densest"] < 1:
        assert (base["scale1"] != table["scale1"]).any()
    assert table["raw_mean1"].equals(base["raw_mean1"])


# -- batches -----------------------------------------------------------------------------------------------------------


WAYS = [{}, {"calibrated": False, "n_samples": 300}, {"mode": "vanilla", "n_samples": 300}, {"sample_key": True}]


@pytest.mark.parametrize("way", WAYS, ids=["calibrated", "pairs", "vanilla", "over samples"])
def test_groups_without_a_common_batch_are_not_corrected_for_it_and_a_warning_says_so(model, way) -> None:
    options = {name: value for name, value in way.items() if name != "sample_key"}
    samples = pd.factorize(model.cells.obs["sample"])[0] if "sample_key" in way else None
    with pytest.warns(
        CelboWarning, match=r"No batch holds enough cells .*'batch_1' and 'batch_2'.*without batch correct"
    ):
        table = ask(model, "batch", "batch_1", "batch_2", samples=samples, **options)
    assert np.isfinite(table.select_dtypes("float")).all().all() and table["confounded"].all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observed = ask(model, "batch", "batch_1", "batch_2", batch_correction=False, samples=samples, **options)
    pd.testing.assert_frame_equal(table, observed)
    if way == {}:
        assert table["is_de"].sum() > 100  # the batches differ in all genes
        counts = np.log2(table["raw_mean1"] / table["raw_mean2"])[
            table["raw_mean1"].clip(upper=table["raw_mean2"]) > 0.5
        ]
        assert np.corrcoef(counts, table["lfc_median"][counts.index])[0, 1] > 0.95


def test_batches_to_decode_under_ask_for_the_models_word(model) -> None:
    with pytest.warns(CelboWarning, match="what the model does not ascribe to the batch, and it may have ascribed all"):
        table = ask(model, "batch", "batch_1", "batch_2", transform_batch=(0, 1))
    with pytest.warns(CelboWarning, match="without batch correction"):
        assert table["is_de"].sum() < ask(model, "batch", "batch_1", "batch_2")["is_de"].sum() / 10
    assert table["confounded"].all()


@pytest.mark.parametrize("way", WAYS[:3], ids=["calibrated", "pairs", "vanilla"])
def test_only_the_comparisons_that_no_batch_holds_are_left_uncorrected(model, way) -> None:
    batch, kind = (model.cells.obs[name].astype(str).to_numpy() for name in ("batch", "cell_type"))
    group = np.where(kind == "type_1", np.where(batch == "batch_1", "one", "two"), kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = ask(model, group, None, **way)  # against the rest, which each batch holds
        assert not table["confounded"].any()
    group[(batch == "batch_2") & (group != "two")] = "other"
    with pytest.warns(CelboWarning, match="both 'two' and 'type_2', so"):
        table = ask(model, group, ["two", "one", "type_3"], "type_2", **way)
    assert table.groupby("group1")["confounded"].agg(["min", "max"]).to_numpy().tolist() == [[0, 0], [1, 1], [0, 0]]


def test_an_effect_of_a_condition_that_is_the_batch_is_never_a_clean_zero() -> None:
    adata = celbo.datasets.simulate(n_cells=600, n_genes=200, n_batches=1, n_cell_types=2, library_size=3000, seed=4)
    rng = np.random.default_rng(0)
    treated = rng.random(600) < 0.5
    counts = adata.X.toarray()
    seen = np.argsort(-counts.mean(0))[20:80:6]
    counts[np.ix_(treated, seen)] += rng.poisson(8 * (1 + counts[:, seen].mean(0)), (int(treated.sum()), 10))
    adata.X, adata.obs["batch"] = type(adata.X)(counts), np.where(treated, "treated", "control")
    kept = adata[:, np.asarray(adata.X.sum(0)).ravel() > 0].copy()
    with_batch, without = (trained(kept, batch_key=key, epochs=15) for key in ("batch", None))
    ours = np.asarray(with_batch.schema.genes)[np.isin(with_batch.schema.genes, adata.var_names[seen])]
    with pytest.warns(CelboWarning, match="A condition that you compare is not a batch"):
        default = ask(with_batch, "batch", "treated", "control")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CelboWarning)
        uncorrected = ask(with_batch, "batch", "treated", "control", batch_correction=False)
        plain = ask(without, "batch", "treated", "control")
    pd.testing.assert_frame_equal(default, uncorrected)
    for table in (default, plain):
        assert (table.loc[ours, "is_de"] & (table.loc[ours, "lfc_lower"] > 2)).all()
        assert sorted(table.index[:10]) == sorted(ours)
    assert (default.loc[ours, "lfc_median"] - plain.loc[ours, "lfc_median"]).abs().max() < 0.3


def test_a_stray_cell_in_the_other_batch_changes_little(model) -> None:
    first = (model.cells.obs["batch"] == "batch_1").to_numpy()
    apart = np.where(first, "a", "b")
    stray = apart.copy()
    stray[np.flatnonzero(~first)[0]] = "a"
    with pytest.warns(CelboWarning, match="No batch holds enough cells"):
        one, other = (ask(model, group, "a", "b").sort_index() for group in (stray, apart))
    assert spearmanr(one["lfc_mean"], other["lfc_mean"])[0] > 0.95
    assert (one["lfc_std"] / other["lfc_std"]).median() == pytest.approx(1, abs=0.2)


def test_the_effect_of_batches_is_no_difference_of_types() -> None:
    uneven = celbo.datasets.simulate(n_cells=500, n_genes=200, n_batches=2, n_cell_types=2, batch_effect=0.6,
                                     de_fraction=0.0, library_size=3000, seed=4)  # fmt: skip
    rng = np.random.default_rng(0)
    group = np.where(rng.random(500) < np.where(uneven.obs["batch"] == "batch_1", 0.8, 0.2), "a", "b")
    model = trained(uneven)
    assert ask(model, group, "a", "b")["is_de"].sum() <= 1
    assert ask(model, group, "a", "b", batch_correction=False)["is_de"].sum() > 20


def test_a_group_in_one_batch_only_is_compared_within_it(model) -> None:
    only = ((model.cells.obs["cell_type"] == "type_1") & (model.cells.obs["batch"] == "batch_1")).to_numpy()
    group = np.where(only, "mine", np.where(model.cells.obs["cell_type"] == "type_1", None, "others"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = ask(model, group, "mine", "others").sort_index()
    assert spearmanr(table["lfc_mean"], ask(model).sort_index()["lfc_mean"])[0] > 0.75


# -- groups of few cells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n1", "n2"), [(1, 300), (2, 300), (2, 3)])
@pytest.mark.parametrize("options", [{}, PUBLISHED, {"mode": "vanilla"}], ids=["calibrated", "published", "vanilla"])
@pytest.mark.filterwarnings("ignore:Fewer than:celbo.errors.CelboWarning")
@pytest.mark.filterwarnings("ignore:No batch holds:celbo.errors.CelboWarning")
def test_a_cell_or_two_give_finite_numbers(model, n1, n2, options) -> None:
    group = np.where(np.arange(400) < n1, "few", np.where(np.arange(400) < n1 + n2, "more", None))
    table = ask(model, group, "few", "more", **options)
    assert np.isfinite(table.select_dtypes("float")).all().all()


@pytest.mark.filterwarnings("ignore:Fewer than:celbo.errors.CelboWarning")
def test_one_cell_against_another_is_a_named_error(model) -> None:
    group = np.array(["one", "other", *[None] * 398], object)
    with pytest.raises(InputError, match=r"have no two cells of one group and batch.*Give larger groups"):
        ask(model, group, "one", "other")
    with pytest.raises(InputError, match=r"no two cells.*more n_samples"):
        ask(model, n_samples=1)
    assert np.isfinite(ask(model, group, "one", "other", **PUBLISHED)["lfc_mean"]).all()


@pytest.mark.parametrize("n", [1, 3, 10])
@pytest.mark.filterwarnings("ignore:Fewer than:celbo.errors.CelboWarning")
def test_a_few_cells_of_a_type_do_not_differ_from_the_others_of_it(model, n) -> None:
    cells = np.flatnonzero(model.cells.obs["cell_type"] == "type_1")
    calls = []
    for seed in range(8):
        group = np.full(400, None, object)
        group[cells] = "rest of them"
        group[np.random.default_rng(seed).permutation(cells)[:n]] = "few"
        calls.append(ask(model, group, "few", "rest of them")["is_de"].sum())
    assert np.count_nonzero(calls) <= 1
    assert sum(calls) <= 2


def test_twelve_cells_are_too_few_for_the_densest(model) -> None:
    group = np.where(np.arange(400) < 12, "few", "more")
    with pytest.warns(CelboWarning, match="12 cells are too few to tell the densest"):
        table = ask(model, group, "few", densest=0.5)
    assert np.isfinite(table["lfc_mean"]).all()


# -- what is true ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """Return models of cells of two types between which about 30 of 300 genes differ, and the log2 fold changes."""
    found = []
    for seed in range(4):
        adata = celbo.datasets.simulate(
            n_cells=400, n_genes=300, n_batches=2, n_cell_types=2, library_size=3000, seed=seed
        )
        model = trained(adata)
        found.append((model, adata.uns["truth"]["log2_fold_change"]["type_1"]))
    return found


def test_planted_effects_are_called_at_the_false_discovery_rate(planted) -> None:
    proportions, powers, covered = [], [], []
    for model, truth in planted:
        table = ask(model)
        lfc = truth[table.index].to_numpy()
        called = table["is_de"].to_numpy()
        proportions.append((lfc[called] == 0).mean())
        powers.append(called[np.abs(lfc) > 0.5].mean())
        covered.append(((table["lfc_lower"] <= lfc) & (lfc <= table["lfc_upper"])).mean())
        real = called & (lfc != 0)
        assert (np.sign(table["lfc_median"][real]) == np.sign(lfc[real])).all()  # group 1 over group 2
    assert np.mean(proportions) <= 0.05 + 2 * np.std(proportions, ddof=1) / 2
    assert np.mean(powers) > 0.75
    assert 0.93 < np.mean(covered) < 1


def test_halves_of_one_type_are_not_called(planted) -> None:
    for model, _ in planted:
        cells = np.flatnonzero(model.cells.obs["cell_type"] == "type_1")
        for seed in range(3):
            half = np.full(400, None, object)
            half[cells] = np.random.default_rng(seed).permutation(np.arange(len(cells)) % 2).astype(str)
            assert ask(model, half, "0", "1", seed=seed)["is_de"].sum() == 0


@pytest.fixture(scope="module")
def donors():
    """Return a model of one cell type of eight donors who differ."""
    return trained(
        celbo.datasets.simulate(n_cells=800, n_genes=300, n_batches=1, n_cell_types=1, n_samples_per_batch=8,
                                sample_effect=0.3, library_size=3000, seed=0),
        batch_key=None,
    )  # fmt: skip


def codes_of(model) -> np.ndarray:
    return model.cells.obs["sample"].astype("category").cat.codes.to_numpy(np.int64)


def test_groups_of_donors_are_called_over_cells_and_not_over_samples(donors) -> None:
    samples = codes_of(donors)
    calls = {"cells": [], "samples": []}
    for seed in range(4):
        treated = np.random.default_rng(seed).permutation(8)[:4]
        arm = np.where(np.isin(samples, treated), "treated", "control")
        calls["cells"].append(int(ask(donors, arm, "treated", "control")["is_de"].sum()))
        calls["samples"].append(int(ask(donors, arm, "treated", "control", samples=samples)["is_de"].sum()))
    assert min(calls["cells"]) > 20
    assert sum(n > 0 for n in calls["samples"]) <= 1
    assert sum(calls["samples"]) <= 2


def test_donors_in_both_arms_are_compared_with_themselves() -> None:
    adata = celbo.datasets.simulate(n_cells=800, n_genes=300, n_batches=1, n_cell_types=2, n_samples_per_batch=4,
                                    sample_effect=0.5, library_size=3000, seed=1)  # fmt: skip
    model = trained(adata, batch_key=None)
    truth, samples = adata.uns["truth"]["log2_fold_change"]["type_1"], codes_of(model)
    table = ask(model, samples=samples)
    lfc = truth[table.index].to_numpy()
    called = table["is_de"].to_numpy()
    assert (lfc[called] == 0).mean() <= 0.1
    assert called[np.abs(lfc) > 0.75].mean() > 0.7
    half = np.random.default_rng(0).permutation(np.arange(len(samples)) % 2).astype(str)
    assert ask(model, half, "0", "1", samples=samples)["is_de"].sum() <= 1


def test_cells_without_a_sample_are_left_out(donors) -> None:
    samples = codes_of(donors)
    arm = np.where(samples < 4, "a", "b")
    known = np.where(np.isin(samples, [3, 7]), -1, samples)
    fewer = np.where(np.isin(samples, [3, 7]), None, arm)
    left_out = ask(donors, arm, "a", "b", samples=known)
    numbers = ["lfc_mean", "lfc_lower", "bayes_factor"]
    pd.testing.assert_frame_equal(left_out[numbers], ask(donors, fewer, "a", "b", samples=known)[numbers])


# -- memory ------------------------------------------------------------------------------------------------------------


MEMORY = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
import celbo
from celbo.data.groups import groups_of
from celbo.posterior.differential import Question, differential_expression

n = int(sys.argv[1])
adata = celbo.datasets.simulate(n_cells=n, n_genes=1000, n_batches=3, n_cell_types=6, seed=0)
model = celbo.SCVI(adata, batch_key="batch", n_hidden=32, seed=0)
groups = groups_of(None, model.data.cell_names, groupby=adata.obs["cell_type"].to_numpy())
small = groups.kept([cells[:20] for cells in groups.cells])
differential_expression(model.network, model.data, small, Question())  # what any first call takes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
differential_expression(model.network, model.data, groups, Question(n_samples=1000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cells() -> None:
    taken = []
    for n in (2_000, 20_000):
        done = subprocess.run([sys.executable, "-c", MEMORY, str(n)], capture_output=True, text=True, check=True)
        taken.append(int(done.stdout.split()[-1]) / 1024)  # MB
    assert max(taken) < 500
    assert taken[1] < taken[0] + 100


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.25, None])
def test_genes_in_slices_say_nearly_the_same(model, monkeypatch, delta) -> None:
    whole = ask(model, delta=delta).sort_index()
    asked = []
    monkeypatch.setattr(differential, "gene_slices", lambda n, units: asked.append(n) or [slice(0, 150), slice(150, n)])
    parts = ask(model, delta=delta).sort_index()
    assert asked == [len(whole)]
    assert spearmanr(whole["lfc_mean"], parts["lfc_mean"])[0] > 0.99  # each slice has a prior and a trend of its own
    assert (whole["is_de"] != parts["is_de"]).mean() < 0.03
    assert parts["delta"].nunique() == 1
    assert parts["delta"].iloc[0] == pytest.approx(whole["delta"].iloc[0], rel=0.2)


# -- numbers near one and near zero ------------------------------------------------------------------------------------


def test_genes_that_are_sure_keep_the_magnitude_of_their_evidence() -> None:
    evidence = Evidence(
        np.array([[5e3, 5e4, 60.0]]), np.array([[50.0, 500.0, 50.0]]), np.full((1, 3), 1e6), np.full((1, 3), 1e6),
        np.full(3, 1e9),
    )  # fmt: skip
    changes = OnGrid.of(evidence).posterior(np.full(13, 1 / 13)).fold_changes(delta=0.25)
    fdr = expected_fdr(changes.not_p)
    assert (fdr > 0).all() and fdr[:2].max() < 1e-100
    assert np.isfinite(changes.log_odds).all()
    assert changes.log_odds[1] > 5 * changes.log_odds[0] > 1000  # where 1 - p is too small for a number
