"""The data of differential.py: planted effects, null comparisons, and real sets whose answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from time_to_quality import SETS, chosen

import celbo

Codes = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

INTERFERON = (
    *("ISG15", "ISG20", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1", "MX2", "IFITM1", "IFITM2", "IFITM3", "LY6E"),
    *("IFI35", "IFI44", "IFI44L", "IFIH1", "IFI16", "OAS1", "OAS2", "OAS3", "OASL", "IRF7", "STAT1", "BST2", "XAF1"),
    *("HERC5", "HERC6", "SAMD9", "SAMD9L", "EIF2AK2", "PLSCR1", "RSAD2", "TNFSF10", "EPSTI1", "TRIM22", "USP18"),
    *("UBE2L6", "DDX58", "PARP9", "CMPK2"),
)
"""Genes that type I interferon induces in blood cells (among the 'hallmark interferon alpha response' of MSigDB)."""
LEADING = ("ISG15", "ISG20", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1", "IFITM3", "LY6E")
"""Those that lead in every cell type of Kang et al. 2018 (doi:10.1038/nbt.4042)."""


@dataclass(frozen=True)
class Question:
    """Two groups of cells of a data set, and what is known of them."""

    adata: AnnData
    first: Codes
    """Positions of the cells of group 1."""
    second: Codes
    truth: Doubles | None = None
    """True log2 fold changes, exactly 0 where there is none; (genes,)."""
    sample_key: str | None = None
    """Column of obs that names the samples, where they are the units."""


# -- planted effects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """Two groups of simulated cells between which a share of the genes differs."""

    name: str
    sizes: tuple[int, int]
    library: float = 5_000.0
    background: int = 0
    """Cells of two other types besides."""
    genes: int = 1_000
    batches: int = 3
    changed: float = 0.1
    """Share of the genes that differ, nearly."""
    folds: tuple[float, float] = (0.32, 2.0)
    expression_sd: float = 2.2
    latent_effect: float = 0.0
    zero_inflation: float = 0.0
    uneven: float | None = None
    """Concentration of the types' shares in the batches; None is equal shares."""
    thinned: float = 1.0
    """Share of the counts of group 1 that is kept: a type with less RNA."""
    inverse_dispersion: float = 1.5

    def make(self, seed: int) -> Question:
        """Draw the cells."""
        types = 4 if self.background else 2
        wanted = max(*self.sizes, self.background // 2)
        n_cells = int(1.15 * types * wanted * (3 if self.uneven else 1)) + 200
        adata = celbo.datasets.simulate(
            n_cells=n_cells,
            n_genes=self.genes,
            n_batches=self.batches,
            n_cell_types=types,
            seed=1_000 + seed,
            de_fraction=self.changed / 2,  # each of the two types changes as many
            log2_fold_change_range=self.folds,
            expression_sd=self.expression_sd,
            latent_effect=self.latent_effect,
            zero_inflation=self.zero_inflation,
            type_concentration=self.uneven,
            inverse_dispersion=self.inverse_dispersion,
            library_size=self.library,
        )
        rng = np.random.default_rng([seed, 3])
        names = sorted(adata.obs["cell_type"].astype(str).unique())
        share = adata.uns["truth"]["share"]
        of_type = [rng.permutation(np.flatnonzero((adata.obs["cell_type"] == name).to_numpy())) for name in names]
        kept = [of_type[0][: self.sizes[0]], of_type[1][: self.sizes[1]]]
        if self.background:
            kept.append(np.concatenate(of_type[2:])[: self.background])
        if self.thinned < 1:
            _thin(adata, kept[0], self.thinned, rng)
        first, second = (share[name].to_numpy() for name in names[:2])
        return _question(adata, kept, np.where(first == second, 0.0, np.log2(first / second)))


def _thin(adata: AnnData, cells: Codes, share: float, rng: np.random.Generator) -> None:
    """Keep a share of the counts of some cells: negative binomials stay what they are."""
    x = adata.X.tocsr()
    for cell in cells:
        at = slice(x.indptr[cell], x.indptr[cell + 1])
        x.data[at] = rng.binomial(x.data[at].astype(np.int64), share)
    x.eliminate_zeros()
    adata.X = x


def _question(adata: AnnData, parts: list[Codes], truth: Doubles, sample_key: str | None = None) -> Question:
    """Keep the cells of the parts that have counts; the first two are the groups."""
    has_counts = np.asarray(adata.X.sum(1)).ravel() > 0
    group = np.full(adata.n_obs, -1)
    for number, part in enumerate(parts):
        group[part] = number
    keep = np.flatnonzero((group >= 0) & has_counts)
    cells = adata[keep].copy()
    cells.obs["group"] = np.array(["1", "2", "other"])[np.minimum(group[keep], 2)]
    groups = [np.flatnonzero(group[keep] == number) for number in (0, 1)]
    return Question(cells, groups[0], groups[1], truth, sample_key)


def _sizes() -> Iterator[Planted]:
    """Yield group sizes from 30 to 3,000, shallow and deep; the small ones also among other cells."""
    for library, depth in ((800.0, "shallow"), (5_000.0, "deep")):
        for sizes in ((30, 30), (150, 340), (30, 3_000), (1_000, 1_000), (3_000, 3_000)):
            yield Planted(f"{sizes[0]} v {sizes[1]}, {depth}", sizes, library)
        yield Planted(f"30 v 30 among 1,000, {depth}", (30, 30), library, background=940)
        yield Planted(f"150 v 340 among 3,000, even genes, {depth}", (150, 340), library, 2_510, expression_sd=1.0)


def _variants() -> Iterator[Planted]:
    """Yield what may break an assumption of a method, at 150 against 340 cells."""
    for library, depth in ((800.0, "shallow"), (5_000.0, "deep")):
        base = Planted("", (150, 340), library)
        changes = {
            "even genes": replace(base, expression_sd=1.0),
            "programs within types": replace(base, latent_effect=0.3),
            "dropout": replace(base, zero_inflation=0.1),
            "types uneven over batches": replace(base, uneven=1.0),
            "group 1 with 0.3 of the RNA": replace(base, thinned=0.3),
            "10 genes differ": replace(base, changed=0.01),
            "nothing differs": replace(base, changed=0.0),
            "40% of the genes differ": replace(base, changed=0.4),
            "all folds 1.25": replace(base, folds=(0.32, 0.32)),
            "overdispersed": replace(base, inverse_dispersion=0.4),
            "nearly Poisson": replace(base, inverse_dispersion=20.0),
            "one batch": replace(base, batches=1),
        }
        for name, planted in changes.items():
            yield replace(planted, name=f"{name}, {depth}")


PLANTED = {planted.name: planted for planted in (*_sizes(), *_variants())}


# -- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Donors:
    """Two groups of simulated samples, each with an effect of its own on every gene."""

    name: str
    samples: int
    """In each group."""
    batches: int
    effect: float
    """Standard deviation over genes of a sample's effect (natural log)."""
    changed: float
    """Share of the genes that differ between the groups; 0 is a null."""
    cells: int = 60
    """Of a sample, nearly."""
    library: float = 2_000.0
    uneven: bool = False
    """Samples of 0.1 to 1 times the cells; the variance of the effects is gamma distributed over genes."""

    def make(self, seed: int) -> Question:
        """Draw the cells; each batch has as many samples of either group, else as near as can be."""
        types = 2 if self.changed else 1
        per_batch = -(-2 * self.samples // self.batches)
        adata = celbo.datasets.simulate(
            n_cells=per_batch * self.batches * self.cells * types,
            n_genes=1_000,
            n_batches=self.batches,
            n_cell_types=types,
            n_samples_per_batch=per_batch,
            sample_effect=0.0 if self.uneven else self.effect,
            de_fraction=self.changed / 2,
            library_size=self.library,
            seed=2_000 + seed,
        )
        return self.split(_unevened(adata, self.effect, seed) if self.uneven else adata, seed)

    def split(self, adata: AnnData, seed: int) -> Question:
        """Give the samples to the groups at random."""
        rng = np.random.default_rng([seed, 4])
        pairs = adata.obs[["batch", "sample"]].astype(str).drop_duplicates()
        arms: dict[str, int] = {}
        turn = int(rng.integers(2))
        for _, of_batch in pairs.groupby("batch", sort=True):
            for name in rng.permutation(of_batch["sample"].to_numpy()):
                arms[name] = turn % 2
                turn += 1
        arm = adata.obs["sample"].astype(str).map(arms).to_numpy()
        names = sorted(adata.obs["cell_type"].astype(str).unique())
        code = adata.obs["cell_type"].astype(str).map({name: i for i, name in enumerate(names)}).to_numpy()
        if len(names) == 1:
            return _question(adata, [np.flatnonzero(arm == i) for i in (0, 1)], np.zeros(adata.n_vars), "sample")
        share = adata.uns["truth"]["share"]
        first, second = (share[name].to_numpy() for name in names)
        truth = np.where(first == second, 0.0, np.log2(first / second))
        return _question(adata, [np.flatnonzero((arm == i) & (code == i)) for i in (0, 1)], truth, "sample")


def _unevened(adata: AnnData, effect: float, seed: int) -> AnnData:
    """Give samples other sizes, and effects by thinning, their variance gamma distributed over genes."""
    rng = np.random.default_rng([seed, 7])
    codes = pd.Categorical(adata.obs["sample"].astype(str)).codes
    n_samples = int(codes.max()) + 1
    keep = rng.random(adata.n_obs) < rng.uniform(0.1, 1.0, n_samples)[codes]
    sizes = effect * np.sqrt(rng.gamma(1.0, 1.0, adata.n_vars))
    drawn = sizes * rng.standard_normal((n_samples, adata.n_vars))
    share = np.exp(drawn - drawn.max(0))
    out = adata[keep].copy()
    x = out.X.tocoo()
    x.data = rng.binomial(x.data.astype(np.int64), share[codes[keep][x.row], x.col]).astype(np.float32)
    out.X = x.tocsr()
    out.X.eliminate_zeros()
    return out


DONORS = {
    donors.name: donors
    for changed, what in ((0.0, "null"), (0.1, "planted"))
    for donors in (
        Donors(f"6 v 6 donors of one batch, {what}", 6, 1, 0.25, changed),
        Donors(f"6 v 6 donors of 3 batches, {what}", 6, 3, 0.25, changed),
        Donors(f"3 v 3 donors of one batch, {what}", 3, 1, 0.25, changed),
        Donors(f"3 v 3 donors of 3 batches, {what}", 3, 3, 0.25, changed),
        Donors(f"6 v 6 donors without effects, {what}", 6, 1, 0.0, changed),
        Donors(f"6 v 6 uneven donors of one batch, {what}", 6, 1, 0.25, changed, uneven=True),
        Donors(f"3 v 3 uneven donors of one batch, {what}", 3, 1, 0.25, changed, uneven=True),
    )
}


# -- real nulls ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Null:
    """Random halves of one kind of cell of a real set."""

    name: str
    set: str
    """Of SETS."""
    cell_type: str
    arm: str | None = None
    """Batch that the cells are of; None is all."""
    by_sample: bool = False
    """Halve the batches instead of the cells: the model then has no batches."""

    def load(self, data: Path) -> tuple[AnnData, Codes]:
        """Return the whole set on its variable genes, and the cells to halve."""
        adata = real(self.set, data, with_batches=not self.by_sample)
        among = (adata.obs["cell_type"].astype(str) == self.cell_type).to_numpy()
        if self.arm is not None:
            among &= (adata.obs["batch"].astype(str) == self.arm).to_numpy()
        return adata, np.flatnonzero(among)

    def halve(self, adata: AnnData, among: Codes, number: int) -> Question:
        """Return one random split of the cells, or of the batches."""
        rng = np.random.default_rng([number, 5])
        if not self.by_sample:
            order = rng.permutation(among)
            middle = len(order) // 2
            return Question(adata, np.sort(order[:middle]), np.sort(order[middle:]))
        names = adata.obs["sample"].astype(str).to_numpy()
        half = rng.permutation(np.unique(names))
        in_first = np.isin(names[among], half[: len(half) // 2])
        return Question(adata, among[in_first], among[~in_first], sample_key="sample")


NULLS = {
    null.name: null
    for null in (
        Null("pbmc3k, naive CD4 T cells", "pbmc3k", "Naive CD4 T"),
        Null("kang, unstimulated CD14 monocytes", "kang", "CD14 Mono", arm="CTRL"),
        Null("mouse bladder, largest type", "bladder", "cluster_1"),
        Null("paul15, monocytes", "paul15", "14Mo"),
        Null("cortex, upper-layer neurons, by cell", "cortex", "E2Rasgrf2"),
        Null("cortex, upper-layer neurons, 6 v 6 batches", "cortex", "E2Rasgrf2", by_sample=True),
    )
}


def real(name: str, data: Path, *, with_batches: bool = True, genes: int = 2_000) -> AnnData:
    """Return a real set on its variable genes; without batches their column is `sample`."""
    one = SETS[name] if with_batches else replace(SETS[name], batch_key=None)
    adata = chosen(one, data / one.file, genes)
    if one.batch_key is None and "batch" in adata.obs:
        adata.obs["sample"] = adata.obs["batch"].astype(str).to_numpy()
        del adata.obs["batch"]
    return adata


# -- real truth ------------------------------------------------------------------------------------------------------


def kang(data: Path) -> tuple[AnnData, dict[str, Question]]:
    """Return the set of interferon and for each cell type with 20 cells in both arms: stimulated against control."""
    adata = real("kang", data, with_batches=False)
    out = {}
    for name in sorted(adata.obs["cell_type"].astype(str).unique()):
        of_type = (adata.obs["cell_type"].astype(str) == name).to_numpy()
        arms = [np.flatnonzero(of_type & (adata.obs["sample"] == arm).to_numpy()) for arm in ("STIM", "CTRL")]
        if min(map(len, arms)) >= 20:
            out[name] = Question(adata, arms[0], arms[1])
    return adata, out


@dataclass(frozen=True)
class Lines:
    """A few cells of two cell lines by CEL-seq2, and cells that know better; positions are in the same AnnData."""

    question: Question
    other_platform: Question
    """All cells of the two lines by Drop-seq, which are not to train on."""
    rest: Question
    """The other cells of the two lines by CEL-seq2."""


def mixology(data: Path, *, cells: int = 30, draws: int = 5) -> tuple[AnnData, dict[str, Lines]]:
    """Return both platforms' cells, and questions of pairs of cell lines that both have.

    Genes that one of the platforms' tables lacks are left out.
    """
    adata = real("mixology", data)
    single = (adata.obs["demuxlet"].astype(str) == "SNG").to_numpy()
    adata = adata[single, adata.var["in_all_batches"].to_numpy(bool)].copy()
    judge = (adata.obs["protocol"].astype(str) == "dropseq").to_numpy()
    line = adata.obs["cell_type"].astype(str).to_numpy()
    out = {}
    for one, other in itertools.combinations(sorted(set(line[judge]) & set(line[~judge])), 2):
        other_platform = Question(adata, *(np.flatnonzero(judge & (line == name)) for name in (one, other)))
        for draw in range(draws):
            rng = np.random.default_rng([draw, len(out), 6])
            orders = [rng.permutation(np.flatnonzero(~judge & (line == name))) for name in (one, other)]
            few, rest = ([np.sort(order[part]) for order in orders] for part in (slice(cells), slice(cells, None)))
            out[f"{one} v {other}, draw {draw}"] = Lines(Question(adata, *few), other_platform, Question(adata, *rest))
    return adata, out


def pooled_lfc(question: Question) -> Doubles:
    """Return log2 fold changes of all counts of the groups, the mean over batches that have both; (genes,)."""
    batch = question.adata.obs["batch"].astype(str).to_numpy()
    found = []
    for name in sorted(set(batch[question.first]) & set(batch[question.second])):
        sums = [
            np.asarray(question.adata.X[members[batch[members] == name]].sum(0)).ravel() + 0.5
            for members in (question.first, question.second)
        ]
        found.append(np.log2(sums[0] / sums[0].sum()) - np.log2(sums[1] / sums[1].sum()))
    return np.mean(found, axis=0)


def hand_over(adata: AnnData, path: Path) -> None:
    """Write counts, and batches where there are any, for the peer."""
    x = sp.csr_matrix(adata.X)
    whole = {"values": x.data, "indices": x.indices, "indptr": x.indptr, "shape": np.array(x.shape)}
    if "batch" in adata.obs:
        whole["batch"] = adata.obs["batch"].astype(str).to_numpy().astype(str)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **whole)
