"""What something else may do to a sparse model between steps, and with its copies and on other processes: noticed here.

Nobody who reads how masks are kept and moved need look inside; the Sparsifier calls :class:`Guard` before a step, after
it, and where masks are given.
"""

from sparseflow.sparsifier.guard.copies import allow_copies, copy_of
from sparseflow.sparsifier.guard.guard import Guard
from sparseflow.sparsifier.guard.ranks import check_agreement, process_group

__all__ = ["Guard", "allow_copies", "check_agreement", "copy_of", "process_group"]
