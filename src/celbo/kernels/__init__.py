"""Fused numeric kernels, one file a backend."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cpu_kernels_take", "have_cpu_kernels"]


@cache
def have_cpu_kernels() -> bool:
    """Whether numba works here, so that the compiled CPU kernels can be used; everything also runs without them."""
    try:
        import celbo.kernels.cpu  # noqa: F401
    except ImportError:
        return False
    return True


def cpu_kernels_take(*tensors: Tensor) -> bool:
    """Whether the compiled CPU kernels can be used on these tensors: float32, on the CPU."""
    import torch

    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors) and have_cpu_kernels()
