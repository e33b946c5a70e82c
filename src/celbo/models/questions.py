"""Further questions to a model of counts: correlations of genes, credible intervals, abundances, predictive checks.

Functions that `CountModel` has as methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from celbo.data.cells import CellData
from celbo.errors import OptionError, SchemaError, listed, nearest
from celbo.models.options import Indices, batch_codes, gene_positions

if TYPE_CHECKING:
    from anndata import AnnData

    from celbo.models.base import CountModel
    from celbo.posterior.intervals import CredibleIntervals

__all__ = [
    "differential_abundance",
    "get_credible_intervals",
    "get_feature_correlation_matrix",
    "posterior_predictive_check",
]

_BUILT_IN = ("mean", "variance", "zeros")


def get_feature_correlation_matrix(
    self: CountModel[Any],
    adata: AnnData | None = None,
    *,
    indices: Indices = None,
    gene_list: Sequence[str] | None = None,
    transform_batch: str | Sequence[str] | None = None,
    library_size: float | Literal["latent"] = 1.0,
    n_samples: int = 10,
    correlation_type: Literal["spearman", "pearson"] = "spearman",
    overdispersion: bool = False,
    batch_size: int | None = None,
    seed: int | None = None,
) -> pd.DataFrame:
    """Return the correlation of each pair of genes over cells, free of the noise of counting.

    It is that of the decoded expression over all pairs of a cell and a draw of its latent state. Genes of one cell
    type correlate with each other, and so do genes that rise and fall with the batch: `transform_batch` decodes all
    cells as one batch.

    Parameters
    ----------
    adata, indices
        The cells; see `get_latent_representation`. At least two.
    gene_list
        Names of the genes; None is all. The result takes 8 bytes times the square of their number.
    transform_batch
        Batch to decode as: None is each cell's own, a name is that batch, several names the mean of their matrices.
    library_size
        What the shares are multiplied by. A number changes no correlation; "latent" is each cell's own library
        size, whose differences then correlate the genes, too.
    n_samples
        Draws of the latent state of each cell. For Spearman's correlation there are fewer, and fewer cells, where
        their ranks do not fit in 256 MB: from 3,355 cells with 2,000 genes and 10 draws. Its standard error is
        then at most 0.006.
    correlation_type
        "spearman", of the ranks, or "pearson".
    overdispersion
        Add the negative binomial's variation between cells of one latent state, drawn from its Gamma distribution,
        as scvi-tools does; correlations are then nearer 0.
    batch_size
        Cells decoded at a time.
    seed
        Seed of the draws; None is the model's.

    Returns
    -------
    DataFrame (genes, genes), float64; NaN for genes whose expression does not vary.

    Raises
    ------
    OptionError
        An option is impossible, there is one cell only, or the likelihood has no overdispersion.

    Examples
    --------
    >>> r = model.get_feature_correlation_matrix(gene_list=["CD3D", "CD3E", "LYZ"], correlation_type="pearson")
    """
    from celbo.posterior.correlation import correlation_matrix

    data, index = self._asked(adata, indices)
    genes = gene_positions(gene_list, self.schema)
    matrix = correlation_matrix(
        self.network,
        data,
        index,
        genes=genes,
        transform_batch=batch_codes(transform_batch, self.schema),
        library_size=library_size,
        n_samples=n_samples,
        correlation_type=correlation_type,
        overdispersion=overdispersion,
        batch_size=batch_size,
        seed=self.seed if seed is None else seed,
    )
    names = np.asarray(self.schema.genes, object)
    chosen = names if genes is None else names[genes]
    return pd.DataFrame(matrix, index=chosen, columns=chosen)


def get_credible_intervals(
    self: CountModel[Any],
    function: Callable[[pd.DataFrame], Any] | None = None,
    *,
    adata: AnnData | None = None,
    indices: Indices = None,
    gene_list: Sequence[str] | None = None,
    transform_batch: str | Sequence[str] | None = None,
    library_size: float | Literal["latent"] = 1.0,
    over: Literal["cells", "population"] = "cells",
    level: float = 0.95,
    n_samples: int = 100,
    seed: int | None = None,
) -> CredibleIntervals:
    """Return the posterior of anything that you compute from the expression: mean, median and credible interval.

    Without a function: the denoised expression of each gene in each cell with its interval.

    The intervals are of the states of these cells, given the weights that were trained: that other weights would
    explain the data as well is not in them. `celbo.evaluate.calibration` says how far to trust them. Nor are cells
    samples: the interval of a mean over cells is of these cells, not of others of the same kind.

    Parameters
    ----------
    function
        Takes the expression as a DataFrame (cells, genes), with names of both, and returns numbers, or True and
        False, whose mean is a probability. None is the expression itself.
    adata, indices
        The cells; see `get_latent_representation`.
    gene_list
        The genes that the function sees; None is all. Few genes make it quick. Shares are of all genes in any case.
    transform_batch
        Batch to decode as: None is each cell's own, a name is that batch, several names their average.
    library_size
        Total that the shares are multiplied by; "latent" is each cell's own library size.
    over
        "cells": a function of each cell alone, such as a ratio of two genes. It returns one value or one row for
        each row it is given, and is called with blocks of rows, each cell as often as there are draws, so that
        memory is bounded. A function that mixes cells is found out and refused.
        "population": a function of all cells together, such as the mean of a gene in each cluster. It is called
        once for each draw with all the cells asked for, in their order, and may return a number, a Series, a table
        or an array. One draw of all cells and genes asked for is in memory.
    level
        Probability that the interval holds.
    n_samples
        Draws of the latent states; at least 2 / (1 - level) - 1.
    seed
        Seed of the draws; None is the model's.

    Returns
    -------
    CredibleIntervals
        A DataFrame with the columns `mean`, `sd`, `median`, `lower` and `upper` and one row for each value of what the
        function returns, by its names. Of a table (without a function: of cells x genes, float32) the columns are
        (summary, column of the table), so that `found["lower"]` is a table too; `table()` has one row a value.

    Raises
    ------
    OptionError
        The function raises, or returns what is not numbers, not finite or not of one shape; or an option is
        impossible.

    Examples
    --------
    Denoised expression with intervals; the ratio of two genes in each cell; how sure it is that a cell has more of
    one; the score of some genes in each cluster; the difference of a gene between two clusters:

    >>> cd3 = model.get_credible_intervals(gene_list=["CD3D", "CD3E"])
    >>> cd3["lower"], cd3["mean"], cd3["upper"]                # each (cells, genes)
    >>> pair = ["CD8A", "CD4"]
    >>> model.get_credible_intervals(lambda x: np.log2(x["CD8A"] / x["CD4"]), gene_list=pair)
    >>> model.get_credible_intervals(lambda x: x["CD8A"] > x["CD4"], gene_list=pair)["mean"]
    >>> clusters = adata.obs["leiden"].to_numpy()
    >>> def score(x):
    ...     return np.log1p(1e4 * x).mean(axis=1).groupby(clusters).mean()
    >>> model.get_credible_intervals(score, gene_list=module, over="population")
    >>> def difference(x):
    ...     means = x["LYZ"].groupby(clusters).mean()
    ...     return np.log2(means["monocytes"] / means["B cells"])
    >>> model.get_credible_intervals(difference, gene_list=["LYZ"], over="population")["lower"].item()
    """
    from celbo.posterior.intervals import credible_intervals

    if function is not None and not callable(function):
        raise OptionError(
            "is not a function",
            where="function",
            value=type(function).__name__,
            fix="Pass other cells as adata=...",
        )
    data, index = self._asked(adata, indices)
    return credible_intervals(
        self.network,
        data,
        index,
        function=function,
        genes=gene_positions(gene_list, self.schema),
        transform_batch=batch_codes(transform_batch, self.schema),
        library_size=library_size,
        over=over,
        level=level,
        n_samples=n_samples,
        seed=self.seed if seed is None else seed,
    )


def differential_abundance(
    self: CountModel[Any],
    adata: AnnData | None = None,
    *,
    sample_key: Any,
    groupby: Any = None,
    group1: str | Sequence[str] | None = None,
    group2: str | Sequence[str] | None = None,
    indices: Indices = None,
    leave_one_out: bool = True,
    give_mean: bool = False,
    max_cells: int = 5000,
    pseudo_cells: float = 1.0,
    level: float = 0.95,
    batch_size: int | None = None,
    seed: int | None = None,
) -> pd.DataFrame:
    """Return where in the latent space each sample has its cells, or where one group of samples has more of them.

    The abundance of a sample at a state is the density of its aggregated posterior, the average of q(z | x) over
    its cells (MrVI: Boyeau et al. 2022). Groups of samples are compared over samples: a sample counts once,
    however many cells it has.

    Parameters
    ----------
    adata
        Other cells with the same genes; None is the data of the model.
    sample_key
        Column of `obs` with the sample (donor, mouse) of each cell; or one value for each cell.
    groupby
        Column of `obs`, or one value for each cell, with the group of each sample, such as its treatment. None:
        `group1` and `group2` are names of samples.
    group1, group2
        The groups to compare; `group2=None` is all other samples. Without `group1` there is no comparison.
    indices
        The cells; see `get_latent_representation`. Samples are made of these cells only.
    leave_one_out
        Whether each cell is left out of the density of its own sample at itself. With it in (as in scvi-tools),
        every cell seems to be most abundant in its own sample.
    give_mean
        The density at the posterior mean of each cell (as in scvi-tools) instead of the expected one over its
        posterior. The ratio of two samples is then about twice as noisy.
    max_cells
        Most cells of a sample that its density is made of; of more, so many are drawn at random. The log density
        of a few cells is rough, and lower on average than that of many: where the samples of one group are much
        smaller than those of the other, set this to the size of the smallest.
    pseudo_cells
        In a comparison, cells of the average sample that each sample is given: a sample of n cells is then at most
        a factor n + 1 below that average, where it has no cells. 0 is none.
    level
        Of the interval in a comparison.
    batch_size
        Cells encoded at a time.
    seed
        Seed of what is drawn; None is the model's.

    Returns
    -------
    Without groups, (cells, samples): log density in nats at the state of each cell. With groups, one row a cell:
    log_density1, log_density2 (nats, mean over samples), lfc_mean (log2 of the ratio of abundances, group 1
    over group 2), lfc_std (standard error), lfc_lower, lfc_upper (Student's t over samples), p_value, fdr
    (Benjamini and Hochberg over cells).

    Raises
    ------
    InputError
        A column is named and the model's AnnData is gone; a group is empty, or a sample in both.
    SchemaError
        There is no such column, or a sample has cells of several groups.
    OptionError
        The model's posterior has no density, or there is no such group or sample.
    """
    from celbo.posterior.abundance import abundance_contrast, sample_log_densities

    data, index = self._asked(adata, indices)
    samples = _groups_of(self, adata, data, sample_key, "sample_key")[index].remove_unused_categories()
    names = [str(name) for name in samples.categories]
    arms = None
    if group1 is not None:
        owners = None
        if groupby is not None:
            owners = _owners(samples, _groups_of(self, adata, data, groupby, "groupby")[index])
        arms = _arms(names, owners, group1, group2)
    elif groupby is not None or group2 is not None:
        raise OptionError("needs group1 beside it", where="groupby" if groupby is not None else "group2")
    densities = sample_log_densities(
        self.network,
        data,
        index,
        np.asarray(samples.codes),
        names=names,
        leave_one_out=leave_one_out,
        give_mean=give_mean,
        max_cells=max_cells,
        batch_size=batch_size or 512,
        seed=self.seed if seed is None else seed,
    )
    cells = pd.Index(np.asarray(data.cell_names)[index])
    if arms is None:
        return pd.DataFrame(densities, index=cells, columns=names)
    sizes = np.bincount(samples.codes[samples.codes >= 0], minlength=len(names))
    table = abundance_contrast(densities, sizes, *arms, pseudo_cells=pseudo_cells, level=level)
    return table.set_axis(cells)


def posterior_predictive_check(
    self: CountModel[Any],
    adata: AnnData | None = None,
    *,
    indices: Indices = None,
    gene_list: Sequence[str] | None = None,
    statistics: Sequence[str] | Mapping[str, Callable[[Any], Any]] = _BUILT_IN,
    n_samples: int = 25,
    level: float = 0.9,
    batch_size: int | None = None,
    seed: int | None = None,
) -> pd.DataFrame:
    """Compare statistics of each gene between the counts and counts that the model draws for the same cells.

    Parameters
    ----------
    adata, indices
        The cells; see `get_latent_representation`.
    gene_list
        Names of the genes; None is all.
    statistics
        Some of "mean" (counts), "variance" (over cells, counts squared) and "zeros" (share of cells without a
        count); or functions by name, each of which takes counts as a sparse CSR matrix (cells, genes) and returns
        one number for each gene.
    n_samples
        Draws of the counts of all cells; at least 2 / (1 - level) - 1.
    level
        Of the interval of the draws.
    batch_size
        Cells at a time. The named statistics take memory for these only; a function of one's own for one draw of
        all cells, sparse.
    seed
        Seed of the draws; None is the model's.

    Returns
    -------
    One row a gene; for each statistic T: T_observed, T_predicted (mean over the draws), T_lower, T_upper (central
    interval of the draws) and T_p, the posterior predictive p-value P(T(drawn) > T(observed)): near 0 or 1 where
    the model does not draw what was seen. The cells were trained on: p-values near 0.5 are no proof of a good
    model, those near 0 or 1 are proof of a misfit. `celbo.plots.plot_ppc` draws it.

    Raises
    ------
    OptionError
        A statistic does not exist, raises, or does not return a number for each gene; an option is impossible.

    Examples
    --------
    >>> check = model.posterior_predictive_check()
    >>> celbo.plots.plot_ppc(check, "zeros")
    >>> model.posterior_predictive_check(statistics={"largest": lambda x: x.max(axis=0).toarray()})
    """
    from celbo.posterior.predictive import posterior_predictive_check as check

    data, index = self._asked(adata, indices)
    return check(
        self.network,
        data,
        index,
        genes=gene_positions(gene_list, self.schema),
        statistics=statistics,
        n_samples=n_samples,
        level=level,
        batch_size=batch_size,
        seed=self.seed if seed is None else seed,
    )


def _groups_of(
    self: CountModel[Any], adata: AnnData | None, data: CellData, key: Any, where: str
) -> pd.Categorical[Any]:
    """Return the group of each cell by a column of `adata`, or of the model's own AnnData while it is there."""
    from celbo.data.obs import obs_column

    return obs_column(self.obs_of(adata), key, cell_names=data.cell_names, where=where)


def _owners(samples: pd.Categorical[Any], groups: pd.Categorical[Any]) -> list[str | None]:
    """Return the group of each sample; None where it has none."""
    owners: list[str | None] = []
    for code, name in enumerate(samples.categories):
        within = np.unique(groups.codes[samples.codes == code])
        found = [str(groups.categories[g]) for g in within if g >= 0]
        if len(found) > 1:
            raise SchemaError(
                "has cells of several groups", where=f"sample {name!r}", value=listed(found),
                fix="A group is one of samples: each sample belongs to one.",
            )  # fmt: skip
        owners.append(found[0] if found else None)
    return owners


def _arms(
    samples: list[str], owners: list[str | None] | None, group1: str | Sequence[str], group2: str | Sequence[str] | None
) -> tuple[Any, Any]:
    """Return the positions of the samples of either group."""
    belongs = list(samples) if owners is None else owners
    first = _positions(belongs, group1, "group1")
    if group2 is not None:
        return first, _positions(belongs, group2, "group2")
    others = np.array([name is not None for name in belongs])
    others[first] = False
    return first, np.flatnonzero(others)


def _positions(belongs: Sequence[str | None], group: str | Sequence[str], where: str) -> Any:
    names = [str(group)] if isinstance(group, str | int) else [str(name) for name in group]
    known = {name for name in belongs if name is not None}
    for name in names:
        if name not in known:
            raise OptionError("does not exist", where=f"{where}={name!r}", fix=nearest(name, sorted(known)))
    return np.flatnonzero([name in names for name in belongs])
