"""Fused numeric kernels, one file a backend."""
