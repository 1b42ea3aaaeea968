"""Sparse networks in PyTorch: how they start, how they train, and why they learn or do not."""

__version__ = "0.1.0"
