"""The one stateful object: it keeps masks exact and moves them when an optimizer steps, and proves that they hold."""

from sparseflow.sparsifier.sparsifier import Sparsifier

__all__ = ["Sparsifier"]
