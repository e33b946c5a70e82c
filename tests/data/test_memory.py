"""What reading a data set takes beside the counts that are kept: nothing that grows with the data."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from celbo.data import scan
from celbo.data.cells import open_anndata
from celbo.data.check import require
from celbo.data.counts import CountMatrix
from celbo.data.moments import gene_moments
from celbo.data.schema import DataKeys

N_CELLS, N_GENES = 4_000, 1_000
N_STORED = N_CELLS * N_GENES
MIB = 2**20


def peak(call: Callable[[], object]) -> float:
    """Return the peak of NumPy's and Python's memory inside a call, above the level before, in MiB."""
    call()  # what is compiled or imported on first use is there afterwards
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return (tracemalloc.get_traced_memory()[1] - before) / MIB
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    """Return 4 million stored counts, 31 MiB."""
    values = np.random.default_rng(0).integers(1, 9, N_STORED).astype(np.float32)
    genes = np.tile(np.arange(N_GENES, dtype=np.int32), N_CELLS)
    return sp.csr_matrix((values, genes, np.arange(N_CELLS + 1) * N_GENES), shape=(N_CELLS, N_GENES))


@pytest.fixture
def on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_in_threads", map)


def test_a_copy_of_counts_takes_three_bytes_each(counts: sp.csr_matrix) -> None:
    kept = CountMatrix.from_scipy(counts)
    assert kept.values.nbytes + kept.indices.nbytes == 3 * N_STORED
    assert peak(lambda: CountMatrix.from_scipy(counts)) < 3 * N_STORED / MIB + 1


@pytest.mark.usefixtures("on_one_thread")
def test_a_thread_of_the_check_takes_little(counts: sp.csr_matrix) -> None:
    groups = np.arange(N_CELLS) % 3
    assert peak(lambda: scan.scan_matrix(counts, groups=groups, n_groups=3)) < 2


def test_moments_take_no_copy_of_the_cells(counts: sp.csr_matrix) -> None:
    kept = CountMatrix.from_scipy(counts)
    assert peak(lambda: gene_moments(kept, np.arange(N_CELLS))) < 0.2


@pytest.mark.usefixtures("on_one_thread")
def test_reading_an_anndata_takes_little_beside_the_copy(counts: sp.csr_matrix) -> None:
    obs = pd.DataFrame({"batch": ["a", "b"] * (N_CELLS // 2)}, index=[f"cell{i}" for i in range(N_CELLS)])
    adata = AnnData(counts, obs=obs)
    keys = DataKeys(batch_key="batch")
    assert peak(lambda: require(adata, keys)) < 3
    assert peak(lambda: open_anndata(adata, keys)) < 3 * N_STORED / MIB + 2
