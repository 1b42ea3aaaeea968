"""Rules that change an optimizer's steps for sparse networks; with every optimizer, every method, and each other.

They act inside ``optimizer.step()``, in the order in which ``sf.Sparsifier(..., rules=[...])`` is given them.
"""

from sparseflow.rules.ham import HAM, hyperbolic_step_
from sparseflow.sparsifier.rule import StepRule

__all__ = ["HAM", "StepRule", "hyperbolic_step_"]
