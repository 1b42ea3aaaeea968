"""The slices of a batch, each with a workspace of its own, on several threads: one call a pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel
from sparseflow.engine.kernels.shares import share
from sparseflow.engine.plans.interpreter import Floats, Integers, Positions, Tables, run


@kernel
def _slices(
    operations: Integers, rest: Integers, tables: Tables, rest_tables: Tables, rooms: Floats, positions: Positions,
    values: Floats, gradients: Floats, gradient_of: Integers, numbers: NDArray[np.float64], given: Floats,
    labels: Integers, rows: Integers, size: int, whole: int, out: Floats, given_inner: bool, out_inner: bool,
    first: int, last: int,
) -> None:  # fmt: skip
    for k in range(first, last):
        is_whole = k < whole
        run(
            operations if is_whole else rest, rooms[k], positions[k], tables if is_whole else rest_tables, values,
            gradients[gradient_of[k]], numbers, given, labels, rows, k * size, np.int64(1), 1.0, out, rows.shape[0],
            given_inner, out_inner, np.int64(0), np.int64(1),
        )  # fmt: skip


@kernel
def run_slices(team: int, threads: int, bounds: Integers, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.plans.interpreter.run` for the slices [first, last).

    The first ``whole`` slices are of ``size`` examples and have their operations and tables, the last one has its own.
    ``rooms`` and ``positions`` have a row for each slice; slice k adds to row ``gradient_of[k]`` of ``gradients``.
    """
    share(team, threads, bounds, _slices, arguments)
