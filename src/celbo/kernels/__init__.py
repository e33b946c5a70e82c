"""Fused numeric kernels, one file a backend."""

from __future__ import annotations

from functools import cache

__all__ = ["have_cpu_kernels"]


@cache
def have_cpu_kernels() -> bool:
    """Whether numba works here, so that the compiled CPU kernels can be used; everything also runs without them."""
    try:
        import celbo.kernels.cpu  # noqa: F401
    except ImportError:
        return False
    return True
