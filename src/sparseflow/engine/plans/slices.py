"""The slices of a batch on several threads, in one call: each thread has slices of its own, or all share each one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel
from sparseflow.engine.kernels.shares import share
from sparseflow.engine.plans.interpreter import Floats, Integers, Positions, Tables, run


@kernel
def _shares_of_slices(
    begin: int, end: int, operations: Integers, rest: Integers, tables: Tables, rest_tables: Tables, rooms: Floats,
    positions: Positions, room_of: Integers, values: Floats, gradients: Floats, gradient_of: Integers,
    numbers: NDArray[np.float64], given: Floats, labels: Integers, rows: Integers, size: int, whole: int, scale: float,
    losses: NDArray[np.float64], out: Floats, given_inner: bool, out_inner: bool, shares: int, first: int, last: int,
) -> None:  # fmt: skip
    for number in range(first, last):
        k = number // shares
        is_whole = k < whole
        losses[number] += run(
            (operations if is_whole else rest)[begin:end], rooms[room_of[k]], positions[room_of[k]],
            tables if is_whole else rest_tables, values, gradients[gradient_of[number]], numbers, given, labels, rows,
            k * size, scale, out, rows.shape[0], given_inner, out_inner, number % shares, shares,
        )  # fmt: skip


@kernel
def run_slices(team: int, threads: int, bounds: Integers, together: int, operations: Integers, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.plans.interpreter.run` for the slices of a batch, and what each adds to ``losses``.

    The first ``whole`` slices are of ``size`` examples and have their operations and tables, the one behind them has
    its own, ``rest``. Slice k works in row ``room_of[k]`` of ``rooms`` and ``positions``; share s of all shares of
    slices adds to row ``gradient_of[s]`` of ``gradients``: weights that are neighbours in one belong to several shares,
    and two cores that write to one cache line wait for each other.

    Args:
        bounds: Ranges of ``shares`` shares of the first slice, as many of the second, and so on.
        together: Operations after which threads wait for each other: one where they share slices, else all.
    """
    for begin in range(0, operations.shape[0], together):
        share(team, threads, bounds, _shares_of_slices, (begin, begin + together, operations, *arguments))
