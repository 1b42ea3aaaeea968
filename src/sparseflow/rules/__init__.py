"""Rules that change an optimizer's steps for sparse networks; with every optimizer, every method, and each other.

They act inside ``optimizer.step()``, the last of ``sf.Sparsifier(..., rules=[...])`` next to the optimizer's own step:
before it they act in their order, after it in the other.
"""

from sparseflow.rules.ham import HAM, hyperbolic_step_
from sparseflow.rules.sign_in import SignIn, balanced_factors
from sparseflow.rules.smet import SMET, adam_direction
from sparseflow.rules.sparse_opt import SparseOpt, unit_gradient_scale
from sparseflow.sparsifier.rule import StepRule

__all__ = [
    "HAM",
    "SMET",
    "SignIn",
    "SparseOpt",
    "StepRule",
    "adam_direction",
    "balanced_factors",
    "hyperbolic_step_",
    "unit_gradient_scale",
]
