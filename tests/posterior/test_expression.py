"""Expected expression, files of it, and posterior predictive counts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from celbo.errors import CategoryError, GenesError, OptionError, WriteError
from celbo.posterior import stream
from celbo.posterior.evidence import elbo, marginal_ll
from celbo.posterior.expression import normalized_expression, posterior_predictive_sample, write_expression


def expression(asked, **options) -> np.ndarray:
    return normalized_expression(asked.network, asked.data, asked.every, **options)


@pytest.mark.parametrize("library_size", [1.0, 1e4])
def test_the_shares_of_a_cell_sum_to_the_library_size(asked, library_size) -> None:
    assert expression(asked, library_size=library_size).sum(1) == pytest.approx(np.full(300, library_size), rel=1e-5)


def test_a_latent_library_size_gives_expected_counts(asked) -> None:
    assert expression(asked, library_size="latent").sum(1) == pytest.approx(asked.data.library, rel=1e-5)


def test_size_factors_multiply_scales_that_are_not_shares(make_asked) -> None:
    sized = make_asked(size_factor_key="size")
    scale, rate = expression(sized), expression(sized, library_size="latent")
    assert rate == pytest.approx(scale * sized.data.size_factor[:, None], rel=1e-5)
    assert np.ptp(scale.sum(1)) > 0.1


def test_some_genes_are_columns_of_all(asked) -> None:
    genes = np.array([7, 3, 99])
    assert (expression(asked, genes=genes) == expression(asked)[:, genes]).all()


@pytest.mark.parametrize("batch_size", [1, 13, 300])
def test_the_mean_state_gives_the_same_for_any_batch_size(asked, batch_size) -> None:
    whole = expression(asked, give_mean=True)
    assert expression(asked, give_mean=True, batch_size=batch_size) == pytest.approx(whole, rel=1e-4, abs=1e-9)


def test_the_mean_state_has_no_noise(asked) -> None:
    assert (expression(asked, give_mean=True, seed=1) == expression(asked, give_mean=True, seed=2)).all()
    assert (expression(asked, seed=1) != expression(asked, seed=2)).any()
    assert (expression(asked, seed=1) == expression(asked, seed=1)).all()


def test_draws_average_to_their_mean(asked) -> None:
    draws = expression(asked, n_samples=6, return_mean=False)
    assert draws.shape == (6, 300, 120)
    assert expression(asked, n_samples=6) == pytest.approx(draws.mean(0), rel=1e-5)


def test_chunks_of_draws_do_not_change_the_expectation(asked, monkeypatch) -> None:
    whole = expression(asked, n_samples=400, batch_size=50)
    monkeypatch.setitem(stream._ENTRIES, "cpu", 50 * 120 * 3)
    chunked = expression(asked, n_samples=400, batch_size=50)
    assert np.abs(chunked.mean(0) / whole.mean(0) - 1).max() < 0.05


def test_several_batches_are_averaged(asked) -> None:
    one, two = expression(asked, transform_batch=[0]), expression(asked, transform_batch=[1])
    assert np.abs(one - two).max() > 1e-4
    assert expression(asked, transform_batch=[0, 1]) == pytest.approx((one + two) / 2, rel=1e-5)


def test_a_cell_decoded_as_its_own_batch_is_as_observed(asked) -> None:
    observed = expression(asked)
    for code in (0, 1):
        own = asked.data.batch == code
        assert (expression(asked, transform_batch=[code])[own] == observed[own]).all()


def test_blocks_arrive_in_order_and_nothing_is_returned(asked) -> None:
    blocks: list[tuple[int, np.ndarray]] = []
    assert expression(asked, batch_size=128, out=lambda start, block: blocks.append((start, block))) is None
    assert [start for start, _ in blocks] == [0, 128, 256]
    assert (np.concatenate([block for _, block in blocks]) == expression(asked, batch_size=128)).all()


@pytest.mark.parametrize("options", [{}, {"n_samples": 3, "return_mean": False}, {"genes": np.array([5, 2])}], ids=str)
@pytest.mark.parametrize("name", ["x.npy", "x.h5"])
def test_a_file_holds_what_the_array_holds(asked, tmp_path, name, options) -> None:
    path = write_expression(asked.network, asked.data, asked.every, tmp_path / name, batch_size=70, **options)
    expected = expression(asked, batch_size=70, **options)
    if path.suffix == ".npy":
        found = np.load(path)
    else:
        with h5py.File(path) as file:
            found = file["expression"][:]
            assert file["genes"].asstr()[-1] == asked.data.schema.genes[options.get("genes", [119])[-1]]
            assert list(file["cells"].asstr()) == list(asked.data.cell_names)
    assert found.dtype == np.float32
    assert (found == expected).all()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_written_is_a_named_error(asked, tmp_path) -> None:
    with pytest.raises(WriteError, match="does not exist"):
        write_expression(asked.network, asked.data, asked.every, tmp_path / "no" / "x.npy")


def test_a_failure_half_way_leaves_no_file(asked, tmp_path) -> None:
    with pytest.raises(OptionError, match="library_size"):
        write_expression(asked.network, asked.data, asked.every, tmp_path / "x.npy", library_size=-1.0)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending_is_named(asked) -> None:
    with pytest.raises(OptionError, match=r"x\.xlsx.*unknown ending"):
        write_expression(asked.network, asked.data, asked.every, Path("x.xlsx"))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"library_size": 0}, OptionError, "library_size=0 is neither a positive number"),
        ({"library_size": float("nan")}, OptionError, "library_size=nan"),
        ({"library_size": "observed"}, OptionError, "library_size='observed'"),
        ({"n_samples": 0}, OptionError, "n_samples=0"),
        ({"transform_batch": [2]}, CategoryError, "Known: 'large', 'small'"),
        ({"transform_batch": []}, CategoryError, "transform_batch"),
        ({"genes": np.array([120])}, GenesError, "not among the 120 genes: 120"),
    ],
)
def test_impossible_options_are_named(asked, options, error, words) -> None:
    with pytest.raises(error, match=words):
        expression(asked, **options)


def test_predicted_counts_are_sparse_whole_numbers(asked) -> None:
    drawn = posterior_predictive_sample(asked.network, asked.data, asked.every)
    assert drawn.format == "csr"
    assert drawn.dtype == np.float32
    assert drawn.shape == (300, 120)
    assert (drawn.data == np.round(drawn.data)).all()
    assert drawn.data.min() >= 1  # zeros are not stored


def test_several_samples_are_a_list_of_different_matrices(asked) -> None:
    ask = (asked.network, asked.data, asked.every)
    one, two, three = posterior_predictive_sample(*ask, n_samples=3, seed=4)
    assert (one != two).nnz > 0
    assert (two != three).nnz > 0
    again = posterior_predictive_sample(*ask, n_samples=3, seed=4)
    assert (one != again[0]).nnz == 0


def test_predicted_counts_of_some_genes(asked) -> None:
    ask = (asked.network, asked.data, asked.every)
    some = posterior_predictive_sample(*ask, genes=np.array([3, 1]))
    assert (some != posterior_predictive_sample(*ask)[:, [3, 1]]).nnz == 0


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_predicted_counts_have_the_mean_and_variance_of_the_likelihood(make_asked, likelihood) -> None:
    asked = make_asked(likelihood=likelihood)
    cells = asked.every[:4]
    n = 4000
    drawn = np.stack([m.toarray() for m in posterior_predictive_sample(asked.network, asked.data, cells, n_samples=n)])
    batch = asked.data.minibatch(cells)
    with stream.evaluating(asked.network):
        latent = asked.network.encode(batch)
        draws = asked.network.sample_latent(latent, batch, n, torch.Generator().manual_seed(9))
        parameters = asked.network.decode(*draws, batch)
        means, variances = asked.network.likelihood.mean(parameters), asked.network.likelihood.variance(parameters)
    mean, variance = means.mean(0).numpy(), (variances.mean(0) + means.var(0)).numpy()
    often = mean > 0.2
    assert np.abs((drawn.mean(0) - mean) / np.sqrt(2 * variance / n)).max() < 5
    assert np.median(drawn.var(0)[often] / variance[often]) == pytest.approx(1, abs=0.03)


def largest_decoded(network, ask) -> int:
    """Return the most entries that the network is asked to decode at a time while `ask()` runs."""
    sizes = []
    decode = network.decode

    def watched(z, log_library, batch):
        sizes.append(z.shape[0] * z.shape[1] * batch.rows.n_genes)
        return decode(z, log_library, batch)

    network.decode = watched
    try:
        ask()
    finally:
        del network.decode
    return max(sizes)


def test_nothing_decodes_more_than_fits_in_memory(asked, monkeypatch) -> None:
    monkeypatch.setitem(stream._ENTRIES, "cpu", 20_000)
    ask = (asked.network, asked.data, asked.every)
    for question in (
        lambda: marginal_ll(*ask, n_samples=30),
        lambda: elbo(*ask, n_samples=30),
        lambda: normalized_expression(*ask, n_samples=30),
        lambda: posterior_predictive_sample(*ask, n_samples=30),
    ):
        assert largest_decoded(asked.network, question) <= 20_000


def test_a_trained_model_explains_real_cells_better_than_their_mean(pbmc) -> None:
    data, every = pbmc.data, np.arange(pbmc.data.n_cells)
    observed = data.counts.to_scipy()
    drawn = posterior_predictive_sample(pbmc.network, data, every, n_samples=1)
    seen, predicted = np.asarray(observed.mean(0)).ravel(), np.asarray(drawn.mean(0)).ravel()
    assert np.corrcoef(np.log(seen + 1e-2), np.log(predicted + 1e-2))[0, 1] > 0.9
    assert marginal_ll(pbmc.network, data, every, n_samples=20) > elbo(pbmc.network, data, every, n_samples=20)


def test_methods_of_the_model_give_frames_with_names(pbmc) -> None:
    frame = pbmc.get_normalized_expression(indices=[4, 2], gene_list=["CD3D", "NKG7"], library_size=1e4)
    assert list(frame.columns) == ["CD3D", "NKG7"]
    assert list(frame.index) == [pbmc.data.cell_names[4], pbmc.data.cell_names[2]]
