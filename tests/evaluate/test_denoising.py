"""Held-out molecules and masked entries: splits, losses and their faults against closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.metrics import mean_poisson_deviance, mean_squared_error

from celbo import evaluate
from celbo.errors import CountsError, InputError, OptionError
from celbo.evaluate import baselines


@pytest.fixture(scope="module")
def rates() -> np.ndarray:
    """Return rates of 400 cells in three groups; (cells, 60 genes)."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(60, 0.4), size=3)
    return rng.lognormal(5, 0.3, size=(400, 1)) * shares[np.arange(400) % 3]


@pytest.fixture(scope="module")
def counts(rates) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.random.default_rng(1).poisson(rates))


def dense(matrix: sparse.csr_matrix) -> np.ndarray:
    return matrix.toarray().astype(float)


# --- the split


def test_the_parts_of_a_split_add_up(counts):
    split = evaluate.split_molecules(counts, train_share=0.7, seed=0)
    assert (split.train + split.held_out != counts).nnz == 0
    assert split.ratio == pytest.approx(3 / 7)
    assert split.train.sum() / counts.sum() == pytest.approx(0.7, abs=0.01)
    assert split.train.has_canonical_format
    assert split.train.data.min() > 0


def test_a_split_is_a_function_of_its_seed(counts):
    one, same, other = (evaluate.split_molecules(counts, seed=s).train for s in (3, 3, 4))
    assert (one != same).nnz == 0
    assert (one != other).nnz > 0


def test_parts_of_poisson_counts_are_independent_poisson_counts():
    x = sparse.csr_matrix(np.random.default_rng(0).poisson(4.0, size=(400, 500)))
    split = evaluate.split_molecules(x, train_share=0.6, seed=1)
    train, held_out = dense(split.train).ravel(), dense(split.held_out).ravel()
    error = 1 / np.sqrt(train.size)
    assert abs(np.corrcoef(train, held_out)[0, 1]) < 4 * error
    for part, mean in ((train, 2.4), (held_out, 1.6)):
        assert part.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean) * error)
        assert part.var() == pytest.approx(mean, rel=4 * np.sqrt(2 + 1 / mean) * error)
        seen = np.bincount(part.astype(int), minlength=6)[:6] / part.size
        expected = stats.poisson.pmf(np.arange(6), mean)
        assert np.abs(seen - expected).max() < 4 * 0.5 * error


@pytest.mark.parametrize("capture", [0.3, 0.8])
def test_with_overlap_the_parts_are_independent_samples_of_a_cell(capture):
    """The cell has 200 molecules; each part holds one with its own probability, and both with their product."""
    n, share = 200_000, 0.7
    seen = sparse.csr_matrix(np.random.default_rng(0).binomial(200, capture, size=(n, 1)))
    split = evaluate.split_molecules(seen, train_share=share, seed=1, capture=capture)
    train, held_out = dense(split.train).ravel(), dense(split.held_out).ravel()
    p, q = train.mean() / 200, held_out.mean() / 200
    assert p + q - p * q == pytest.approx(capture, rel=2e-3)
    assert q / p == pytest.approx(split.ratio, rel=2e-3)
    assert abs(np.corrcoef(train, held_out)[0, 1]) < 4 / np.sqrt(n)
    assert train.var() == pytest.approx(200 * p * (1 - p), rel=0.02)
    plain = evaluate.split_molecules(seen, train_share=share, seed=1)  # takes from a cell without putting back
    without = np.corrcoef(dense(plain.train).ravel(), dense(plain.held_out).ravel())[0, 1]
    a, b = capture * share, capture * (1 - share)
    assert without == pytest.approx(-np.sqrt(a * b / ((1 - a) * (1 - b))), abs=0.01)


def test_a_small_capture_is_no_overlap(counts):
    plain = evaluate.split_molecules(counts, seed=0)
    small = evaluate.split_molecules(counts, seed=0, capture=np.full(400, 1e-12))
    assert small.train.sum() + small.held_out.sum() == counts.sum()
    assert small.train.sum() == pytest.approx(plain.train.sum(), rel=0.01)


# --- the losses


def test_deviance_is_scikit_learns(counts, rates):
    expected = rates * np.random.default_rng(2).lognormal(0, 0.5, rates.shape)
    found = evaluate.poisson_deviance(expected, counts, scale=0.25)
    assert found == pytest.approx(mean_poisson_deviance(dense(counts).ravel(), 0.25 * expected.ravel()), rel=1e-12)


def test_deviance_is_zero_at_equality_and_above_it_elsewhere(counts):
    full = sparse.csr_matrix(dense(counts) + 1)
    assert evaluate.poisson_deviance(full, full) == 0.0
    assert evaluate.poisson_deviance(2 * dense(full), full, scale=0.5) == 0.0
    assert evaluate.poisson_deviance(1.001 * dense(full), full) > 0


def test_likelihood_is_scipys(counts, rates):
    scored = stats.poisson.logpmf(dense(counts), rates * 0.5).mean()
    assert evaluate.poisson_nll(rates, counts, scale=0.5) == pytest.approx(-scored, rel=1e-12)


def test_deviance_and_likelihood_differ_by_a_number_of_the_held_out_counts_only(counts, rates):
    worse = rates * np.random.default_rng(2).lognormal(0, 0.5, rates.shape)
    deviance = evaluate.poisson_deviance(worse, counts) - evaluate.poisson_deviance(rates, counts)
    nll = evaluate.poisson_nll(worse, counts) - evaluate.poisson_nll(rates, counts)
    assert deviance == pytest.approx(2 * nll, rel=1e-10)


def test_expected_zeros_and_negatives_are_raised_to_the_floor():
    held_out = sparse.csr_matrix([[2, 0]])
    by_hand = (2 * (2 * np.log(2 / 1e-3) - (2 - 1e-3)) + 2e-3) / 2
    assert evaluate.poisson_deviance(np.array([[-1.0, 0.0]]), held_out, floor=1e-3) == pytest.approx(by_hand, rel=1e-12)


def test_mse_log_is_that_of_scanpy_and_scikit_learn(counts, rates):
    import scanpy as sc
    from anndata import AnnData

    sides = [AnnData(dense(counts)), AnnData(rates.copy())]
    for side in sides:
        sc.pp.normalize_total(side, target_sum=1e4)
        sc.pp.log1p(side)
    assert evaluate.mse_log(rates, counts) == pytest.approx(mean_squared_error(sides[0].X, sides[1].X), rel=1e-10)


@pytest.mark.parametrize("mean", [1e-3, 0.3, 2.0, 17.0, 63.9, 64.1, 300.0])
def test_mse_sqrt_of_a_mean_is_the_sum_over_the_poisson_distribution(mean):
    y = np.arange(2000)
    root = float((np.sqrt(y) * stats.poisson.pmf(y, mean)).sum())
    held_out = sparse.csr_matrix([[5, 0]])
    by_hand = ((np.sqrt(5) - root) ** 2 + root**2) / 2
    assert evaluate.mse_sqrt(np.full((1, 2), 4 * mean), held_out, scale=0.25) == pytest.approx(by_hand, rel=3e-6)


def test_mse_log_prefers_no_denoising_to_the_truth_where_cells_are_shallow_and_mse_sqrt_does_not(rates):
    shallow = rates * (50 / rates.sum(1, keepdims=True))
    split = evaluate.split_molecules(sparse.csr_matrix(np.random.default_rng(3).poisson(shallow)), seed=0)
    true, plain = (evaluate.score_held_out(e, split) for e in (0.9 * shallow, split.train))
    assert plain.mse_log < 0.8 * true.mse_log  # the fault
    assert true.mse_sqrt < 0.95 * plain.mse_sqrt
    assert true.deviance < 0.5 * plain.deviance


def test_mse_log_of_a_cell_without_counts_is_finite():
    assert evaluate.mse_log(np.zeros((1, 2)), sparse.csr_matrix([[0, 0]])) == 0.0


def test_the_legacy_score_is_the_published_formula(counts, rates):
    y = dense(counts)
    published = (y - 0.1 * rates * np.log(y + 1e-6)).mean()
    assert evaluate.legacy_poisson(rates, counts, scale=0.1) == pytest.approx(published, rel=1e-12)


def test_the_true_rates_score_best_and_the_legacy_score_prefers_nothing_at_all(rates):
    """Over 20 draws of the counts the truth wins each; swapped, an expectation of nothing beats it each time."""
    rng = np.random.default_rng(5)
    flat = np.outer(rates.sum(1), rates.sum(0) / rates.sum())
    others = [flat, 0.8 * rates, 1.25 * rates, 0.9 * rates + 0.1 * flat, rates**0.9]
    for seed in range(20):
        split = evaluate.split_molecules(sparse.csr_matrix(rng.poisson(rates)), train_share=0.5, seed=seed)
        true = evaluate.score_held_out(rates * 0.5, split)
        scores = [evaluate.score_held_out(other * 0.5, split) for other in others]
        assert true.deviance < min(s.deviance for s in scores)
        assert true.nll < min(s.nll for s in scores)
        assert true.mse_sqrt < min(s.mse_sqrt for s in scores)
        nothing = evaluate.score_held_out(np.zeros_like(rates), split)
        assert nothing.deviance > max(s.deviance for s in scores)
        assert nothing.legacy_poisson < true.legacy_poisson  # the fault


def test_the_expected_deviance_of_the_true_rates_is_that_of_the_poisson_distribution():
    """E[2 (y log(y / m) - y + m)] summed over the distribution, for a rate of 3 held out by half."""
    split = evaluate.split_molecules(
        sparse.csr_matrix(np.random.default_rng(0).poisson(6.0, (600, 500))), train_share=0.5, seed=0
    )
    y = np.arange(200)
    term = 2 * (np.where(y > 0, y * np.log(np.maximum(y, 1) / 3.0), 0.0) - y + 3.0)
    mass = stats.poisson.pmf(y, 3.0)
    mean = float((mass * term).sum())
    error = np.sqrt(float((mass * (term - mean) ** 2).sum()) / 300_000)
    assert evaluate.score_held_out(np.full((600, 500), 3.0), split).deviance == pytest.approx(mean, abs=4 * error)


def test_scores_by_cell_and_by_gene_average_to_the_whole(counts, rates):
    split = evaluate.split_molecules(counts, seed=0)
    scores = evaluate.score_held_out(rates, split)
    for table, n in ((scores.by_cell, 400), (scores.by_gene, 60)):
        assert len(table) == n
        for name in ("deviance", "nll", "mse_sqrt", "mse_log", "legacy_poisson"):
            assert table[name].mean() == pytest.approx(getattr(scores, name), rel=1e-10)
    one = evaluate.poisson_deviance(rates[:, [7]], split.held_out[:, [7]], scale=split.ratio)
    assert scores.by_gene.loc[7, "deviance"] == pytest.approx(one, rel=1e-12)
    assert scores.deviance == evaluate.poisson_deviance(rates, split.held_out, scale=split.ratio)


def test_cells_and_genes_without_training_counts_are_left_out():
    train = sparse.csr_matrix([[3, 0, 1], [0, 0, 0], [2, 0, 2]])
    split = evaluate.MoleculeSplit(train, sparse.csr_matrix([[1, 1, 0], [1, 0, 0], [0, 0, 1]]), 0.5)
    scores = evaluate.score_held_out(np.full((3, 3), 2.0), split)
    kept = mean_poisson_deviance([1, 0, 0, 1], np.ones(4))
    assert scores.deviance == pytest.approx(kept, rel=1e-12)
    assert list(scores.by_cell.index) == [0, 2]
    assert list(scores.by_gene.index) == [0, 2]


def test_floored_is_the_share_of_molecules_where_nothing_was_expected():
    split = evaluate.MoleculeSplit(sparse.csr_matrix([[1, 5]]), sparse.csr_matrix([[3, 1]]), 0.5)
    assert evaluate.score_held_out(np.array([[0.0, 5.0]]), split).floored == 0.75


# --- the table


def test_the_table_has_the_baselines_beside_each_method(counts):
    table = evaluate.molecular_cross_validation({"kNN": evaluate.knn_smoothing}, counts, seeds=(0, 1))
    assert list(table["method"]) == ["no denoising", "gene mean", "kNN"] * 2
    assert list(table["seed"]) == [0, 0, 0, 1, 1, 1]
    split = evaluate.split_molecules(counts, seed=1)
    plain = evaluate.score_held_out(split.train, split)
    assert table.loc[3, "deviance"] == plain.deviance
    assert table.loc[3, "floored"] == plain.floored > 0
    means = evaluate.mean_over_seeds(table)
    assert means.index[0] == "kNN"
    assert means.loc["gene mean", "nll"] == pytest.approx(table.loc[[1, 4], "nll"].mean())
    assert means.loc["gene mean", "nll_sd"] == pytest.approx(table.loc[[1, 4], "nll"].std())


def test_a_denoiser_gets_training_counts_that_it_may_change(counts):
    def spoils(seen: sparse.csr_matrix) -> np.ndarray:
        assert seen.dtype == np.float32
        made = seen.toarray()
        seen.data[:] = -1
        return made

    table = evaluate.molecular_cross_validation({"a": spoils, "b": lambda seen: seen}, counts).set_index("method")
    assert table.loc["a", "deviance"] == table.loc["b", "deviance"] == table.loc["no denoising", "deviance"]


def test_dense_sparse_and_streamed_results_score_alike(counts, monkeypatch):
    split = evaluate.split_molecules(counts, seed=0)
    whole = evaluate.score_held_out(split.train, split)
    monkeypatch.setattr(baselines, "BLOCK", 7 * 60)
    table = dense(split.train)
    for form in (table, split.train, split.train.tocsc(), iter([table[:1], table[1:250], table[250:]]), [split.train]):
        again = evaluate.score_held_out(form, split)
        assert again.deviance == pytest.approx(whole.deviance, rel=1e-12)
        assert again.by_gene["mse_log"].to_numpy() == pytest.approx(whole.by_gene["mse_log"].to_numpy(), rel=1e-12)


def test_a_wrong_result_names_its_denoiser(counts):
    n = counts.shape[0]
    for wrong in (np.ones((n, 3)), np.ones((n - 1, 60)), iter([np.ones((n, 60))] * 2), [np.ones(60)], 3.0, "text"):
        with pytest.raises(InputError, match="denoiser 'mine' has the wrong shape"):
            evaluate.molecular_cross_validation({"mine": lambda _, made=wrong: made}, counts)
    hole = np.ones((n, 60))
    hole[380, 4] = np.nan
    with pytest.raises(InputError, match=r"denoiser 'mine' .*row 380, column 4 is nan"):
        evaluate.molecular_cross_validation({"mine": lambda _: hole}, counts)
    with pytest.raises(InputError, match="does not hold numbers"):
        evaluate.molecular_cross_validation({"mine": lambda _: hole.astype(str)}, counts)


def test_bad_options_and_counts_are_named(counts):
    with pytest.raises(OptionError, match=r"train_share is not a share: 1\.0"):
        evaluate.split_molecules(counts, train_share=1.0, seed=0)
    for capture in (0.0, 1.0, np.full(3, 0.5)):
        with pytest.raises(OptionError, match="capture is not a capture rate"):
            evaluate.split_molecules(counts, seed=0, capture=capture)
    with pytest.raises(CountsError, match=r"row 0, column 1 is 0\.5"):
        evaluate.split_molecules(sparse.csr_matrix([[1.0, 0.5]]), seed=0)
    with pytest.raises(OptionError, match="'gene mean'"):
        evaluate.molecular_cross_validation({"gene mean": evaluate.gene_mean}, counts)
    with pytest.raises(OptionError, match="denoiser 'mine' is not callable"):
        evaluate.molecular_cross_validation({"mine": 3}, counts)
    with pytest.raises(OptionError, match="floor must be a number above 0"):
        evaluate.poisson_deviance(counts, counts, floor=0.0)
    with pytest.raises(InputError, match="leave nothing to score"):
        evaluate.score_held_out(
            np.zeros((2, 2)), evaluate.MoleculeSplit(*[sparse.csr_matrix((2, 2), dtype=int)] * 2, 1.0)
        )


# --- masking


def test_zero_masks_an_exact_share_and_keeps_each_by_its_own_draw(counts):
    masked = evaluate.mask_entries(counts, share=0.2, seed=0)
    chosen = int(0.2 * counts.nnz)
    assert len(masked.cell) == pytest.approx(0.9 * chosen, abs=4 * np.sqrt(chosen * 0.09))  # neither all nor none
    assert (dense(counts)[masked.cell, masked.gene] == masked.original).all()
    assert (dense(masked.counts)[masked.cell, masked.gene] == 0).all()
    assert masked.counts.nnz == counts.nnz - len(masked.cell)
    assert masked.counts.sum() == counts.sum() - masked.original.sum()
    assert (masked.library == dense(counts).sum(1)).all()
    whole = evaluate.mask_entries(counts, share=0.2, keep=0.0, seed=0)
    assert len(whole.cell) == chosen


def test_binomial_thins_the_chosen_counts(counts):
    masked = evaluate.mask_entries(counts, share=0.3, mode="binomial", seed=0)
    assert len(masked.cell) == int(0.3 * counts.nnz)
    assert (dense(masked.counts)[masked.cell, masked.gene] == masked.kept).all()
    assert (masked.kept <= masked.original).all()
    n = masked.original.sum()
    assert masked.kept.sum() == pytest.approx(0.2 * n, abs=4 * np.sqrt(0.16 * n))


def test_imputation_scores_are_their_formulas(counts, rates):
    masked = evaluate.mask_entries(counts, seed=0)
    truth, found = masked.original, rates[masked.cell, masked.gene]
    scores = evaluate.imputation_scores(rates, masked)
    assert scores.median_l1 == pytest.approx(np.median(np.abs(truth - found)))
    assert scores.mae == pytest.approx(np.abs(truth - found).mean())
    assert scores.rmse == pytest.approx(np.sqrt(((truth - found) ** 2).mean()))
    assert scores.nmse == pytest.approx(np.linalg.norm(truth - found) / np.linalg.norm(truth))
    after = dense(masked.counts).sum(1)
    size = np.median(masked.library)
    left, right = (np.log2(1 + v * size / of[masked.cell]) for v, of in ((truth, masked.library), (found, after)))
    assert evaluate.imputation_scores(rates, masked, scale="log2").mae == pytest.approx(np.abs(left - right).mean())
    assert evaluate.imputation_scores(iter([rates[:3], rates[3:]]), masked) == pytest.approx(scores)


def test_the_truth_and_zeros_are_the_ends_of_nmse(counts):
    masked = evaluate.mask_entries(counts, seed=0)
    assert evaluate.imputation_scores(counts, masked) == (0.0, 0.0, 0.0, 0.0)
    assert evaluate.imputation_scores(np.zeros(counts.shape), masked).nmse == 1.0
    table = evaluate.masked_imputation({"truth": lambda _: counts}, counts, scale="counts").set_index("method")
    assert table.loc["no denoising", "nmse"] == 1.0
    assert table.loc["truth", "rmse"] == 0.0
    assert table.loc["truth", "entries"] == len(masked.cell)


@pytest.mark.parametrize("scale", ["counts", "log2"])
def test_the_baseline_is_the_mean_over_nonzeros_on_the_scale_of_comparison(counts, scale):
    masked = evaluate.mask_entries(counts, seed=4)
    left = dense(masked.counts)
    size = np.median(masked.library)
    values, truth = left, masked.original
    if scale == "log2":
        values = np.log2(1 + left * size / left.sum(1, keepdims=True))
        truth = np.log2(1 + truth * size / masked.library[masked.cell])
    mean = np.nan_to_num(values.sum(0) / np.maximum((left > 0).sum(0), 1))
    assert (left > 0).any(0)[masked.gene].all()
    table = evaluate.masked_imputation({}, counts, scale=scale, seeds=[4]).set_index("method")
    assert table.loc["gene mean", "mae"] == pytest.approx(np.abs(truth - mean[masked.gene]).mean(), rel=1e-12)


def test_a_gene_with_nothing_left_gets_the_mean_of_all():
    masked_away = sparse.csr_matrix([[0, 4], [0, 6], [9, 0]])
    for seed in range(50):  # until the single count of the first gene is the one that is masked
        masked = evaluate.mask_entries(masked_away, share=0.4, keep=0.0, seed=seed)
        if masked.original.tolist() == [9.0]:
            break
    table = evaluate.masked_imputation({}, masked_away, share=0.4, keep=0.0, seeds=[seed]).set_index("method")
    assert table.loc["gene mean", "mae"] == 9 - 5


def test_masking_prefers_what_is_above_the_truth():
    """Only counts above zero are asked for: the true rate of 0.5 loses to the mean over non-zeros, 1.27."""
    x = sparse.csr_matrix(np.random.default_rng(0).poisson(0.5, (300, 200)))
    table = evaluate.masked_imputation({"truth": lambda seen: np.full(seen.shape, 0.5)}, x).set_index("method")
    assert table.loc["gene mean", "rmse"] < table.loc["truth", "rmse"]
    nonzero = 0.5 / (1 - np.exp(-0.5))
    spread = np.sqrt(nonzero * 1.5 - nonzero**2)  # E[x^2 | x > 0] = 1.5 nonzero
    assert table.loc["gene mean", "rmse"] == pytest.approx(spread, rel=0.05)
    assert table.loc["truth", "rmse"] == pytest.approx(np.hypot(spread, nonzero - 0.5), rel=0.05)


def test_bad_masking_options_are_named(counts):
    with pytest.raises(OptionError, match="share is not a share"):
        evaluate.mask_entries(counts, share=0.0, seed=0)
    with pytest.raises(OptionError, match="mode is unknown: 'uniform'"):
        evaluate.mask_entries(counts, mode="uniform", seed=0)
    with pytest.raises(OptionError, match="keep is not a probability below 1"):
        evaluate.mask_entries(counts, keep=1.0, seed=0)
    with pytest.raises(InputError, match="too few to mask any: 2 counts above zero"):
        evaluate.mask_entries(sparse.csr_matrix([[1, 1]]), seed=0)
    with pytest.raises(OptionError, match="scale is unknown: 'log'"):
        evaluate.imputation_scores(counts, evaluate.mask_entries(counts, seed=0), scale="log")
