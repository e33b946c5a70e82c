"""Which genes do groups of cells express differently? Probabilities, credible intervals and calls that can be trusted.

The fold change asked for is that of mean expression, of the cells of one group over those of the other, as if of the
same batch:

    LFC_g = log2 (m_1g + c) - log2 (m_2g + c)                 m_kg = mean over the cells of k of rho_g(z_n, s)

A trained model says m, but how sure it is of it, it does not say: its posterior is that of latent states under weights
that were fitted once. So the decoded means are corrected by the counts of the groups themselves (`tallies`), which also
tell their precision (`contrast`), and the posterior of the fold changes is found over all genes together (`shrinkage`).
With p the probability that |LFC| >= delta, genes are called in the order of p as long as the mean of 1 - p among the
called, the expected false discovery rate, is at most the target; none is called that more likely does not differ.

`calibrated=False` is the comparison as published, of random pairs of decoded cells (`pairs`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.mixture import GaussianMixture

from celbo.data.cells import CellData
from celbo.data.groups import Comparison, Groups
from celbo.errors import CelboWarning, InputError, OptionError, listed
from celbo.posterior.contrast import Contrast, comparable_within, contrast
from celbo.posterior.density import densest_cells
from celbo.posterior.markers import aurocs, marker_score
from celbo.posterior.pairs import Pairs, compare_pairs, default_pseudocount, log_odds
from celbo.posterior.population import gene_slices, raw_statistics
from celbo.posterior.shrinkage import FoldChanges, OnGrid, TestMode, expected_fdr
from celbo.posterior.stream import Network, check_batches, check_positive
from celbo.posterior.tallies import Tally, Units, tally
from celbo.training.device import check_seed
from celbo.training.guard import large_covariate

__all__ = ["Question", "default_delta", "differential_expression"]

Codes = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Mode = Literal["change", "vanilla"]

_ARRAYS = 20
"""float32 numbers of memory that a unit takes for each gene, while its counts are made and compared."""
_SMALLEST_DELTA, _SHARE_OF_OUTER = 0.1, 0.6
_COMPOSITION = 0.8
"""Fold change (log2) of the median gene from which on the composition of the counts is the finding."""
_MOST_STRATA = 16
"""Strata of a comparison that are kept apart; more are put together by their ratio of the sides."""
_STRONG = 3.0
"""Bayes factor (natural log) that Lopez et al. (2018) call strong evidence."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """How groups are compared; see `celbo.SCVI.differential_expression`."""

    mode: Mode = "change"
    calibrated: bool = True
    delta: float | None = 0.25
    fdr_target: float = 0.05
    batch_correction: bool = True
    transform_batch: tuple[int, ...] | None = None
    pseudocount: float | None = None
    credible_level: float = 0.95
    test_mode: TestMode = "three"
    n_samples: int = 5000
    importance_weighting: bool = False
    densest: float | None = None
    seed: int = 0

    def check(self, data: CellData, *, over_samples: bool) -> None:
        """Raise for the first option that is impossible, or that goes with no other."""
        check_positive("n_samples", self.n_samples)
        check_seed(self.seed)
        check_batches(None if self.transform_batch is None else list(self.transform_batch), data)
        for name, known in (("mode", ("change", "vanilla")), ("test_mode", ("three", "two"))):
            if getattr(self, name) not in known:
                raise OptionError(
                    "is not a choice", where=f"{name}={getattr(self, name)!r}", fix=f"Known: {listed(known)}."
                )
        for name in ("calibrated", "batch_correction", "importance_weighting"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise OptionError("is not True or False", where=f"{name}={getattr(self, name)!r}")
        for name, value in (("delta", self.delta), ("pseudocount", self.pseudocount)):
            if value is not None and not (_is_number(value) and 0 <= value < np.inf):
                raise OptionError("is not a number of at least 0", where=f"{name}={value!r}")
        for name, value in (("fdr_target", self.fdr_target), ("credible_level", self.credible_level)):
            if not (_is_number(value) and 0 < value < 1):
                raise OptionError("is not between 0 and 1", where=f"{name}={value!r}")
        if self.densest is not None and not (_is_number(self.densest) and 0 < self.densest <= 1):
            raise OptionError("is not a share of the cells, over 0 and at most 1", where=f"densest={self.densest!r}")
        if self.transform_batch is not None and not self.batch_correction:
            raise OptionError("makes no sense without batch correction", where="transform_batch")
        if over_samples and not self.corrected:
            raise OptionError(
                "compares over samples only in the calibrated comparison of changes", where="sample_key",
                fix="Leave out mode and calibrated.", flag="Leave out --mode and --no-calibrated.",
            )  # fmt: skip

    @property
    def corrected(self) -> bool:
        """Whether the comparison is of means corrected by counts."""
        return self.calibrated and self.mode == "change"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def differential_expression(
    network: Network, data: CellData, groups: Groups, question: Question, *, samples: Codes | None = None
) -> pd.DataFrame:
    """Compare groups of cells gene by gene.

    Parameters
    ----------
    network, data
        A trained network and its cells.
    groups
        The groups and the comparisons of them.
    question
        The options.
    samples
        Sample (donor, mouse) of each cell, -1 for none; (cells,). None compares over cells.

    Returns
    -------
    One row a gene and comparison, index `gene`; the columns are those of `celbo.SCVI.differential_expression`.

    Raises
    ------
    OptionError
        If an option is impossible.
    InputError
        If a group is empty, or has a single sample where samples are compared.
    """
    question.check(data, over_samples=samples is not None)
    _require_cells(groups)
    raw = raw_statistics(data, groups.cells)
    apart = aurocs(data, groups)
    sizes = np.array([len(cells) for cells in groups.cells], np.float64)
    if question.densest is not None:
        kept = [densest_cells(network, data, cells, question.densest, seed=question.seed) for cells in groups.cells]
        groups = groups.kept(kept)
    batches = _batches(data, question)
    confounded = _confounded(data, groups, samples)
    if question.corrected:
        found = _corrected(network, data, groups, question, batches=batches, samples=samples, confounded=confounded)
    else:
        found = _pairs(network, data, groups, question, batches=batches, confounded=confounded)
    _warn_of_batches(groups.comparisons, found, question)
    return pd.concat(
        [
            _table(data, question, comparison, one, _raw_columns(comparison, raw, sizes) | {"auroc": auroc})
            for comparison, one, auroc in zip(groups.comparisons, found, apart, strict=True)
        ]
    )


@dataclass(frozen=True)
class _Found:
    """A comparison, made."""

    changes: FoldChanges
    scale1: Doubles
    scale2: Doubles
    delta: float
    pseudocount: float
    higher: Doubles | None = None
    confounded: bool = False
    """Whether no batch holds enough cells of both sides: what differs between their batches differs between them."""

    @classmethod
    def joined(cls, parts: Sequence[_Found]) -> _Found:
        """Put together what was found of one slice of the genes after the other."""
        if len(parts) == 1:
            return parts[0]
        scale1, scale2 = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scale1", "scale2"))
        changes = FoldChanges.joined([part.changes for part in parts])
        return replace(parts[0], changes=changes, scale1=scale1, scale2=scale2)


def _require_cells(groups: Groups) -> None:
    for name, members in zip(groups.names, groups.cells, strict=True):
        if len(members) == 0:
            raise InputError("has no cells", where=f"group {name!r}")


def _batches(data: CellData, question: Question) -> list[int] | None:
    """Return the codes of the batches to decode under; None is each cell's own."""
    if not question.batch_correction or data.schema.n_batches == 1:
        return None
    return list(range(data.schema.n_batches) if question.transform_batch is None else question.transform_batch)


def _corrected(
    network: Network,
    data: CellData,
    groups: Groups,
    question: Question,
    *,
    batches: list[int] | None,
    samples: Codes | None,
    confounded: Sequence[bool],
) -> list[_Found]:
    if data.counts.values.dtype.kind == "f":
        raise InputError(
            "are not counts, which the calibrated comparison needs", where="the data",
            fix="Use calibrated=False: pairs of decoded cells need no counts.",
            flag="Use --no-calibrated: pairs of decoded cells need no counts.",
        )  # fmt: skip
    if samples is not None:
        _require_samples(groups, samples)
    units = Units.of(data, groups.cells, samples=samples, at_most=question.n_samples, seed=question.seed)
    if units.n_cells.max() < 2:
        raise InputError(
            "have no two cells of one group and batch" + ("" if samples is None else " and sample"),
            where=f"the groups {listed(groups.names)}",
            fix="How much the cells of a group vary cannot be told from one. Give larger groups, or more n_samples.",
            flag="How much the cells of a group vary cannot be told from one. Give larger groups, or more --n-samples.",
        )
    asked = _Asked(network, data, groups, units, question, batches, samples is not None, confounded)
    slices = gene_slices(data.n_genes, _ARRAYS * len(units.group))
    deltas = None if question.delta is None else [float(question.delta)] * len(groups.comparisons)
    if deltas is None and len(slices) > 1:  # one threshold for all genes needs their fold changes first
        found = asked.found(slices, [_SMALLEST_DELTA] * len(groups.comparisons))
        deltas = [default_delta(one.changes.mean) for one in found]
    found = asked.found(slices, deltas)
    _warn_of_composition(groups.comparisons, found)
    return found


@dataclass(frozen=True)
class _Asked:
    """All comparisons of means corrected by counts."""

    network: Network
    data: CellData
    groups: Groups
    units: Units
    question: Question
    batches: list[int] | None
    over_samples: bool
    confounded: Sequence[bool]

    def found(self, slices: Sequence[slice], deltas: Sequence[float] | None) -> list[_Found]:
        """Make each comparison, of one slice of the genes after the other; without thresholds each takes its own.

        There is one slice but where units are very many, so that their counts of all genes would not fit in memory. A
        slice has a prior of its own.
        """
        return [_Found.joined(parts) for parts in zip(*(self._of(genes, deltas) for genes in slices), strict=True)]

    def _of(self, genes: slice, deltas: Sequence[float] | None) -> list[_Found]:
        counted = tally(
            self.network, self.data, self.units, genes=genes, batches=self.batches,
            importance_weighting=self.question.importance_weighting, seed=self.question.seed,
        )  # fmt: skip

        def one(number: int) -> _Found:
            made, confounded = self._contrast(counted, number)
            if not np.isfinite(made.scale1 + made.scale2).all():
                _refuse_no_mean(self.network, self.data, genes, made)
            found = _posterior(made, self.question, None if deltas is None else deltas[number])
            return replace(found, confounded=confounded)

        with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:  # compiled loops without the GIL
            return list(pool.map(one, range(len(self.groups.comparisons))))

    def _contrast(self, counted: Tally, number: int) -> tuple[Contrast, bool]:
        """Compare within batches, or, where none holds both sides, without a correction that nothing supports.

        With batches to decode under the model's word is asked for, and is taken.
        """
        c, confounded = self.groups.comparisons[number], self.confounded[number]

        def made(counted: Tally, by_batch: bool) -> Contrast:
            return contrast(counted, c.groups1, c.groups2, by_batch=by_batch, over_samples=self.over_samples)

        if self.batches is not None and (self.question.transform_batch is not None or not confounded):
            found = made(counted, True)
            if found.overlap or self.question.transform_batch is not None:
                return found, confounded
            confounded = True
        return made(counted.uncorrected, False), confounded


def _confounded(data: CellData, groups: Groups, samples: Codes | None) -> list[bool]:
    """Return for each comparison whether no batch holds enough cells, or samples, of both sides."""
    n_batches = data.schema.n_batches
    if n_batches == 1:
        return [False] * len(groups.comparisons)

    def of_batches(side: Sequence[int]) -> Doubles:
        cells = np.concatenate([groups.cells[i] for i in side])
        if samples is None:
            return np.bincount(data.batch[cells], minlength=n_batches).astype(np.float64)
        known = cells[samples[cells] >= 0]
        distinct = np.unique(np.stack([data.batch[known], samples[known]]), axis=1)
        return np.bincount(distinct[0], minlength=n_batches).astype(np.float64)

    return [not comparable_within(of_batches(c.groups1), of_batches(c.groups2)) for c in groups.comparisons]


def _require_samples(groups: Groups, samples: Codes) -> None:
    known = [np.unique(samples[cells][samples[cells] >= 0]) for cells in groups.cells]
    for name, codes in zip(groups.names, known, strict=True):
        if len(codes) == 0:
            raise InputError("has no cells with a sample", where=f"group {name!r}")
    everyone = np.concatenate(groups.cells)
    n_samples, n_cells = len(np.unique(np.concatenate(known))), int((samples[everyone] >= 0).sum())
    if 2 * n_samples > n_cells:
        raise InputError(
            f"names {n_samples} samples of {n_cells} cells",
            where="sample_key",
            fix="A sample is what many cells come from: a donor, a mouse, a well.",
        )
    for c in groups.comparisons:
        for name, side in ((c.name1, c.groups1), (c.name2, c.groups2)):
            if len(np.unique(np.concatenate([known[i] for i in side]))) < 2:
                need = "A comparison over samples needs at least two in each group: leave this group out, or give no "
                raise InputError(
                    "is of one sample only", where=f"group {name!r}", fix=f"{need}sample_key.",
                    flag=f"{need}--sample-key.",
                )  # fmt: skip


_HEAVY_TAILED = ("lomax", "lognormal")
"""Likelihoods whose tails can be so heavy that the mean is infinite, or none."""


def _refuse_no_mean(network: Network, data: CellData, genes: slice, found: Contrast) -> None:
    names = np.asarray(data.schema.genes)[genes][~np.isfinite(found.scale1 + found.scale2)]
    where, value = "the model", listed(names.tolist(), limit=3)
    if network.likelihood.name in _HEAVY_TAILED:
        raise InputError(
            f"expects infinite counts of {len(names)} genes: heavy tails without a mean", where=where, value=value,
            fix="Train one with another likelihood (nb), or use calibrated=False.",
            flag="Train one with --likelihood nb, or use --no-calibrated.",
        )  # fmt: skip
    likely = large_covariate(data, np.arange(data.n_cells))
    raise InputError(
        f"expects infinite counts of {len(names)} genes", where=where, value=f"{value}; {likely}" if likely else value,
        fix="Centre and scale that covariate and train again." if likely
        else "Training has gone astray: train again, with a smaller learning rate, and look at the curves of training.",
    )  # fmt: skip


def _warn_of_batches(comparisons: Sequence[Comparison], found: Sequence[_Found], question: Question) -> None:
    """Warn of groups that no batch holds enough cells of both of."""
    lone = [c for c, one in zip(comparisons, found, strict=True) if one.confounded]
    alone = [" and ".join(listed([name]) for name in (c.name1, c.name2)) for c in lone]
    if not alone or not question.batch_correction:  # who asked for no correction knows
        return
    more = f" (and of {len(alone) - 5:,} more pairs)" if len(alone) > 5 else ""
    nothing = f"No batch holds enough cells (or samples) of both {', or of both '.join(alone[:5])}{more}, so "
    if question.transform_batch is None:
        nothing += (
            "they were compared without batch correction: the difference includes that of their batches, of which the "
            "data cannot say how much it is."
        )
    else:
        nothing += (
            "what is compared is what the model does not ascribe to the batch, and it may have ascribed all of it."
        )
    ways = "A condition that you compare is not a batch: train {}."
    warnings.warn(
        CelboWarning(
            nothing,
            fix=ways.format("without batch_key, or with a column whose batches hold both, such as the donor"),
            flag=ways.format(
                "again with celbo run and no --batch-key, or one whose batches hold both, such as the donor"
            ),
        ),
        stacklevel=4,
    )


def _warn_of_composition(comparisons: Sequence[Comparison], found: Sequence[_Found]) -> None:
    """Warn where most genes change alike between two groups: what is compared are shares of the counts of a cell."""
    moved = [
        f"{c.name1} over {c.name2} ({median:+.2f})"
        for c, one in zip(comparisons, found, strict=True)
        if len(c.groups2) == 1 and abs(median := float(np.median(one.changes.median))) > _COMPOSITION
    ]
    if moved:
        text = (
            f"The median gene changes in {listed(moved)} (log2). Expression is a share of a cell's counts: where a few "
            "genes take up much of them, all others are lower. Look at those few first."
        )
        warnings.warn(CelboWarning(text), stacklevel=5)


def _posterior(one: Contrast, question: Question, delta: float | None) -> _Found:
    pseudocount = 0.0 if question.pseudocount is None else float(question.pseudocount)
    on_grid = OnGrid.of(one.evidence.merged(_MOST_STRATA))
    posterior = on_grid.posterior(on_grid.fit_prior())

    def asked(delta: float) -> FoldChanges:
        level, test_mode = question.credible_level, question.test_mode
        return posterior.fold_changes(delta=delta, pseudocount=pseudocount, level=level, test_mode=test_mode)

    delta = default_delta(asked(_SMALLEST_DELTA).mean) if delta is None else delta
    return _Found(asked(delta), one.scale1, one.scale2, delta, pseudocount)


def _pairs(
    network: Network,
    data: CellData,
    groups: Groups,
    question: Question,
    *,
    batches: list[int] | None,
    confounded: Sequence[bool],
) -> list[_Found]:
    everyone = np.concatenate(groups.cells)
    pseudocount = default_pseudocount(data, everyone) if question.pseudocount is None else float(question.pseudocount)

    def made(comparisons: Sequence[Comparison], batches: list[int] | None, delta: float) -> dict[Comparison, Pairs]:
        found = compare_pairs(
            network, data, replace(groups, comparisons=tuple(comparisons)),
            n_samples=question.n_samples, batches=batches, delta=delta, pseudocount=pseudocount,
            level=question.credible_level, test_mode=question.test_mode,
            importance_weighting=question.importance_weighting, seed=question.seed,
        )  # fmt: skip
        return dict(zip(comparisons, found, strict=True))

    def asked(delta: float) -> list[Pairs]:
        # the model's word for a batch is taken where a batch holds both sides, or where it is asked for
        taken = [batches is not None and (question.transform_batch is not None or not c) for c in confounded]
        found: dict[Comparison, Pairs] = {}
        for corrected in (True, False):
            some = [c for c, mine in zip(groups.comparisons, taken, strict=True) if mine is corrected]
            found |= made(some, batches if corrected else None, delta) if some else {}
        return [found[c] for c in groups.comparisons]

    delta = question.delta
    if delta is None:
        delta = float(np.mean([default_delta(pairs.changes.mean) for pairs in asked(_SMALLEST_DELTA)]))
    return [
        _Found(pairs.changes, pairs.scale1, pairs.scale2, float(delta), pseudocount, pairs.higher, confounded=alone)
        for pairs, alone in zip(asked(float(delta)), confounded, strict=True)
    ]


def default_delta(log2_fold_changes: Doubles) -> float:
    """Return a threshold for fold changes from all of a comparison: 0.6 of where its outer genes lie, at least 0.1.

    A mixture of three normals is fitted to the fold changes, and the mean of the sizes of the lowest and the highest
    component's mean is where the outer genes lie (the rule of scvi-tools 1.4.2, `mode="change"`).
    """
    values = log2_fold_changes[np.isfinite(log2_fold_changes)]
    if len(np.unique(values)) < 3:
        return _SMALLEST_DELTA
    means = np.sort(GaussianMixture(3, random_state=0).fit(values[:, None]).means_.ravel())
    return max(_SMALLEST_DELTA, _SHARE_OF_OUTER * float(np.abs(means[[0, -1]]).mean()))


def _raw_columns(comparison: Comparison, raw: tuple[Doubles, Doubles], sizes: Doubles) -> dict[str, Doubles]:
    """Return mean counts and detection of both sides."""
    columns = {}
    for name, values in zip(("raw_mean", "detection"), raw, strict=True):
        for side, members in ((1, comparison.groups1), (2, comparison.groups2)):
            weights = sizes[list(members)]
            columns[f"{name}{side}"] = weights @ values[list(members)] / weights.sum()
    return columns


def _table(
    data: CellData, question: Question, comparison: Comparison, found: _Found, raw: dict[str, Doubles]
) -> pd.DataFrame:
    changes = found.changes
    p, evidence = changes.p, changes.log_odds
    if question.mode == "vanilla":
        assert found.higher is not None
        p, evidence = found.higher, log_odds(found.higher, question.n_samples)
    fdr = expected_fdr(changes.not_p)
    if question.corrected:
        # what certain genes leave of the target is not spent on one that more likely does not differ
        fdr = np.where(changes.not_p > 0.5, np.maximum(fdr, changes.not_p), fdr)
    columns: dict[str, Any] = {
        "group1": comparison.name1,
        "group2": comparison.name2,
        ("proba_higher" if question.mode == "vanilla" else "proba_de"): p,
        "bayes_factor": evidence,
        "lfc_mean": changes.mean,
        "lfc_median": changes.median,
        "lfc_std": changes.sd,
        "lfc_lower": changes.lower,
        "lfc_upper": changes.upper,
        "scale1": found.scale1,
        "scale2": found.scale2,
        **raw,
        "marker_score": _score(changes, question, raw["auroc"]),
    }
    if question.mode == "vanilla":
        columns |= {"is_de": np.abs(evidence) > _STRONG, "pseudocount": found.pseudocount}
    else:
        columns |= {
            "expected_fdr": fdr,
            "is_de": fdr <= question.fdr_target,
            "delta": found.delta,
            "pseudocount": found.pseudocount,
        }
    columns["confounded"] = found.confounded
    table = pd.DataFrame(columns, index=pd.Index(data.schema.genes, name="gene"))
    strength = np.abs(evidence) if question.mode == "vanilla" else evidence
    weakness = -strength if question.mode == "vanilla" else changes.not_p  # the same, but for sums that round
    size = np.abs(columns["marker_score"])
    return table.iloc[np.lexsort((-np.abs(changes.mean), -strength, weakness, -size, ~columns["is_de"]))]


def _score(changes: FoldChanges, question: Question, auroc: Doubles) -> Doubles:
    if question.corrected:
        return marker_score(changes.lower, changes.upper, auroc)
    return marker_score(changes.median, changes.median, auroc)  # intervals are those of pairs of single cells
