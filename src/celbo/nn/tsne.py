"""The t-SNE term of a minibatch (van der Maaten & Hinton 2008; parametric: van der Maaten 2009).

    p_ij = exp(-b_i |x_i - x_j|^2) / sum_{k != i} exp(-b_i |x_i - x_k|^2)     b_i such that row i has the perplexity
    q_ij = t_ij / sum_{k != i} t_ik,     t_ij = (1 + |z_i - z_j|^2 / v)^(-(v + 1) / 2),     v = max(D - 1, 1)
    T    = -1/n sum_ij p_ij log q_ij

Rows are conditional on their cell and not made symmetric, so that a cell's term needs no cell outside the minibatch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["perplexity_of", "smoothed", "transition_probabilities", "tsne_cross_entropy"]

_MOST_STEPS = 50
_TOLERANCE = 1e-5
"""Nats by which the entropy of a row may miss the one asked for."""
_WIDEST = 30.0
"""Largest size of the log of a row's precision, in units of the mean squared distance of its near neighbours."""


@torch.no_grad()
def transition_probabilities(x: Tensor, perplexity: float) -> Tensor:
    """Return p_ij, (cells, cells): each row sums to 1, has a zero on the diagonal and the perplexity asked for.

    Newton steps on the logs of all precisions at once, each kept within the bracket found so far: 4 to 6 as a rule.

    Parameters
    ----------
    x
        Coordinates, (cells, features).
    perplexity
        Exponential of the entropy, in nats, of a row: how many neighbours a cell has. Where there are few cells, at
        most a third of the others. A row with more neighbours than that at the same smallest distance has them all.
    """
    n = x.shape[0]
    if n < 2:
        return x.new_zeros(n, n)
    perplexity = max(1.0, min(perplexity, (n - 1) / 3))
    squares, tied = _scaled_distances(x, perplexity)
    target, fourth = math.log(perplexity), squares.square()
    log_precision = tied * _WIDEST
    low, high = torch.full_like(log_precision, -_WIDEST), torch.full_like(log_precision, _WIDEST)
    for _ in range(_MOST_STEPS):
        p, entropy, slope = _rows(squares, fourth, log_precision)
        excess = entropy - target  # falls with the precision
        low, high = torch.where(excess > 0, log_precision, low), torch.where(excess < 0, log_precision, high)
        moves = (excess.abs() > _TOLERANCE) & (high - low > _TOLERANCE)
        if not bool(moves.any()):
            break
        newton = log_precision - (excess / slope).nan_to_num().clamp(-1, 1)
        inside = (newton > low) & (newton < high)
        log_precision = torch.where(moves, torch.where(inside, newton, 0.5 * (low + high)), log_precision)
    return p


def _scaled_distances(x: Tensor, perplexity: float) -> tuple[Tensor, Tensor]:
    """Return squared distances less the least of the row, over the mean of the nearest; and the rows of too many ties.

    Neither changes the rows p_ij that can be had; the diagonal is 0.
    """
    squares = _squared_distances(x).fill_diagonal_(torch.inf)
    squares -= squares.amin(1, keepdim=True)
    near = squares.topk(min(x.shape[0] - 1, math.ceil(perplexity)), largest=False).values.mean(1, keepdim=True)
    tied = ((squares == 0).sum(1, keepdim=True) >= perplexity).to(x.dtype)
    return squares.fill_diagonal_(0) / torch.where(near > 0, near, 1.0), tied


def _rows(squares: Tensor, fourth: Tensor, log_precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows, (cells, cells), their entropies and the slopes of these by the log precision, (cells, 1)."""
    precision = log_precision.exp()
    weight = torch.mul(squares, -precision).exp_().fill_diagonal_(0)
    total = weight.sum(1, keepdim=True)
    mean = torch.linalg.vecdot(weight, squares)[:, None] / total
    variance = torch.linalg.vecdot(weight, fourth)[:, None] / total - mean.square()
    return weight / total, total.log() + precision * mean, -precision.square() * variance


def perplexity_of(p: Tensor) -> Tensor:
    """Return the perplexity of each row, (cells,), for rows (cells, cells) that sum to 1."""
    entropy: Tensor = torch.special.entr(p).sum(1)
    return entropy.exp()


def smoothed(p: Tensor, share: float = 0.1) -> Tensor:
    """Return (p_ij + share / n) over its sum in the row: every cell, itself too, is a little of a neighbour."""
    p = p + share / p.shape[0]
    return p / p.sum(1, keepdim=True)


def tsne_cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """Return T, a scalar in nats per cell: the cross entropy of the neighbours of z under p.

    Its least value is the mean entropy of the rows of p. In one dimension the kernel has one degree of freedom, as in
    two (D - 1 would be none, and divide by zero). A cell alone has no neighbours: T is then 0.

    Parameters
    ----------
    p
        Rows that sum to 1, (cells, cells); what is on the diagonal counts nothing.
    z
        Latent states, (cells, D).
    """
    n, freedom = z.shape[0], max(z.shape[1] - 1, 1)
    if n < 2:
        return z.sum() * 0
    log_kernel = -0.5 * (freedom + 1) * torch.log1p(_squared_distances(z) / freedom)
    itself = torch.eye(n, dtype=torch.bool, device=z.device)
    total = log_kernel.masked_fill(itself, -torch.inf).logsumexp(1)
    return (total.sum() - (p * log_kernel).sum()) / n


def _squared_distances(x: Tensor) -> Tensor:
    """Return the squared Euclidean distances of all pairs, (cells, cells)."""
    squares = x.square().sum(1)
    return (squares[:, None] + squares - 2 * (x @ x.T)).clamp_min(0)
