"""Counts drawn from scVI's own generative model, with the truth beside them.

    l_n ~ LogNormal(m_b, sd^2)                            library size of cell n, in batch b
    rho_n = p * r_k * e_s * (1 + M u_n)                    expected shares; sum 1
    x_ng ~ NB(mean l_n rho_ng, inverse dispersion theta_g), then 0 with probability pi_g

p are the baseline shares of the genes, r_k the fold changes of cell type k, e_s the effect of sample s (and its batch)
and M u_n the variation within a type. No step divides by a sum over genes: r, e and M are drawn, then moved the little
it takes for every sum of shares to be 1 as it stands. So a gene that a type does not change has r = 1 to the last bit,
and its expected share is the same in all types within every batch: an unchanged gene is unchanged after normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import sparse

from celbo.errors import OptionError

__all__ = ["simulate"]

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
_BLOCK = 1 << 21  # entries drawn at a time: bounds the memory


def simulate(
    *,
    n_cells: int = 5000,
    n_genes: int = 2000,
    n_batches: int = 3,
    n_cell_types: int = 8,
    seed: int = 0,
    de_fraction: float = 0.1,
    log2_fold_change_range: tuple[float, float] = (0.32, 2.0),
    batch_effect: float = 0.3,
    n_samples_per_batch: int = 1,
    sample_effect: float = 0.0,
    type_concentration: float | None = None,
    latent_effect: float = 0.0,
    n_latent: int = 3,
    library_size: float = 800.0,
    library_sd: float = 0.4,
    batch_library_sd: float = 0.2,
    expression_sd: float = 2.2,
    inverse_dispersion: float = 1.5,
    inverse_dispersion_sd: float = 0.7,
    zero_inflation: float = 0.0,
    with_rates: bool = False,
) -> AnnData:
    """Draw counts from the generative model of scVI, with known truth.

    Parameters
    ----------
    n_cells, n_genes, n_batches, n_cell_types
        How many of each.
    seed
        Same seed and arguments, same counts.
    de_fraction
        Share of the genes that each type changes against the baseline.
    log2_fold_change_range
        Smallest and largest size of a planted change (log2; the default is 1.25-fold to 4-fold), drawn uniformly.
        Directions are chosen so that ups and downs of a type balance; what is left is taken up by one factor common to
        its changed genes, near 1 unless they are a handful.
    batch_effect
        Standard deviation over genes of a batch's effect (natural log).
    n_samples_per_batch
        Samples (donors) in each batch.
    sample_effect
        Standard deviation over genes of a sample's effect, on top of its batch's (natural log).
    type_concentration
        Concentration of the Dirichlet that each sample's proportions of types are drawn from; small is unbalanced.
        None is equal proportions.
    latent_effect
        Relative standard deviation of a gene's share within a type; above about 0.3 it falls short, as shares must stay
        positive.
    n_latent
        Dimensions of that variation.
    library_size
        Median library size (counts). With the other defaults 15 to 20% of the entries are not 0, about what 2,000 genes
        selected from droplet data show.
    library_sd, batch_library_sd
        Standard deviation of the log library size within a batch, and of its median between batches.
    expression_sd
        Standard deviation over genes of the log baseline share (drawn within two of them).
    inverse_dispersion, inverse_dispersion_sd
        Median over genes of the inverse dispersion theta (variance = mean + mean^2 / theta), and standard deviation of
        its log.
    zero_inflation
        Mean over genes of the probability that a count is dropped to 0.
    with_rates
        Whether to keep `layers["true_rate"]`, the expected counts before dropout, (cells, genes) float32: dense.

    Returns
    -------
    AnnData
        - `X`: counts, (cells, genes) CSR float32.
        - `obs`: `cell_type`, `batch`, `sample`, `library_size` (the l of the model).
        - `var`: `baseline_share` (the p of the model), `inverse_dispersion`, `dropout_probability`.
        - `obsm["latent"]`: the u of the model, (cells, n_latent), with `latent_effect`.
        - `uns["truth"]`, tables of genes x cell types: `share`, the expected shares p * r free of batch;
          `log2_fold_change`, log2 of a type's share over the mean share of the cells of all other types (0 to the last
          bit for a gene that no type changes; the effect of a batch multiplies both sides and cancels); `changed`, the
          genes that the type changes; and genes x samples: `log2_sample_effect`, log2 e. `parameters`: the arguments.

    Raises
    ------
    OptionError
        If an argument is out of range.
    """
    config = _Config(
        n_cells=n_cells,
        n_genes=n_genes,
        n_batches=n_batches,
        n_cell_types=n_cell_types,
        seed=seed,
        de_fraction=de_fraction,
        log2_fold_change_range=log2_fold_change_range,
        batch_effect=batch_effect,
        n_samples_per_batch=n_samples_per_batch,
        sample_effect=sample_effect,
        type_concentration=type_concentration,
        latent_effect=latent_effect,
        n_latent=n_latent,
        library_size=library_size,
        library_sd=library_sd,
        batch_library_sd=batch_library_sd,
        expression_sd=expression_sd,
        inverse_dispersion=inverse_dispersion,
        inverse_dispersion_sd=inverse_dispersion_sd,
        zero_inflation=zero_inflation,
    )
    config.check()
    truth = _draw_truth(config, np.random.default_rng([seed, 0]))
    cells = _draw_cells(config, np.random.default_rng([seed, 1]))
    counts, rates = _draw_counts(truth, cells, np.random.default_rng([seed, 2]), with_rates)
    return _annotated(config, truth, cells, counts, rates)


@dataclass(frozen=True, kw_only=True)
class _Config:
    """The arguments of `simulate`."""

    n_cells: int
    n_genes: int
    n_batches: int
    n_cell_types: int
    seed: int
    de_fraction: float
    log2_fold_change_range: tuple[float, float]
    batch_effect: float
    n_samples_per_batch: int
    sample_effect: float
    type_concentration: float | None
    latent_effect: float
    n_latent: int
    library_size: float
    library_sd: float
    batch_library_sd: float
    expression_sd: float
    inverse_dispersion: float
    inverse_dispersion_sd: float
    zero_inflation: float

    @property
    def n_samples(self) -> int:
        return self.n_batches * self.n_samples_per_batch

    def check(self) -> None:
        """Raise for the first argument that is out of range."""
        whole = ("n_cells", "n_genes", "n_batches", "n_cell_types", "n_samples_per_batch", "n_latent", "seed")
        for name, value in asdict(self).items():
            kind = "a whole number" if name in whole else "a number"
            numbers = [value]
            if name == "log2_fold_change_range":
                kind = "a pair of numbers"
                numbers = list(value) if isinstance(value, tuple | list) and len(value) == 2 else [None]
            elif name == "type_concentration" and value is None:
                continue
            if not all(_is_number(number, whole=name in whole) for number in numbers):
                raise OptionError(f"must be {kind}", where=name, value=repr(value)[:80])
        for name, holds, what in self._rules():
            if not holds:
                raise OptionError(what, where=name, value=str(getattr(self, name)))

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Yield each argument, whether it is in its range, and what the range is."""
        for name in ("n_cells", "n_batches", "n_cell_types", "n_samples_per_batch", "n_latent"):
            yield name, getattr(self, name) >= 1, "must be at least 1"
        n_sums = self.n_samples * self.n_cell_types
        yield "n_genes", self.n_genes > n_sums, f"must be over samples x cell types ({n_sums})"
        for name in ("library_size", "inverse_dispersion"):
            yield name, getattr(self, name) > 0, "must be over 0"
        yield "type_concentration", self.type_concentration is None or self.type_concentration > 0, "must be over 0"
        spreads = ("batch_effect", "sample_effect", "latent_effect", "library_sd", "batch_library_sd", "expression_sd")
        for name in ("seed", *spreads, "inverse_dispersion_sd"):
            yield name, getattr(self, name) >= 0, "must not be negative"
        yield "de_fraction", 0 <= self.de_fraction <= 1, "must be from 0 to 1"
        yield "zero_inflation", 0 <= self.zero_inflation < 1, "must be from 0 to below 1"
        low, high = self.log2_fold_change_range
        yield "log2_fold_change_range", 0 <= low <= high, "must ascend from 0 or more"


def _is_number(value: object, *, whole: bool) -> bool:
    kinds = (int, np.integer) if whole else (int, float, np.number)
    return isinstance(value, kinds) and bool(np.isfinite(value))


@dataclass(frozen=True, eq=False)
class _Truth:
    """The parameters of the genes."""

    baseline: Array
    """Shares p; (genes,)."""
    change: Array
    """Fold changes r; (types, genes); exactly 1 where a type does not change a gene."""
    effect: Array
    """Factors e; (samples, genes)."""
    programs: Array
    """Loadings M; (n_latent, genes); no rows without latent variation."""
    inverse_dispersion: Array
    dropout: Array


@dataclass(frozen=True, eq=False)
class _Cells:
    """The parameters of the cells."""

    sample: Codes
    cell_type: Codes
    library: Array
    latent: Array
    """u, each within [-1, 1]; (cells, n_latent)."""


def _draw_truth(config: _Config, rng: np.random.Generator) -> _Truth:
    n_genes = config.n_genes
    baseline = np.exp(config.expression_sd * _within_two(rng, n_genes))
    baseline /= baseline.sum()
    change = np.stack([_draw_change(config, baseline, rng) for _ in range(config.n_cell_types)])
    of_batch = np.repeat(
        config.batch_effect * rng.standard_normal((config.n_batches, n_genes)), config.n_samples_per_batch, axis=0
    )
    drawn = of_batch + config.sample_effect * rng.standard_normal((config.n_samples, n_genes))
    effect = np.stack([_balanced_effect(np.exp(row), baseline * change, baseline) for row in drawn])
    pi = config.zero_inflation
    return _Truth(
        baseline=baseline,
        change=change,
        effect=effect,
        programs=_draw_programs(config, baseline, change, effect, rng),
        inverse_dispersion=config.inverse_dispersion
        * np.exp(config.inverse_dispersion_sd * rng.standard_normal(n_genes)),
        dropout=rng.beta(10 * pi, 10 * (1 - pi), n_genes) if pi > 0 else np.zeros(n_genes),
    )


def _within_two(rng: np.random.Generator, n: int) -> Array:
    """Return standard normal draws, those beyond two drawn again: no gene takes all counts, few have none at all."""
    draws = rng.standard_normal(n)
    while (beyond := np.abs(draws) > 2).any():
        draws[beyond] = rng.standard_normal(int(beyond.sum()))
    return draws


def _draw_change(config: _Config, baseline: Array, rng: np.random.Generator) -> Array:
    """Return the fold changes of one type, which leave the total share of its changed genes as it is; (genes,)."""
    change = np.ones(config.n_genes)
    n_changed = 0 if config.de_fraction == 0 else max(2, round(config.de_fraction * config.n_genes))
    changed = rng.choice(config.n_genes, min(n_changed, config.n_genes), replace=False)
    changed = changed[np.argsort(-baseline[changed])]
    fold = 2.0 ** rng.uniform(*config.log2_fold_change_range, changed.size)
    surplus = 0.0
    for gene, size in zip(changed, fold, strict=True):  # from the largest share: the last ones level it out
        change[gene] = size if surplus < 0 else 1 / size
        surplus += baseline[gene] * (change[gene] - 1)
    if changed.size:
        change[changed] *= baseline[changed].sum() / (baseline * change)[changed].sum()
    return change


def _balanced_effect(drawn: Array, shares: Array, baseline: Array) -> Array:
    """Return the nearest factors to those drawn for which the shares of every type sum to 1; (genes,).

    The sums are linear in the factors: one small system gives a relative correction of each factor. 1 + t (e - 1) keeps
    the sums for any t, which keeps the factors positive where genes are few.
    """
    relative = shares / baseline  # (types, genes)
    system = (shares * drawn) @ relative.T
    correction = np.linalg.lstsq(system, shares @ drawn - 1, rcond=None)[0] @ relative
    effect: Array = drawn * (1 - correction)
    lowest = effect.min()
    kept: Array = 1 + min(1.0, 0.95 / (1 - lowest)) * (effect - 1) if lowest < 1 else effect
    return kept


def _draw_programs(config: _Config, baseline: Array, change: Array, effect: Array, rng: np.random.Generator) -> Array:
    """Return loadings that move shares between genes and leave every sum of shares at 1; (n_latent, genes).

    u is uniform on [-1, 1], of variance 1/3: a gene's factor 1 + M u has the mean 1 exactly, whatever its loadings.
    """
    if config.latent_effect == 0:
        return np.empty((0, config.n_genes))
    root = np.sqrt(baseline)
    basis = np.linalg.qr((root * (change[:, None] * effect).reshape(-1, config.n_genes)).T)[0]  # of every sum's weights
    loadings = rng.standard_normal((config.n_latent, config.n_genes))
    for _ in range(10):  # all genes of one size and positive factors; then sums of 1; the two draw nearer each time
        loadings *= config.latent_effect * np.sqrt(3) / np.linalg.norm(loadings, axis=0)
        loadings *= np.minimum(1, 0.9 / np.abs(loadings).sum(0))
        loadings -= (loadings * root @ basis) @ basis.T / root
    return np.asarray(loadings * min(1.0, 0.95 / float(np.abs(loadings).sum(0).max())))


def _draw_cells(config: _Config, rng: np.random.Generator) -> _Cells:
    sample = np.sort(rng.integers(config.n_samples, size=config.n_cells))
    equal = np.full((config.n_samples, config.n_cell_types), 1 / config.n_cell_types)
    alpha = config.type_concentration
    proportions = equal if alpha is None else rng.dirichlet(np.full(config.n_cell_types, alpha), config.n_samples)
    limits = proportions.cumsum(1)[sample]  # (cells, types)
    cell_type = (rng.random((config.n_cells, 1)) > limits[:, :-1]).sum(1)
    medians = np.log(config.library_size) + config.batch_library_sd * rng.standard_normal(config.n_batches)
    batch = sample // config.n_samples_per_batch
    library = np.exp(medians[batch] + config.library_sd * rng.standard_normal(config.n_cells))
    n_latent = config.n_latent if config.latent_effect > 0 else 0
    return _Cells(sample, cell_type, library, rng.uniform(-1, 1, (config.n_cells, n_latent)))


def _rates(truth: _Truth, cells: _Cells) -> Iterator[Array]:
    """Yield the expected counts before dropout, some cells at a time; (some cells, genes)."""
    step = max(1, _BLOCK // truth.baseline.size)
    of_type = truth.baseline * truth.change
    for start in range(0, cells.library.size, step):
        some = slice(start, start + step)
        shares = of_type[cells.cell_type[some]] * truth.effect[cells.sample[some]]
        if truth.programs.size:
            shares *= 1 + cells.latent[some] @ truth.programs
        yield cells.library[some, None] * shares


def _draw_counts(
    truth: _Truth, cells: _Cells, rng: np.random.Generator, with_rates: bool
) -> tuple[sparse.csr_matrix, npt.NDArray[np.float32] | None]:
    """Return counts and, if asked for, expected counts; (cells, genes)."""
    blocks, kept = [], []
    for rate in _rates(truth, cells):
        if with_rates:
            kept.append(rate.astype(np.float32))
        theta = truth.inverse_dispersion
        drawn = rng.poisson(rng.standard_gamma(np.broadcast_to(theta, rate.shape)) * (rate / theta))
        if truth.dropout.any():
            drawn[rng.random(drawn.shape) < truth.dropout] = 0
        blocks.append(_as_csr(drawn))
    counts: sparse.csr_matrix = sparse.vstack(blocks, format="csr")
    return counts, np.concatenate(kept) if with_rates else None


def _as_csr(drawn: npt.NDArray[np.int64]) -> sparse.csr_matrix:
    stored = drawn != 0
    at = np.flatnonzero(stored)
    indptr = np.concatenate([[0], np.count_nonzero(stored, axis=1).cumsum()])
    indices = (at % drawn.shape[1]).astype(np.int32)
    return sparse.csr_matrix((drawn.ravel()[at].astype(np.float32), indices, indptr), shape=drawn.shape)


def _annotated(
    config: _Config, truth: _Truth, cells: _Cells, counts: sparse.csr_matrix, rates: npt.NDArray[np.float32] | None
) -> AnnData:
    obs = pd.DataFrame(
        {
            "cell_type": _named("type", cells.cell_type, config.n_cell_types),
            "batch": _named("batch", cells.sample // config.n_samples_per_batch, config.n_batches),
            "sample": _named("sample", cells.sample, config.n_samples),
            "library_size": cells.library,
        },
        index=pd.Index(_names("cell", config.n_cells)),
    )
    var = pd.DataFrame(
        {
            "baseline_share": truth.baseline,
            "inverse_dispersion": truth.inverse_dispersion,
            "dropout_probability": truth.dropout,
        },
        index=pd.Index(_names("gene", config.n_genes)),
    )
    adata = AnnData(X=counts, obs=obs, var=var, uns={"truth": _truth_tables(config, truth, obs, var.index)})
    if truth.programs.size:
        adata.obsm["latent"] = cells.latent
    if rates is not None:
        adata.layers["true_rate"] = rates
    return adata


def _truth_tables(config: _Config, truth: _Truth, obs: pd.DataFrame, genes: pd.Index[Any]) -> dict[str, Any]:
    def table(values: npt.NDArray[Any], column: str) -> pd.DataFrame:
        return pd.DataFrame(values.T, index=genes, columns=list(obs[column].cat.categories))

    n = obs["cell_type"].value_counts(sort=False).to_numpy(np.float64)
    others = n.sum() - n
    rest = np.full(truth.change.shape, np.nan)  # stays so for a type that is alone
    np.divide(n @ truth.change - n[:, None] * truth.change, others[:, None], out=rest, where=others[:, None] > 0)
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items() if v is not None}
    return {
        "log2_fold_change": table(np.log2(truth.change / rest), "cell_type"),
        "share": table(truth.baseline * truth.change, "cell_type"),
        "changed": table(truth.change != 1, "cell_type"),
        "log2_sample_effect": table(np.log2(truth.effect), "sample"),
        "parameters": given,
    }


def _names(stem: str, n: int) -> list[str]:
    width = len(str(n))
    return [f"{stem}_{i:0{width}d}" for i in range(1, n + 1)]


def _named(stem: str, codes: Codes, n: int) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes, categories=pd.Index(_names(stem, n)))
