"""Where in the latent space are the cells of one sample, and of one group of samples, more abundant?

The cells of a sample s have the aggregated posterior, and its density is the sample's abundance at a state z:

    q_s(z) = 1 / n_s sum_{j in s} q(z | x_j)

(MrVI: Boyeau et al. 2022, doi:10.1101/2022.10.04.510898). The state of a cell i is not known either, so that what is
asked of it is the expected density, for normal posteriors a closed form:

    E_{q(z | x_i)}[q_s(z)] = 1 / n_s sum_{j in s} Normal(m_i; m_j, v_i + v_j)

scvi-tools takes the density at m_i, which is v_i = 0: twice as noisy, as the cells next to m_i decide alone. A cell
adds its own posterior to that of its own sample, and it is nowhere higher than at the cell's own state: with the cell
left in, every cell seems most abundant in the sample it is of. It is left out here unless asked for.

Groups are compared over samples, because cells of one sample are no replicates of each other. So that a sample without
cells at z has a finite log density there, it is given one pseudo-cell of the average sample:

    log ~q_s(z) = log [ (n_s q_s(z) + a q(z)) / (n_s + a) ],  q = average over samples of q_s,  a = 1
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.special import logsumexp

from celbo.data.cells import CellData
from celbo.errors import CelboWarning, InputError, OptionError, listed
from celbo.kernels.cpu_pairs import log_products
from celbo.nn.latent import GaussianPosterior, MixturePosterior
from celbo.posterior.stream import Network, Positions, check_positive, encoded_blocks, evaluating

__all__ = ["abundance_contrast", "sample_log_densities"]

Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.integer]

_ENTRIES = 1 << 18
"""Pairs of posteriors whose density exists at a time: few enough to stay in a processor's cache."""
_LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class _Mixtures:
    """A mixture of K normal distributions with diagonal covariances for each cell."""

    mean: Doubles
    """(cells, K, D)."""
    variance: Doubles
    """(cells, K, D)."""
    log_weight: Doubles
    """(cells, K); one weight of 1 for a normal posterior."""

    def __getitem__(self, cells: slice | Codes) -> _Mixtures:
        return _Mixtures(self.mean[cells], self.variance[cells], self.log_weight[cells])

    @property
    def n_components(self) -> int:
        """Components of each cell."""
        return int(self.mean.shape[1])


def sample_log_densities(
    network: Network,
    data: CellData,
    indices: Positions,
    samples: Codes,
    *,
    names: list[str],
    leave_one_out: bool = True,
    give_mean: bool = False,
    max_cells: int = 5000,
    batch_size: int = 512,
    seed: int = 0,
) -> Doubles:
    """Return the log density of each sample's aggregated posterior at the state of each cell.

    The time goes with cells x cells of all samples, the memory with the cells.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,). Samples are made of these cells only.
    samples
        Code of the sample of each of these cells, -1 for none; (n,).
    names
        Names of the samples, in the order of their codes.
    leave_one_out
        Whether a cell's own posterior is left out of its own sample's.
    give_mean
        The density at the mean of each cell's posterior, instead of the expected one over its posterior.
    max_cells
        Most cells that a sample's density is made of; of more, so many are drawn.
    batch_size
        Cells encoded at a time.
    seed
        Seed of that choice.

    Returns
    -------
    (n, samples) float64 in nats, of the latent state before any transform.

    Raises
    ------
    OptionError
        If the posterior has no density (a deterministic encoder).
    InputError
        If a sample has no cells, or a single one that is to be left out.
    """
    check_positive("max_cells", max_cells)
    members = [np.flatnonzero(samples == code) for code in range(len(names))]
    needed = 2 if leave_one_out else 1
    few = [name for name, cells in zip(names, members, strict=True) if len(cells) < needed]
    if few:
        raise InputError(
            f"have fewer than {needed} cells", where="samples", value=listed(few), fix="Leave these samples out."
        )
    posteriors, means = _posteriors(network, data, indices, batch_size)
    at = (
        _Mixtures(means[:, None], np.zeros_like(means[:, None]), np.zeros((len(means), 1))) if give_mean else posteriors
    )
    rng = np.random.default_rng(seed)
    densities = np.empty((len(indices), len(names)))
    for code, cells in enumerate(members):
        chosen = cells if len(cells) <= max_cells else np.sort(rng.choice(cells, max_cells, replace=False))
        densities[:, code] = _log_density(at, posteriors[chosen], chosen if leave_one_out else None)
    return densities


def _posteriors(network: Network, data: CellData, indices: Positions, batch_size: int) -> tuple[_Mixtures, Doubles]:
    """Encode all cells: their posteriors, and the means of these, (cells, D)."""
    parts: list[tuple[Doubles, ...]] = []
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=0):
            z = block.latent.z
            if isinstance(z, MixturePosterior):
                mean, variance = (x.transpose(0, 1) for x in (z.components.mean, z.components.variance))
                log_weight = z.log_weight
            elif isinstance(z, GaussianPosterior):
                mean, variance = z.mean[:, None], z.variance[:, None]
                log_weight = mean.new_zeros(mean.shape[:2])
            else:
                raise OptionError(
                    "has no density, so that abundance means nothing",
                    where="the code of a deterministic encoder",
                    fix="Use a variational model.",
                )
            parts.append(tuple(x.cpu().double().numpy() for x in (mean, variance, log_weight, z.mean)))
    *mixtures, means = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _Mixtures(*mixtures), means


def _log_density(at: _Mixtures, of: _Mixtures, left_out: Codes | None) -> Doubles:
    """Return the log of the expected density of the average of some cells' posteriors, `of`, over each of `at`.

    `left_out` are the positions of these cells among `at`: each is left out at itself.
    """
    n = len(of.mean)
    own = np.full(len(at.mean), -1)
    if left_out is not None:
        own[left_out] = np.arange(n)
    out = np.empty(len(at.mean))
    rows = max(1, _ENTRIES // (n * of.n_components * at.n_components))
    for start in range(0, len(at.mean), rows):
        asked, itself = at[start : start + rows], own[start : start + rows]
        within = np.flatnonzero(itself >= 0)
        log_prob = _log_products(asked, of)
        log_prob[within, :, itself[within]] = -np.inf
        count = n - (itself >= 0)
        out[start : start + rows] = _log_sums(log_prob.reshape(len(itself), -1)) - np.log(count)
    return out


def _log_products(one: _Mixtures, two: _Mixtures) -> Doubles:
    """Return the log integral of the product of each two components, weighted: (cells of one, K of one, of two, K)."""
    shape = (*one.mean.shape[:2], *two.mean.shape[:2])
    n_latent = one.mean.shape[2]
    by_dimension = [
        np.ascontiguousarray(x.reshape(-1, n_latent).T) for x in (one.mean, one.variance, two.mean, two.variance)
    ]
    densities: Doubles = log_products(*by_dimension)
    densities += one.log_weight.reshape(-1, 1) + two.log_weight.ravel() - 0.5 * n_latent * _LOG_2PI
    return densities.reshape(shape)


def _log_sums(log_values: Doubles) -> Doubles:
    """Return the log of the sum of each row, in less time than SciPy's `logsumexp`; no row is all minus infinity."""
    largest = log_values.max(1)
    sums: Doubles = np.log(np.exp(log_values - largest[:, None]).sum(1)) + largest
    return sums


def abundance_contrast(
    densities: Doubles,
    sizes: npt.NDArray[np.int64],
    group1: Codes,
    group2: Codes,
    *,
    pseudo_cells: float = 1.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare two groups of samples at each cell: their mean log densities, with the spread over samples.

    Parameters
    ----------
    densities
        `sample_log_densities`, (cells, samples) in nats.
    sizes
        Number of cells of each sample; (samples,).
    group1, group2
        Columns of the samples of either group.
    pseudo_cells
        Cells of the average sample of both groups that each sample is given; see the module. A sample of n cells can
        then not be below that average by more than a factor n + 1: more it cannot know.
    level
        Of the confidence interval: Student's t over samples, with one variance in both groups.

    Returns
    -------
    One row a cell: log_density1, log_density2 (nats, mean over samples), lfc_mean (log2, group 1 over group 2),
    lfc_std (standard error of it), lfc_lower, lfc_upper, p_value (of no difference), fdr (Benjamini and Hochberg). The
    last five are NaN, with a warning, where both groups have a single sample.

    Raises
    ------
    InputError
        If a group has no sample, or a sample is in both.
    OptionError
        If the level or the number of pseudo-cells is impossible.
    """
    if not 0 < level < 1:
        raise OptionError("is not between 0 and 1", where=f"level={level!r}", fix="0.95 is usual.")
    if not 0 <= pseudo_cells < np.inf:
        raise OptionError("is not a number of at least 0", where=f"pseudo_cells={pseudo_cells!r}")
    for name, group in (("group1", group1), ("group2", group2)):
        if len(group) == 0:
            raise InputError("has no samples", where=name)
    if len(np.intersect1d(group1, group2)):
        raise InputError("are in both groups", where=f"{len(np.intersect1d(group1, group2))} samples")
    n1, n2 = len(group1), len(group2)
    both = np.concatenate([group1, group2])
    average = logsumexp(densities[:, both], axis=1, keepdims=True) - np.log(n1 + n2)
    log_size, log_pseudo = np.log(sizes[both]), np.log(pseudo_cells) if pseudo_cells > 0 else -np.inf
    smooth = np.logaddexp(densities[:, both] + log_size, average + log_pseudo) - np.log(sizes[both] + pseudo_cells)
    one, two = smooth[:, :n1], smooth[:, n1:]
    difference = (one.mean(1) - two.mean(1)) / np.log(2)
    table = {"log_density1": one.mean(1), "log_density2": two.mean(1), "lfc_mean": difference}
    freedom = n1 + n2 - 2
    if freedom == 0:
        warnings.warn(
            "With one sample in each group there is no spread over samples: the difference has no interval. "
            "Cells of one sample are not replicates.",
            CelboWarning,
            stacklevel=3,
        )
        return pd.DataFrame(table | dict.fromkeys(_UNCERTAINTY, np.nan))
    squares = ((one - one.mean(1, keepdims=True)) ** 2).sum(1) + ((two - two.mean(1, keepdims=True)) ** 2).sum(1)
    error = np.sqrt(squares / freedom * (1 / n1 + 1 / n2)) / np.log(2)
    reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    p_value = 2 * stats.t.sf(np.abs(difference) / np.maximum(error, 1e-300), freedom)
    uncertain = (error, difference - reach, difference + reach, p_value, stats.false_discovery_control(p_value))
    return pd.DataFrame(table | dict(zip(_UNCERTAINTY, uncertain, strict=True)))


_UNCERTAINTY = ("lfc_std", "lfc_lower", "lfc_upper", "p_value", "fdr")
