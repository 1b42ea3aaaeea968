"""Division of a layer's work among threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sparseflow._fast import on_threads
from sparseflow.engine.layers.pattern import Table

#: Multiply-adds below which handing work to another thread costs more than it saves: in a layer, and in a chain, where
#: gradients are added up afterwards.
_WORTH_IT, _WORTH_ADDING = 2_000_000, 900_000


def over_parts(parts: int, work: int, run: Callable[[int], None]) -> None:
    """Call ``run(0)``, ..., ``run(parts - 1)`` on up to ``torch.get_num_threads()`` threads."""
    threads = max(1, min(torch.get_num_threads(), work // _WORTH_ADDING, parts))

    def share(thread: int) -> None:
        for part in range(thread, parts, threads):
            run(part)

    on_threads(threads, share)


#: Halves of a batch begin at a multiple of these many examples.
_PIECE = 64


def halves(length: int, work: int) -> list[tuple[int, int]]:
    """A batch in two ranges if each is worth a thread: by work alone, so that sums do not depend on threads."""
    half = max(1, length // (2 * _PIECE)) * _PIECE
    return [(0, half), (half, length)] if half < length and work >= 2 * _WORTH_ADDING else [(0, length)]


def over_outputs(table: Table, work: int, run: Callable[[int, int], None]) -> None:
    """Call ``run(first, last)`` on ranges of a table's outputs with about the same number of nonzeros each.

    An output is computed whole by one thread, so the result does not depend on their number, which is
    ``torch.get_num_threads()``.
    """
    outputs = table.outputs
    threads = 1 if work < 2 * _WORTH_IT else min(torch.get_num_threads(), work // _WORTH_IT, outputs)
    if threads <= 1:
        run(0, outputs)
        return
    # An output without nonzeros is work too: it is written.
    load = table.edges + np.arange(outputs + 1)
    cuts = np.searchsorted(load, load[-1] * np.arange(1, threads) / threads)
    bounds = [0, *(int(cut) for cut in cuts), outputs]

    def share(thread: int) -> None:
        if bounds[thread] < bounds[thread + 1]:
            run(bounds[thread], bounds[thread + 1])

    on_threads(threads, share)
