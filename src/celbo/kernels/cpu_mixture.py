"""Mixtures of normals around 0 as the common prior of many likelihoods, each known on a grid of its own, on the CPU.

A likelihood is constant within the cells of its grid, and a component's prior mass in a cell is a difference of normal
distribution functions: exact however coarse the grid is. Serial, without the GIL.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from celbo.kernels.compile import compiled

__all__ = ["mixture_log_posterior", "mixture_marginals", "mixture_tails", "mixture_weights"]

Doubles = npt.NDArray[np.float64]

_TINY = 1e-300
_LEAST_WEIGHT = 1e-12
_LOWEST = -1e300


def mixture_tails(boundaries: Doubles, sds: Doubles) -> Doubles:
    """Return P(N(0, sd) > |b|) of each boundary and component; (likelihoods, cells + 1, components)."""
    scale = torch.from_numpy(math.sqrt(0.5) / sds)
    found = np.empty((*boundaries.shape, len(sds)))
    for at in _parts(len(boundaries)):
        out = torch.from_numpy(found[at])
        torch.mul(torch.from_numpy(np.abs(boundaries[at]))[:, :, None], scale, out=out)
        out.erfc_().mul_(0.5)
    found[:, [0, -1]] = 0.0  # the outermost cells reach to infinity
    return found


def _parts(n: int) -> list[slice]:
    return [slice(start, min(start + _AT_ONCE, n)) for start in range(0, n, _AT_ONCE)]


_AT_ONCE = 64
"""Likelihoods whose tails are in the cache at a time."""


def mixture_marginals(
    likelihood: Doubles, boundaries: Doubles, sds: Doubles, *, tails: Doubles | None = None
) -> Doubles:
    """Return the integral of each likelihood under each component; (likelihoods, components).

    Parameters
    ----------
    likelihood
        In the cells; (likelihoods, cells).
    boundaries
        Of the cells, ascending; (likelihoods, cells + 1).
    sds
        Standard deviations of the components; (components,).
    tails
        `mixture_tails(boundaries, sds)` where there is memory to keep it: most of the time goes into it.
    """
    found = np.zeros((len(likelihood), len(sds)))
    for at in _parts(len(likelihood)):
        part = mixture_tails(boundaries[at], sds) if tails is None else tails[at]
        _add_marginals(likelihood[at], boundaries[at], part, found[at])
    return found


@compiled()
def _add_marginals(likelihood: Doubles, boundaries: Doubles, tails: Doubles, out: Doubles) -> None:
    n, n_cells = likelihood.shape
    for i in range(n):
        for j in range(n_cells):
            x = likelihood[i, j]
            if x == 0.0:
                continue
            left, right, mine = tails[i, j], tails[i, j + 1], out[i]
            if j > 0 and boundaries[i, j] >= 0:
                for k in range(mine.shape[0]):
                    mine[k] += x * (left[k] - right[k])
            elif j < n_cells - 1 and boundaries[i, j + 1] <= 0:
                for k in range(mine.shape[0]):
                    mine[k] += x * (right[k] - left[k])
            else:
                for k in range(mine.shape[0]):
                    mine[k] += x * (1.0 - left[k] - right[k])


@compiled()
def _em_step(marginals: Doubles, penalty: Doubles, weights: Doubles, out: Doubles, judged: bool) -> float:
    """Write the next weights of expectation maximisation, and return the objective at the present ones if asked."""
    n, n_components = marginals.shape
    out[:] = 0.0
    objective = 0.0
    for i in range(n):
        total = _TINY
        for k in range(n_components):
            total += weights[k] * marginals[i, k]
        if judged:
            objective += math.log(total)
        one_over = 1.0 / total
        for k in range(n_components):
            out[k] += marginals[i, k] * one_over
    for k in range(n_components):
        out[k] = weights[k] * out[k] + penalty[k] - 1.0
        if judged and penalty[k] > 1:
            objective += (penalty[k] - 1.0) * math.log(max(weights[k], _TINY))
    out /= out.sum()
    return objective


@compiled()
def mixture_weights(marginals: Doubles, penalty: Doubles, n_rounds: int, tolerance: float) -> Doubles:
    """Return the weights of the components that make all likelihoods together largest.

    Expectation maximisation, two steps of which are extrapolated (SQUAREM, Varadhan and Roland 2008,
    doi:10.1111/j.1467-9469.2007.00585.x); an extrapolation that does not pay is taken back. The problem is concave.

    Parameters
    ----------
    marginals
        `mixture_marginals(...)`, each row up to a factor.
    penalty
        Exponents of the Dirichlet prior of the weights, at least 1; (components,).
    n_rounds, tolerance
        When to stop: after so many rounds of three steps, or once no step moves a weight by more.
    """
    n_components = marginals.shape[1]
    weights = penalty / penalty.sum()
    one, two, three = np.empty(n_components), np.empty(n_components), np.empty(n_components)
    for _ in range(n_rounds):
        _em_step(marginals, penalty, weights, one, False)
        before = _em_step(marginals, penalty, one, two, True)
        first, second = one - weights, two - 2 * one + weights
        if np.abs(first).max() < tolerance:
            weights[:] = two
            break
        curvature = math.sqrt((second * second).sum())
        stride = 1.0 if curvature == 0.0 else max(1.0, math.sqrt((first * first).sum()) / curvature)
        # weights stay positive, so that no component is lost for good
        weights[:] = np.maximum(weights + 2 * stride * first + stride * stride * second, _LEAST_WEIGHT)
        weights /= weights.sum()
        if _em_step(marginals, penalty, weights, three, True) >= before:
            weights[:] = three
        else:
            weights[:] = two
    return weights


def mixture_log_posterior(
    log_likelihood: Doubles, boundaries: Doubles, sds: Doubles, weights: Doubles, *, tails: Doubles | None = None
) -> Doubles:
    """Return the log of the posterior mass of each cell; (likelihoods, cells).

    In logs, so that the odds of a gene that surely differs keep their size. Minus infinity in every cell where the
    likelihood has no mass anywhere.

    Parameters
    ----------
    log_likelihood
        In the cells; (likelihoods, cells).
    boundaries, sds, tails
        As in `mixture_marginals`.
    weights
        Of the components, 1 in sum; (components,).
    """
    found = np.empty(log_likelihood.shape)
    for at in _parts(len(log_likelihood)):
        part = mixture_tails(boundaries[at], sds) if tails is None else tails[at]
        _fill_prior(boundaries[at], part @ weights, found[at])
    with np.errstate(divide="ignore"):
        np.log(found, out=found)
    found += log_likelihood
    highest = np.maximum(found.max(1, keepdims=True), _LOWEST)
    with np.errstate(divide="ignore"):
        found -= highest + np.log(np.maximum(np.exp(found - highest).sum(1, keepdims=True), _TINY))
    return found


@compiled()
def _fill_prior(boundaries: Doubles, tails: Doubles, out: Doubles) -> None:
    """Write the mass of each cell from the tails of the mixture at its boundaries."""
    n, n_cells = out.shape
    for i in range(n):
        for j in range(n_cells):
            if j > 0 and boundaries[i, j] >= 0:
                out[i, j] = tails[i, j] - tails[i, j + 1]
            elif j < n_cells - 1 and boundaries[i, j + 1] <= 0:
                out[i, j] = tails[i, j + 1] - tails[i, j]
            else:
                out[i, j] = 1.0 - tails[i, j] - tails[i, j + 1]
