"""Passes over memory, compiled where they pay: the names that the rest of the library calls without reading on.

* :func:`topk` is the fast twin of ``masks.topk.topk_mask``, which alone calls it.
* :func:`row_sums` is that of ``masks.blocks.BlockGrid.sums``, which alone calls it.
* :func:`exchange` is the fast twin of ``methods.drop_and_grow`` over many layers; ``sparsifier.update`` alone calls it.
* :func:`stage` keeps a new mask at an eighth of its size until :func:`write_` replaces the old one by it, and
  :func:`clear_` makes tensors zero off their masks; ``sparsifier.weights`` alone calls these. Their plain twins are in
  ``_fast.write``.

* :func:`zero_inactive_` and :func:`count_true` are plain passes that many use; :func:`on_threads` and :func:`has_numba`
  serve the engine too.

What a fast twin does not take (small tensors, other devices and dtypes, no Numba) it leaves to the plain one, with the
same result to the last bit.
"""

from sparseflow._fast.bits import StagedMask, stage, unstaged
from sparseflow._fast.exchange import Exchange, Magnitude, exchange, row_sums, topk
from sparseflow._fast.memory import count_true, has_numba
from sparseflow._fast.threads import on_threads, team
from sparseflow._fast.write import Write, clear_, write_, zero_inactive_

__all__ = [
    "Exchange",
    "Magnitude",
    "StagedMask",
    "Write",
    "clear_",
    "count_true",
    "exchange",
    "has_numba",
    "on_threads",
    "row_sums",
    "stage",
    "team",
    "topk",
    "unstaged",
    "write_",
    "zero_inactive_",
]
