"""Matplotlib figures that return Axes."""
