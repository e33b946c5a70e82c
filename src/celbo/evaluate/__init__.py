"""Held-out likelihood, integration metrics, comparisons."""
