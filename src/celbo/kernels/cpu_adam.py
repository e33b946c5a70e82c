"""One step of Adam over all parameters, and the norms of their gradients, in one pass; float32, CPU.

What a step of training moves most of is the weights: read and written once here, in blocks that threads share. The
norms come along, which the guard wants. Blocks and the order of the sums do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from celbo.kernels.compile import SPLIT_SUMS, compiled
from celbo.kernels.cpu import run_parallel

__all__ = ["Constants", "adam_step", "blocks_of"]

_BLOCK = 1 << 14
"""Entries that a thread takes at a time."""


@dataclass(frozen=True)
class Constants:
    """Those of Adam (Kingma and Ba 2014)."""

    beta1: float
    beta2: float
    eps: float
    l2: float
    """Share of a weight that joins its gradient."""


def blocks_of(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return how parameters of these sizes are cut into blocks: parameter, first entry and end; (blocks, 3)."""
    cut = [(p, at, min(at + _BLOCK, n)) for p, n in enumerate(sizes) for at in range(0, n, _BLOCK)]
    return np.array(cut, np.int64).reshape(-1, 3)


def adam_step(
    parameters: Sequence[Sequence[Tensor]],
    blocks: NDArray[np.int64],
    constants: Constants,
    rate: float,
    kept: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Take a step in place and return the norm of each gradient; (parameters,) float64.

    Parameters
    ----------
    parameters
        The weights, their gradients, the means of the gradients and of their squares, and the number of steps before
        this one (one entry each): a list over the parameters of each. All are contiguous float32 on the CPU.
    blocks
        What `blocks_of` returned for the sizes of the weights.
    constants
        Of the optimiser.
    rate
        Learning rate.
    kept
        Factor of each parameter before the step, (parameters,): 1, or what a decoupled weight decay leaves.
    """
    addresses = np.array([[t.data_ptr() for t in kind] for kind in parameters], np.int64)
    squares = np.empty(len(blocks))
    c = constants
    run_parallel(_step, addresses, blocks, rate, c.beta1, c.beta2, c.eps, c.l2, kept, squares)
    return np.sqrt(np.bincount(blocks[:, 0], squares, addresses.shape[1]))


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """Return the address of a float32 as a pointer."""

    def emit(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.PointerType(ir.FloatType()))

    return types.CPointer(types.float32)(types.int64), emit


_ONE = np.float32(1)


@compiled(parallel=True)
def _step(
    addresses: Any, blocks: Any, rate: float, beta1: float, beta2: float, eps: float, l2: float, kept: Any,
    squares: Any,
) -> None:  # fmt: skip
    n = addresses.shape[1]
    sizes, roots = np.empty(n, np.float32), np.empty(n, np.float32)
    for p in range(n):
        steps = numba.carray(_pointer(addresses[4, p]), (1,))
        steps[0] += _ONE
        sizes[p] = rate / (1 - beta1 ** steps[0])
        roots[p] = 1 / math.sqrt(1 - beta2 ** steps[0])
    for b in prange(blocks.shape[0]):
        p, first, size = blocks[b, 0], 4 * blocks[b, 1], blocks[b, 2] - blocks[b, 1]
        w = numba.carray(_pointer(addresses[0, p] + first), (size,))
        g = numba.carray(_pointer(addresses[1, p] + first), (size,))
        m = numba.carray(_pointer(addresses[2, p] + first), (size,))
        v = numba.carray(_pointer(addresses[3, p] + first), (size,))
        squares[b] = _sum_of_squares(g)
        fixed = (np.float32(beta1), np.float32(beta2), np.float32(eps), np.float32(l2))
        _move(w, g, m, v, fixed, sizes[p], roots[p], kept[p])


@compiled(flags=SPLIT_SUMS)
def _sum_of_squares(g: Any) -> float:
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * np.float64(g[i])
    return total


@compiled()
def _move(w: Any, g: Any, m: Any, v: Any, fixed: Any, size: Any, root: Any, kept: Any) -> None:
    beta1, beta2, eps, l2 = fixed
    fresh1, fresh2 = _ONE - beta1, _ONE - beta2
    for i in range(w.size):
        slope = g[i] + l2 * w[i]
        mean = m[i] + (slope - m[i]) * fresh1
        square = v[i] * beta2 + slope * slope * fresh2
        m[i], v[i] = mean, square
        w[i] = w[i] * kept - size * mean / (np.sqrt(square) * root + eps)
