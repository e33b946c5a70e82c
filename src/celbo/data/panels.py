"""Genes that a batch lacks: whole sets that were not measured there, told from genes that are rare by chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celbo.data.findings import Finding, note, warning
from celbo.data.scan import Scan
from celbo.errors import CountsError, listed

__all__ = ["check_panels"]

_EXPECTED = 20.0
"""Counts that a gene would have in a batch, by its share elsewhere, before its absence says something."""
_FEWEST, _SHARE = 10, 0.02
"""Genes of a set, and their share of the genes expected, before it is called one. Between batches of the same tissue
that share is below 0.006 in real data; where a batch was read with other genes, it is the share of those it lacks."""


@dataclass(frozen=True)
class _Lacking:
    """A batch, and the genes that it should have had."""

    batch: str
    genes: NDArray[np.object_]
    n_expected: int


def check_panels(
    genes: NDArray[np.object_], scan: Scan, codes: NDArray[np.int64], batches: Sequence[str], where: str
) -> Iterable[Finding]:
    """Find genes that only some batches have.

    Parameters
    ----------
    genes
        Names; (genes,).
    scan
        Of the counts, with the batches told apart.
    codes
        Batch of each cell; (cells,).
    batches
        Their names.
    where
        The matrix, as messages name it.

    Returns
    -------
    A warning where a batch lacks a whole set of genes, else a note where any gene is seen in some batches only.
    """
    partly = scan.detected.any(0) & ~scan.detected.all(0)
    if not partly.any():
        return
    lacking = list(_lacking(genes, scan, codes, batches))
    what = "holds genes that are all zero in one batch but not in the others"
    if lacking:
        named = [
            f"{each.batch!r} lacks {each.genes.size:,} of the {each.n_expected:,} genes expected there "
            f"({listed(each.genes, limit=3)})"
            for each in lacking
        ]
        value = "; ".join(named[:4]) + (f"; and {len(named) - 4} more batches" if len(named) > 4 else "")
        fix = (
            "That is more than chance: were the batches measured with the same panel and aligned to the same genes? A "
            "gene that was not measured is not a zero. Keep the genes that all batches have"
        )
        call = f"{fix}, as celbo.read([file, ...]) does when it joins files."
        flag = (
            f"{fix}: give celbo one file a batch (it joins them on their shared genes), or name the genes in --genes."
        )
        yield warning(CountsError, what, where=where, value=value, fix=call, flag=flag)
        return
    value = f"{partly.sum():,} of {partly.size:,}: {listed(genes[partly], limit=5)}"
    fix = "They are about as many as chance, depth and cell types make; nothing needs to be done."
    yield note(CountsError, what, where=where, value=value, fix=fix)


def _lacking(
    genes: NDArray[np.object_], scan: Scan, codes: NDArray[np.int64], batches: Sequence[str]
) -> Iterable[_Lacking]:
    """Yield the batches without genes of which, by their share in the other batches, they should have many counts."""
    depth = np.bincount(codes, weights=scan.totals, minlength=len(batches))
    share = scan.gene_totals / max(1.0, depth.sum())
    for batch, size in enumerate(depth):
        elsewhere = depth.sum() - size
        if size <= 0 or elsewhere <= 0:
            continue
        absent = ~scan.detected[batch]
        missing = absent & (scan.gene_totals * (size / elsewhere) >= _EXPECTED)
        n_expected = int((missing | (share * size >= _EXPECTED)).sum())
        if missing.sum() >= max(_FEWEST, _SHARE * n_expected):
            most_first = np.argsort(-scan.gene_totals[missing], kind="stable")
            yield _Lacking(batches[batch], genes[missing][most_first], n_expected)
