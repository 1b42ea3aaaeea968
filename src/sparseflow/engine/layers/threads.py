"""Division of a layer's work among threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparseflow._fast import on_threads, team
from sparseflow.engine.layers.pattern import Table

Bounds = NDArray[np.int64]
#: A kernel of :mod:`sparseflow.engine.kernels.passes`: called with a team, a number of threads, bounds and arguments.
Pass = Callable[..., None]
#: Multiply-adds, or numbers that are moved, below which another thread gains nothing.
_WORTH_IT = 100_000
#: The same where there are gradients to add up afterwards.
_WORTH_ADDING = 900_000


def over_ranges(run: Pass, bounds: Bounds, work: int, *arguments: Any) -> None:
    """Have a kernel do each range ``[bounds[i], bounds[i + 1])`` on up to ``torch.get_num_threads()`` threads.

    Compiled code hands them over to torch's own threads. Where it cannot, Python does, to threads of its own.
    """
    threads = threads_for(work, len(bounds) - 1)
    address = team()
    if threads == 1 or address:
        run(address, threads, bounds, *arguments)
        return

    def part(thread: int) -> None:
        for number in range(thread, len(bounds) - 1, threads):
            run(0, 1, bounds[number : number + 2], *arguments)

    on_threads(threads, part)


def over_outputs(run: Pass, table: Table, work: int, *arguments: Any) -> None:
    """:func:`over_ranges` of a table's outputs, with about the same number of nonzeros each.

    An output is computed whole by one thread, so the result does not depend on their number.
    """
    over_ranges(run, table.cuts(threads_for(work, table.outputs)), work, *arguments)


#: Numbers that transposes and sums take at once.
_UNIT = 16


def evenly(size: int, work: int, *, unit: int = _UNIT) -> Bounds:
    """As many equal ranges of [0, size) as are worth a thread each; they begin at multiples of ``unit``."""
    return _even(size, threads_for(work, size // unit), unit)


@cache
def _even(size: int, parts: int, unit: int) -> Bounds:
    units = size // unit
    return np.array([*(units * part // parts * unit for part in range(parts)), size], np.int64)


def threads_for(work: int, parts: int) -> int:
    """How many threads take part in so many multiply-adds, of so many parts at most."""
    return max(1, min(torch.get_num_threads(), work // _WORTH_IT, parts))


#: Halves of a batch begin at a multiple of these many examples.
_PIECE = 64


def halves(length: int, work: int) -> Bounds:
    """The bounds of a batch, or of two halves if each is worth it: by work alone, so that sums do not know threads."""
    half = max(1, length // (2 * _PIECE)) * _PIECE
    return np.array([0, half, length] if half < length and is_worth_halving(work) else [0, length], np.int64)


def is_worth_halving(work: int) -> bool:
    """Whether two threads that do half of so many multiply-adds gain more than adding up two gradients costs."""
    return work >= 2 * _WORTH_ADDING
