"""Fully connected layers of any widths, for the systems whose layers are not those of scVI."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from celbo.nn.layers import Dropout, torch_linear

__all__ = ["ACTIVATIONS", "MLP", "Activation"]

Activation = Literal["relu", "elu", "leaky-relu", "sigmoid", "tanh", "linear"]
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "leaky-relu": nn.functional.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


class MLP(nn.Module):
    """Layers `linear -> batch norm -> activation -> dropout`, one for each width.

    Parameters
    ----------
    n_in
        Size of the input.
    widths
        Size of each layer; none is the identity.
    activation
        One for all layers, or one for each.
    batch_norm
        Whether layers are batch-normalised.
    batch_norm_momentum, batch_norm_eps
        Those of torch's batch norm (TensorFlow's decay is 1 - momentum).
    batch_norm_scale
        Whether batch norm has a factor; a shift it has in any case.
    dropout_rate
        Dropout after each layer.
    generator
        What the initial weights are drawn from.
    """

    def __init__(
        self,
        n_in: int,
        widths: tuple[int, ...],
        *,
        activation: Activation | tuple[Activation, ...] = "relu",
        batch_norm: bool = False,
        batch_norm_momentum: float = 0.01,
        batch_norm_eps: float = 1e-3,
        batch_norm_scale: bool = True,
        dropout_rate: float = 0.0,
        generator: Generator,
    ) -> None:
        super().__init__()
        sizes = (n_in, *widths)
        self.n_out = sizes[-1]
        names = (activation,) * len(widths) if isinstance(activation, str) else activation
        self._activations = [ACTIVATIONS[name] for name in names]
        self.linears = nn.ModuleList(torch_linear(a, b, generator=generator) for a, b in itertools.pairwise(sizes))
        self.batch_norms = nn.ModuleList(
            nn.BatchNorm1d(width, momentum=batch_norm_momentum, eps=batch_norm_eps)
            for width in (widths if batch_norm else ())
        )
        if not batch_norm_scale:
            for norm in self.batch_norms:
                norm.weight.requires_grad_(False)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the last layer, (..., widths[-1]), for x (..., n_in)."""
        for i, (linear, activation) in enumerate(zip(self.linears, self._activations, strict=True)):
            x = linear(x)
            if len(self.batch_norms):
                x = self.batch_norms[i](x.reshape(-1, x.shape[-1])).view_as(x)
            x = self.dropout(activation(x), generator)
        return x
