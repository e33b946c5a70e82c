"""Masked counts: some of the counts above zero are taken away, and the method is asked for them.

The tests of Lopez et al. 2018 (doi:10.1038/s41592-018-0229-2) and Talwar et al. 2018 (doi:10.1038/s41598-018-34688-x).
As only counts above zero are asked for, the best answer is the mean of a count *given that it is above zero*, which is
more than the expected count: the true rates lose to the mean over non-zeros. Use it to compare with published tables,
always with the baseline beside, and rank methods by molecular cross-validation, which has not this fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from celbo.errors import InputError, OptionError
from celbo.evaluate.baselines import (
    Denoiser,
    Expected,
    as_floats,
    check_denoisers,
    checked_counts,
    expected_blocks,
    require_share,
    with_values,
)

__all__ = ["ImputationScores", "Masked", "imputation_scores", "mask_entries", "masked_imputation"]

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Masked:
    """Counts with some entries spoilt, and what was there."""

    counts: sparse.csr_matrix
    """What the method sees; (cells, genes) int64."""
    cell: Positions
    gene: Positions
    """The masked entries, in order of cells; (entries,) each."""
    original: Floats
    """The counts that were there, all above 0; (entries,)."""
    kept: Floats
    """What is left of them; (entries,)."""
    library: Floats
    """Total of each cell before; (cells,) counts."""


def mask_entries(
    counts: sparse.csr_matrix,
    *,
    share: float = 0.1,
    mode: Literal["zero", "binomial"] = "zero",
    keep: float | None = None,
    seed: int,
) -> Masked:
    """Spoil a random share of the counts above zero, each with a draw of its own.

    The two corruptions of Lopez et al. 2018. Their published code drew one number for all chosen entries together, so
    that a run had all of them zeroed or none; its notebooks mix the two modes. Their text takes the entries of
    "binomial" from the whole matrix: those that are zero stay zero, and of the others it is the same share.

    Parameters
    ----------
    counts
        Raw counts, (cells, genes).
    share
        Share of the counts above zero that is chosen.
    mode
        "zero" makes a chosen count 0 with probability 1 - `keep`; the masked entries are those made 0.
        "binomial" thins a chosen count x to Binomial(x, `keep`); the masked entries are all that were chosen.
    keep
        None is 0.1 for "zero" (9% of the counts above zero are taken, as the paper's results say) and 0.2 for
        "binomial". 0 with "zero" is the test of AutoImpute: all that were chosen are taken.
    seed
        Same seed, same entries.

    Raises
    ------
    OptionError
        If an option is out of range.
    InputError
        If there are too few counts for one to be masked.
    """
    require_share("share", share)
    if mode not in {"zero", "binomial"}:
        raise OptionError("is unknown", where="mode", value=repr(mode), fix='Give "zero" or "binomial".')
    keep = {"zero": 0.1, "binomial": 0.2}[mode] if keep is None else keep
    if not 0 <= keep < 1:
        raise OptionError("is not a probability below 1", where="keep", value=repr(keep), fix="0 keeps nothing.")
    matrix = checked_counts(counts)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(matrix.nnz, int(share * matrix.nnz), replace=False)) if matrix.nnz else np.empty(0, int)
    if mode == "zero":
        chosen = chosen[rng.random(len(chosen)) >= keep]
        left = np.zeros(len(chosen), dtype=np.int64)
    else:
        left = rng.binomial(matrix.data[chosen], keep)
    if not len(chosen):
        value = f"{matrix.nnz} counts above zero"
        raise InputError("are too few to mask any", where="the counts", value=value, fix="Raise share.")
    values = matrix.data.copy()
    values[chosen] = left
    return Masked(
        counts=with_values(matrix, values),
        cell=np.searchsorted(matrix.indptr, chosen, side="right").astype(np.int64) - 1,
        gene=matrix.indices[chosen].astype(np.int64),
        original=matrix.data[chosen].astype(np.float64),
        kept=left.astype(np.float64),
        library=np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel(),
    )


class ImputationScores(NamedTuple):
    """Errors on masked entries; less is better."""

    median_l1: float
    """Median of |truth - prediction| (Lopez et al. 2018)."""
    mae: float
    """Mean of |truth - prediction|."""
    rmse: float
    """Root of the mean of (truth - prediction)^2."""
    nmse: float
    """||truth - prediction|| / ||truth||, which Talwar et al. 2018 call NMSE: a ratio of norms; 1 for all zeros."""


def imputation_scores(
    expected: Expected, masked: Masked, *, scale: Literal["counts", "log2"] = "counts", where: str = "expected"
) -> ImputationScores:
    """Compare expected counts with what was masked.

    Parameters
    ----------
    expected
        What a denoiser made of `masked.counts`: (cells, genes) at their depth; dense, CSR, or blocks of cells.
    masked
        The spoilt counts and the truth.
    scale
        "counts" compares counts as they are. "log2" compares log2(1 + counts x median total / total of the cell), the
        truth with the totals before the masking, the expectation with those after it, as it is at their depth.
    where
        Name of the method in messages.
    """
    found, at, low = np.empty(len(masked.cell)), 0, 0
    for block in expected_blocks(expected, *masked.counts.shape, where=where):
        high = int(np.searchsorted(masked.cell, at + len(block)))
        found[low:high] = block[masked.cell[low:high] - at, masked.gene[low:high]]
        at, low = at + len(block), high
    return _errors(*_on_scale(found, masked, scale))


def _on_scale(found: Floats, masked: Masked, scale: str) -> tuple[Floats, Floats]:
    """Return truth and prediction of the masked entries on the scale of comparison."""
    if scale not in {"counts", "log2"}:
        raise OptionError("is unknown", where="scale", value=repr(scale), fix='Give "counts" or "log2".')
    if scale == "counts":
        return masked.original, found
    size = _median_total(masked)
    return (
        np.log2(1 + masked.original * size / masked.library[masked.cell]),
        np.log2(1 + np.maximum(found, 0) * size / _library_left(masked)[masked.cell]),
    )


def _errors(truth: Floats, found: Floats) -> ImputationScores:
    error = np.abs(truth - found)
    norm = float(np.sqrt(np.square(error).sum()))
    return ImputationScores(
        median_l1=float(np.median(error)),
        mae=float(error.mean()),
        rmse=norm / len(error) ** 0.5,
        nmse=norm / float(np.sqrt(np.square(truth).sum())),
    )


def _median_total(masked: Masked) -> float:
    return float(np.median(masked.library[masked.library > 0]))


def _library_left(masked: Masked) -> Floats:
    """Return the total of each cell after masking, at least 1; (cells,) counts."""
    return np.maximum(np.asarray(masked.counts.sum(axis=1), dtype=np.float64).ravel(), 1.0)


def _nonzero_mean(masked: Masked, scale: str) -> ImputationScores:
    """Score the mean of each gene over the counts above zero that are left, on the scale of comparison."""
    left = masked.counts
    values = left.data.astype(np.float64)
    if scale == "log2":
        cell = np.repeat(np.arange(left.shape[0]), np.diff(left.indptr))
        values = np.log2(1 + values * _median_total(masked) / _library_left(masked)[cell])
    seen = np.bincount(left.indices, minlength=left.shape[1])
    total = np.bincount(left.indices, values, left.shape[1])
    overall = float(values.mean()) if len(values) else 0.0
    mean = np.where(seen > 0, total / np.maximum(seen, 1), overall)
    truth = _on_scale(masked.kept, masked, scale)[0]
    return _errors(truth, mean[masked.gene])


def masked_imputation(
    denoisers: Mapping[str, Denoiser],
    counts: sparse.csr_matrix,
    *,
    share: float = 0.1,
    mode: Literal["zero", "binomial"] = "zero",
    keep: float | None = None,
    scale: Literal["counts", "log2"] = "counts",
    seeds: Sequence[int] = (0,),
) -> pd.DataFrame:
    """Score denoisers on masked entries, beside the entries as they are left and the gene mean over non-zeros.

    Read the head of this module first: only `molecular_cross_validation` ranks methods fairly.

    Parameters
    ----------
    denoisers
        As in `molecular_cross_validation`.
    counts
        Raw counts, (cells, genes).
    share, mode, keep
        As in `mask_entries`.
    scale
        As in `imputation_scores`; "log2" for AutoImpute's figures, "counts" for scVI's.
    seeds
        One masking for each.

    Returns
    -------
    One row a masking and method: method, seed, median_l1, mae, rmse, nmse, entries. "gene mean" predicts the mean of
    the gene over the counts above zero that are left, taken on the scale of comparison (mean over all of them where
    the gene has none left); "no denoising" predicts what is left of the entry.
    """
    check_denoisers(denoisers)
    matrix = checked_counts(counts)
    rows = []
    for seed in seeds:
        masked = mask_entries(matrix, share=share, mode=mode, keep=keep, seed=seed)
        scores = {
            "no denoising": _errors(*_on_scale(masked.kept, masked, scale)),
            "gene mean": _nonzero_mean(masked, scale),
        }
        for name, denoiser in denoisers.items():
            expected = denoiser(as_floats(masked.counts))
            scores[name] = imputation_scores(expected, masked, scale=scale, where=f"denoiser {name!r}")
        rows += [(name, seed, *score, len(masked.cell)) for name, score in scores.items()]
    return pd.DataFrame(rows, columns=["method", "seed", *ImputationScores._fields, "entries"])
