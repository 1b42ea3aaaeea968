"""Sums of neighbouring rows of a large CPU matrix in one pass over memory, compiled by Numba when first needed."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sum_rows(values: Floats, together: int, magnitude: bool, sums: Floats) -> None:
    """Add up rows from top to bottom, some at a time.

    Args:
        values: ``(rows, columns)``.
        together: Rows of one sum; it divides their number.
        magnitude: Add absolute values.
        sums: ``(rows / together, columns)``, overwritten.

    >>> sums = np.empty((1, 2), np.float32)
    >>> sum_rows(np.float32([[1, 2], [-3, 4]]), 2, True, sums), sums
    (None, array([[4., 6.]], dtype=float32))
    """
    for block in range(sums.shape[0]):
        total, first, end = sums[block], block * together, block * together + together
        total[:] = 0
        whole = first + together // 4 * 4
        for row in range(first, whole, 4):  # four a turn: the sums are read and written a quarter as often
            _add_four(values[row], values[row + 1], values[row + 2], values[row + 3], magnitude, total)
        for row in range(whole, end):
            _add(values[row], magnitude, total)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_four(a: Floats, b: Floats, c: Floats, d: Floats, magnitude: bool, total: Floats) -> None:
    if magnitude:
        for k in range(total.shape[0]):
            total[k] = (((total[k] + abs(a[k])) + abs(b[k])) + abs(c[k])) + abs(d[k])
    else:
        for k in range(total.shape[0]):
            total[k] = (((total[k] + a[k]) + b[k]) + c[k]) + d[k]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add(row: Floats, magnitude: bool, total: Floats) -> None:
    if magnitude:
        for k in range(total.shape[0]):
            total[k] += abs(row[k])
    else:
        for k in range(total.shape[0]):
            total[k] += row[k]
