"""Numbers that are no whole numbers: what they look like, and rounding where that makes counts of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from test_at_a_glance import cells_of, counts_of

import celbo
from celbo.data.check import check
from celbo.data.decimals import round_counts, rounded_logarithms
from celbo.errors import CountsError, in_flags

RNG = np.random.default_rng(0)
COUNTS = counts_of(depth=600)


def ambient(counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, np.maximum(counts - RNG.uniform(0, 0.4, counts.shape), 0.6), 0)


def shared_out(counts: np.ndarray, share: float) -> np.ndarray:
    moved = (RNG.random(counts.shape) < share) & (counts > 0)
    return counts + moved * RNG.choice([0.5, 1 / 3, 0.01], counts.shape)


ESTIMATED: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "SoupX": (lambda: ambient(COUNTS), "ambient RNA (SoupX, decontX)"),
    "decontX": (lambda: COUNTS * RNG.uniform(0.5, 1, COUNTS.shape), "ambient RNA (SoupX, decontX)"),
    "EM": (lambda: shared_out(COUNTS, 0.04), "expected counts"),
    "RSEM": (lambda: np.round(shared_out(COUNTS, 0.4), 2), "expected counts"),
}
MADE: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "CP10K": (lambda: COUNTS / COUNTS.sum(1, keepdims=True) * 1e4, "normalised to 10,000 a cell"),
    "TPM": (
        lambda: COUNTS * (w := RNG.uniform(0.2, 5, 60)) / (COUNTS * w).sum(1, keepdims=True) * 1e6,
        "normalised to a million a cell (TPM or CPM)",
    ),
    "shares": (lambda: COUNTS / COUNTS.sum(1, keepdims=True), "normalised to 1 a cell"),
    "size factors": (lambda: COUNTS / RNG.lognormal(0, 0.5, (300, 1)), "normalised"),
    "log1p": (lambda: np.log1p(COUNTS / COUNTS.sum(1, keepdims=True) * 1e4), "log-transformed"),
    "log2": (lambda: np.log2(1 + COUNTS), "log-transformed"),
    "log of corrected": (lambda: np.log1p(ambient(COUNTS)[:, :40]), "transformed"),
    "square roots": (lambda: np.sqrt(COUNTS), "square roots"),
}


@pytest.mark.parametrize("kind", ESTIMATED)
def test_estimated_counts_are_named_and_rounding_is_offered(kind: str) -> None:
    make, words = ESTIMATED[kind]
    found = check(cells_of(make())).errors[0]
    assert words in found.message
    assert "celbo.round_counts(adata)" in found.message
    assert found.settings == {"round_counts": True}
    with in_flags():
        assert "--round-counts" in found.message


@pytest.mark.parametrize("kind", MADE)
def test_what_is_no_count_is_named_and_rounding_is_not_offered(kind: str) -> None:
    make, words = MADE[kind]
    adata = cells_of(make())
    found = check(adata).errors[0]
    assert words in found.message
    assert "round" not in found.message
    with pytest.raises(CountsError, match="was not rounded"):
        round_counts(adata)


@pytest.mark.parametrize("kind", ESTIMATED)
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_rounding_is_to_the_nearest_whole_number(kind: str, form: Callable[..., object]) -> None:
    values = ESTIMATED[kind][0]().astype("float32")
    adata = cells_of(values)
    adata.X = form(values)
    whole = celbo.round_counts(adata)
    made = whole.X.toarray() if sp.issparse(whole.X) else whole.X
    assert np.array_equal(made, np.rint(values))
    given = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    assert np.array_equal(given, values)


def test_rounding_of_a_layer_leaves_x_and_a_new_name_leaves_the_layer() -> None:
    values = ambient(COUNTS)
    adata = cells_of(COUNTS)
    adata.layers["soupx"] = values
    assert np.array_equal(round_counts(adata, layer="soupx").layers["soupx"], np.rint(values))
    made = round_counts(adata, layer="soupx", key_added="counts")
    assert np.array_equal(made.layers["soupx"], values)
    assert np.array_equal(made.layers["counts"], np.rint(values))
    assert np.array_equal(made.X.toarray(), COUNTS)


def test_missing_and_negative_values_are_not_rounded_away() -> None:
    values = ambient(COUNTS)
    values[3, 4] = -0.4
    with pytest.raises(CountsError, match="rounding does not mend: 1 negative"):
        round_counts(cells_of(values))


def test_a_check_with_rounding_tells_what_it_changes() -> None:
    result = check(cells_of(shared_out(COUNTS, 0.04)), round_counts=True)
    assert result.ok
    assert "values had decimals" in result.notes[0].message
    assert result.settings == {"round_counts": True}


def test_a_model_with_rounding_rounds_new_cells_too() -> None:
    values = ambient(COUNTS)
    adata = cells_of(values)
    model = celbo.SCVI(adata, round_counts=True, n_hidden=8)
    assert np.array_equal(model.data.counts.to_scipy().toarray(), np.rint(values))
    model.train(max_epochs=1, progress=False)
    whole = celbo.round_counts(adata)
    assert np.allclose(model.get_latent_representation(adata.copy()), model.get_latent_representation(whole))


# -- whole numbers that are logarithms -------------------------------------------------------------------------------


def test_rounded_logarithms_are_told() -> None:
    logs = np.rint(np.log1p(COUNTS / COUNTS.sum(1, keepdims=True) * 1e4))
    found = check(cells_of(logs))
    assert "looks like rounded logarithms" in {each.what for each in found.warnings}


@pytest.mark.parametrize("depth", [2.0, 10.0, 40.0])
def test_shallow_counts_are_no_logarithms(depth: float) -> None:
    counts = counts_of(2000, depth=depth)
    assert not rounded_logarithms(sp.csr_matrix(counts), counts.max())
    poisson = np.random.default_rng(1).poisson(3.0, (400, 60))
    assert not rounded_logarithms(poisson, poisson.max())


def test_pairs_of_ends_are_no_logarithms() -> None:
    fragments = np.random.default_rng(0).poisson(0.3, (2000, 200))
    ends = 2 * fragments - (np.random.default_rng(1).random(fragments.shape) < 0.1) * (fragments > 0)
    assert not rounded_logarithms(ends, ends.max())
