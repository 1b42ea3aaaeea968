"""Transposes: examples turned batch-innermost, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel

Floats = NDArray[Any]
Integers = NDArray[np.int64]


@kernel
def transpose(x: Floats, x0: int, x_row: int, rows: int, columns: int, y: Floats, y0: int, y_row: int) -> None:
    """``y[y0 + j * y_row + i] = x[x0 + i * x_row + j]``, i < rows and j < columns."""
    for j in range(columns):
        for i in range(rows):
            y[y0 + j * y_row + i] = x[x0 + i * x_row + j]


@kernel
def transpose_chosen(
    x: Floats, size: int, chosen: Integers, begin: int, column: int, rows: int, columns: int,
    y: Floats, y0: int, y_row: int,
) -> None:  # fmt: skip
    """``y[y0 + j * y_row + i] = x[chosen[begin + i] * size + column + j]``, i < rows and j < columns."""
    for j in range(columns):
        for i in range(rows):
            y[y0 + j * y_row + i] = x[chosen[begin + i] * size + column + j]
