"""Differential expression: a function that `CountModel` has as a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from celbo.models.options import batch_codes

if TYPE_CHECKING:
    from anndata import AnnData

    from celbo.models.base import CountModel

__all__ = ["differential_expression"]


def differential_expression(
    self: CountModel[Any],
    adata: AnnData | None = None,
    *,
    groupby: Any = None,
    group1: str | Sequence[str] | None = None,
    group2: str | None = None,
    idx1: Any = None,
    idx2: Any = None,
    mode: Literal["change", "vanilla"] = "change",
    calibrated: bool = True,
    sample_key: Any = None,
    delta: float | None = 0.25,
    fdr_target: float = 0.05,
    batch_correction: bool = True,
    transform_batch: str | Sequence[str] | None = None,
    pseudocount: float | None = None,
    credible_level: float = 0.95,
    test_mode: Literal["three", "two"] = "three",
    n_samples: int = 5000,
    importance_weighting: bool = False,
    densest: float | None = None,
    seed: int | None = None,
) -> pd.DataFrame:
    """Find the genes that groups of cells express differently.

    The fold change asked for, tested and shown is log2 of the mean expression of group 1 over that of group 2, as
    if of the same batch. The decoded means of the model are corrected by the counts of the groups, and the
    posterior of the fold changes is found over all genes together (`celbo.posterior.differential`). On simulated
    data, and on real data without a difference, the calls keep the asked false discovery rate
    (docs/differential_expression.md).

    Cells are not samples: cells of one donor are alike. Where the question is a condition of donors (treated and
    control, ill and healthy), give `sample_key`; without it a difference between two donors is a finding.

    Parameters
    ----------
    adata
        Other cells with the same genes; None is the data of the model.
    groupby
        Column of `obs`, or one value for each cell.
    group1, group2
        Groups of that column: group1 (a name, or several in turn; None is each) against group2 (None is all other
        cells with a group).
    idx1, idx2
        Instead: positions, a mask or a query of `obs` for either side; without `idx2`, all other cells.
    mode
        "change": the probability of a fold change of at least `delta`. "vanilla": P(rho_1 > rho_2) of random pairs
        of cells and its Bayes factor, as Lopez et al. (2018) published it; its rule bounds no error rate.
    calibrated
        False: "change" as published (Boyeau et al. 2019; scvi-tools), the fold change of random pairs of decoded
        cells, without correction.
    sample_key
        Column of `obs`, or one value for each cell, with the sample (donor, mouse): the comparison is then over
        samples. Samples that are in both groups are compared with themselves. At least two in each group.
    delta
        Smallest fold change of interest (log2); None takes 0.6 of where the outer genes of the comparison lie, at
        least 0.1.
    fdr_target
        Expected share of false calls among those called.
    batch_correction
        Compare within the batches that hold both groups. Where none does, nothing is corrected (see `confounded`).
    transform_batch
        Batches to decode as; None is all, in proportion to their cells. Named batches also make the model's word for
        the batch count where no batch holds both groups.
    pseudocount
        Added to both mean shares. None: 0 with `calibrated`, where shrinkage takes its place; else 0.01 counts over
        the mean total of the cells, as the fold change of shares that nobody could see means nothing.
    credible_level
        Mass of the credible interval of the fold change.
    test_mode
        "three": p is the larger of the probabilities of a rise and of a fall by `delta`; "two": their sum.
    n_samples
        Most cells of a group that are decoded (each once); without `calibrated`, the draws of each group.
    importance_weighting
        Draw latent states from the posterior itself, by importance resampling with weights capped from above, and
        not from the encoder's approximation; about 25 times the time.
    densest
        Share of each group's cells to keep, those of highest density in the latent space; None keeps all.
    seed
        Seed of the draws; None is the model's. Same seed, same table.

    Returns
    -------
    One row a gene and comparison, index `gene`. Within a comparison those called first, by the size of
    `marker_score`, then the others by the same, and by their evidence where it is 0:

    - group1, group2: names of the sides; group2 is "rest" for all other cells ("all others" where a group is called
      "rest").
    - proba_de, bayes_factor: P(|LFC| >= delta), and the natural log of its odds. With "vanilla": proba_higher,
      P(rho_1 > rho_2), and the log of its odds, negative where group 2 has more.
    - lfc_mean, lfc_median, lfc_std, lfc_lower, lfc_upper: posterior of the fold change (log2, 1 over 2).
    - scale1, scale2: mean expected share of the gene among all counts.
    - raw_mean1, raw_mean2 (counts), detection1, detection2 (share of cells with a count), auroc (probability that a
      cell of group 1 has more of the gene, per total count, than one of group 2).
    - marker_score: what ranks the genes that tell the groups apart, in log2 and negative for genes lower in group 1:
      the end of the interval of the fold change that is nearer to 0, times sqrt(2 auroc - 1). Where the comparison is
      not corrected by counts, lfc_median takes the place of that end.
    - expected_fdr, is_de: expected share of false calls if this gene and all above it are called (of a gene that
      more likely does not differ, at least the probability of that); whether it is called, at most the target.
      With "vanilla" is_de is |bayes_factor| > 3, the rule of the paper, and there is no expected_fdr.
    - delta, pseudocount: those used.
    - confounded: whether no batch holds enough cells (or samples) of both groups. The data cannot then tell the
      difference of the groups from that of their batches: they are compared without batch correction, with a warning
      (or, with `transform_batch`, by what the model ascribes to the batch).

    Raises
    ------
    OptionError
        If an option is impossible or a group does not exist.
    InputError
        If a group is empty, the groups share cells, or a group has a single sample where samples are compared.

    Examples
    --------
    >>> table = model.differential_expression(groupby="cell_type")
    >>> markers = table[table["is_de"] & (table["lfc_mean"] > 0)]
    >>> monocytes = model.differential_expression(groupby="cell_type", group1="CD14 Mono", group2="FCGR3A Mono")
    >>> model.differential_expression(groupby="arm", group1="treated", group2="control", sample_key="donor")
    """
    from celbo.data.groups import groups_of
    from celbo.data.obs import obs_column
    from celbo.posterior import differential

    data, _ = self._asked(adata, None)
    obs = self.obs_of(adata)
    groups = groups_of(obs, data.cell_names, groupby=groupby, group1=group1, group2=group2, idx1=idx1, idx2=idx2)
    samples = None
    if sample_key is not None:
        column = obs_column(obs, sample_key, cell_names=data.cell_names, where="sample_key")
        samples = np.asarray(column.codes, np.int64)
    codes = batch_codes(transform_batch, self.schema)
    question = differential.Question(
        mode=mode,
        calibrated=calibrated,
        delta=delta,
        fdr_target=fdr_target,
        batch_correction=batch_correction,
        transform_batch=None if codes is None else tuple(codes),
        pseudocount=pseudocount,
        credible_level=credible_level,
        test_mode=test_mode,
        n_samples=n_samples,
        importance_weighting=importance_weighting,
        densest=densest,
        seed=self.seed if seed is None else seed,
    )
    return differential.differential_expression(self.network, data, groups, question, samples=samples)
