"""Distributions of counts, one file each."""
