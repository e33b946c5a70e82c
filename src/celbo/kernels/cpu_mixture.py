"""Mixtures of normals around 0 as the common prior of many likelihoods, each known on a grid of its own, on the CPU.

A likelihood is constant within the cells of its grid, and a component's prior mass in a cell is a difference of normal
distribution functions: exact however coarse the grid is. Serial, without the GIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["mixture_log_posterior", "mixture_marginals", "mixture_weights"]

F = TypeVar("F", bound=Callable[..., Any])
Doubles = npt.NDArray[np.float64]

_ROOT_HALF = math.sqrt(0.5)
_FAR = 38.0
"""Standard deviations beyond which the tail of a normal is 0 in float64."""
_TINY = 1e-300
_LEAST_WEIGHT = 1e-12
_NO_WEIGHT = 1e-10
"""Weight of a component below which it is left out of a prior, but for the widest, which reaches everywhere."""
_NOTHING = 1e-18


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True)(function))


@_compiled
def _tail(x: float, per_sd: float) -> float:
    """Return P(|N(0, sd)| > |x|) / 2, with per_sd = 1 / sd."""
    scaled = abs(x) * per_sd
    return 0.0 if scaled > _FAR else 0.5 * math.erfc(scaled * _ROOT_HALF)


@_compiled
def _fill_masses(boundaries: Doubles, sd: float, out: Doubles, first: int, last: int) -> None:
    """Write the mass of the cells from `first` to before `last`; the outermost cells of all reach to infinity."""
    n, per_sd = out.shape[0], 1.0 / sd
    left, left_tail = -1.0, 0.0  # the left boundary of the first cell is minus infinity
    if first > 0:
        left = boundaries[first]
        left_tail = _tail(left, per_sd)
    for j in range(first, last):
        if j == n - 1:
            right, right_tail = 1.0, 0.0
        else:
            right = boundaries[j + 1]
            right_tail = _tail(right, per_sd)
        if left >= 0:
            out[j] = left_tail - right_tail
        elif right <= 0:
            out[j] = right_tail - left_tail
        else:
            out[j] = 1.0 - left_tail - right_tail
        left, left_tail = right, right_tail


@_compiled
def mixture_marginals(likelihood: Doubles, boundaries: Doubles, sds: Doubles) -> Doubles:
    """Return the integral of each likelihood under each component; (likelihoods, components).

    Parameters
    ----------
    likelihood
        In the cells; (likelihoods, cells).
    boundaries
        Of the cells, ascending; (likelihoods, cells + 1).
    sds
        Standard deviations of the components; (components,).
    """
    n, n_cells = likelihood.shape
    found = np.empty((n, sds.shape[0]))
    mass = np.empty(n_cells)
    for i in range(n):
        highest = likelihood[i].max()
        first, last = 0, n_cells  # of the cells that tell: all others together are less than rounding
        while first < n_cells - 1 and likelihood[i, first] < _NOTHING * highest:
            first += 1
        while last > first + 1 and likelihood[i, last - 1] < _NOTHING * highest:
            last -= 1
        for k in range(sds.shape[0]):
            _fill_masses(boundaries[i], sds[k], mass, first, last)
            total = 0.0
            for j in range(first, last):
                total += likelihood[i, j] * mass[j]
            found[i, k] = total
    return found


@_compiled
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


@_compiled
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


@_compiled
def mixture_log_posterior(log_likelihood: Doubles, boundaries: Doubles, sds: Doubles, weights: Doubles) -> Doubles:
    """Return the log of the posterior mass of each cell; (likelihoods, cells).

    In logs, so that the odds of a gene that surely differs keep their size. Minus infinity in every cell where the
    likelihood has no mass anywhere.

    Parameters
    ----------
    log_likelihood
        In the cells; (likelihoods, cells).
    boundaries, sds
        As in `mixture_marginals`.
    weights
        Of the components; (components,).
    """
    n, n_cells = log_likelihood.shape
    posterior = np.empty((n, n_cells))
    mass, prior = np.empty(n_cells), np.empty(n_cells)
    for i in range(n):
        prior[:] = 0.0
        for k in range(sds.shape[0]):
            if weights[k] > _NO_WEIGHT or (k == sds.shape[0] - 1 and weights[k] > 0):
                _fill_masses(boundaries[i], sds[k], mass, 0, n_cells)
                prior += weights[k] * mass
        highest = -np.inf
        for j in range(n_cells):
            posterior[i, j] = log_likelihood[i, j] + (math.log(prior[j]) if prior[j] > 0 else -np.inf)
            highest = max(highest, posterior[i, j])
        if highest == -np.inf:
            continue
        total = 0.0
        for j in range(n_cells):
            total += math.exp(posterior[i, j] - highest)
        posterior[i] -= highest + math.log(total)
    return posterior
