"""Families of genes that tell of a cell's quality, known by their names: mitochondrial and ribosomal ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["mitochondrial", "ribosomal"]

# a genome of a joint reference ("GRCh38_MT-CO1", "mm10___mt-Nd1"); R writes MT.CO1 for MT-CO1, and a fly mt:CoI
_GENOME = r"^(?:(?:GRC[a-z]\d+|hg\d+|mm\d+|rn\d+|human|mouse)[_.-]+)?"
_MITOCHONDRIAL = re.compile(_GENOME + r"mt[-.:]\w", re.IGNORECASE)
_RIBOSOMAL = re.compile(_GENOME + r"(?:RP[SL](?:\d|A\b|P\d)|Rp[SsLl](?:\d|a\b|p\d)|rp[sl](?:\d|a\b|p\d))")
_NOT_RIBOSOMAL = re.compile(_GENOME + r"RPS(?:6K|19BP)|.*-AS\d", re.IGNORECASE)
# The thirteen proteins of the mitochondrial genome, for files that know Ensembl's identifiers only: human, then mouse
_ENSEMBL = frozenset(
    [
        *(f"ENSG00000{n}" for n in (198888, 198763, 198804, 198712, 228253, 198899, 198938, 198840, 212907, 198886,
                                    198786, 198695, 198727)),
        *(f"ENSMUSG000000{n}" for n in (64341, 64345, 64351, 64354, 64356, 64357, 64358, 64360, 65947, 64363, 64367,
                                        64368, 64370)),
    ]
)  # fmt: skip


def mitochondrial(names: Iterable[object]) -> npt.NDArray[np.bool_]:
    """Return which genes are of the mitochondrial genome: MT-, mt-, or the Ensembl identifiers of its proteins.

    Parameters
    ----------
    names
        Symbols or Ensembl identifiers (human, mouse) of the genes.

    Returns
    -------
    (genes,).
    """
    return np.array([bool(_MITOCHONDRIAL.match(n)) or n.split(".")[0] in _ENSEMBL for n in map(str, names)], bool)


def ribosomal(names: Iterable[object]) -> npt.NDArray[np.bool_]:
    """Return which genes are proteins of the ribosome: RPS4X, RPL13A, RPSA, RPLP0, but no kinase such as RPS6KA1.

    Parameters
    ----------
    names
        Symbols of the genes.

    Returns
    -------
    (genes,).
    """
    return np.array([bool(_RIBOSOMAL.match(n)) and not _NOT_RIBOSOMAL.match(n) for n in map(str, names)], bool)
