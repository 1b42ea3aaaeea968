"""Blocks of four outputs that share an input: a row of the input is read once for four multiply-adds.

Arguments as in :mod:`sparseflow.engine.kernels.sums`, but begins and columns are of blocks. The values of the blocks of
one row lie as those of its four outputs do, one output after the other: with ``m`` blocks from ``b`` on, that of block
``k`` and output ``j`` is at ``4 * b + j * m + k``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel

Floats = NDArray[Any]
Indices = NDArray[np.int32]

#: Outputs of a block.
HEIGHT = 4


@kernel
def block_sums(
    begins: Indices, columns: Indices, values: Floats, start: Floats,
    x: Floats, x0: int, pitch: int, y: Floats, y0: int, y_pitch: int, first: int, last: int,
    rows: int, xi: int, yi: int, parts: int, xj: int, yj: int, length: int, floor: float,
) -> None:  # fmt: skip
    """:func:`~sparseflow.engine.kernels.sums.weighted_sums` for blocks.

    Args:
        begins: int32 ``(block rows + 1,)``.
        columns: int32, per block.
        start: Per output, or empty for zeros.
        first, last: The block rows to compute.
    """
    least = values.dtype.type(floor)
    for o in range(first, last):
        m = begins[o + 1] - begins[o]
        for j in range(HEIGHT):
            row = HEIGHT * o + j
            for i in range(rows):
                for p in range(parts):
                    a, b = x0 + i * xi + p * xj, y0 + row * y_pitch + i * yi + p * yj
                    for n in range(length):
                        total = start[row] if start.shape[0] > 0 else values.dtype.type(0)
                        for k in range(m):
                            total += values[HEIGHT * begins[o] + j * m + k] * x[a + columns[begins[o] + k] * pitch + n]
                        y[b + n] = least if total < least else total


@kernel
def block_gradients(
    begins: Indices, columns: Indices, y_columns: Indices, values: Floats, g: Floats, g0: int, g_pitch: int,
    x: Floats, x0: int, gx: Floats, y0: int, pitch: int, out: Floats, first: int, last: int,
    rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int, length: int, adds_weights: bool,
) -> None:  # fmt: skip
    """Both gradients; that of the input is added to what ``gx`` holds.

    Args:
        columns, y_columns: int32, per block: where its row of ``x`` and of ``gx`` begins, over the pitch.
        g, g0, g_pitch: The output's gradient, where it begins, and from one output to the next.
        x, x0, gx, y0, pitch: Input and its gradient, where they begin, and what a column counts.
        out: The gradient per value, stored or with ``adds_weights`` added.
        first, last: The block rows whose part to compute.
    """
    for o in range(first, last):
        m = begins[o + 1] - begins[o]
        for j in range(HEIGHT):
            for k in range(m):
                v = HEIGHT * begins[o] + j * m + k
                total = out[v] if adds_weights else values.dtype.type(0)
                for i in range(rows):
                    for p in range(parts):
                        a = g0 + (HEIGHT * o + j) * g_pitch + i * gi + p * gj
                        b = x0 + columns[begins[o] + k] * pitch + i * xi + p * xj
                        c = y0 + y_columns[begins[o] + k] * pitch + i * yi + p * yj
                        for n in range(length):
                            total += g[a + n] * x[b + n]
                            gx[c + n] += g[a + n] * values[v]
                out[v] = total


@kernel
def block_dots(
    begins: Indices, columns: Indices, g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, pitch: int,
    out: Floats, first: int, last: int,
    rows: int, gi: int, xi: int, parts: int, gj: int, xj: int, length: int, adds_weights: bool,
) -> None:  # fmt: skip
    """The gradient of the weights alone; arguments as :func:`block_gradients`."""
    for o in range(first, last):
        m = begins[o + 1] - begins[o]
        for j in range(HEIGHT):
            for k in range(m):
                v = HEIGHT * begins[o] + j * m + k
                total = out[v] if adds_weights else out.dtype.type(0)
                for i in range(rows):
                    for p in range(parts):
                        a = g0 + (HEIGHT * o + j) * g_pitch + i * gi + p * gj
                        b = x0 + columns[begins[o] + k] * pitch + i * xi + p * xj
                        for n in range(length):
                            total += g[a + n] * x[b + n]
                out[v] = total


@kernel
def block_vector_product(
    begins: Indices, columns: NDArray[Any], values: Floats, start: Floats, x: Floats, y: Floats,
    first: int, last: int, floor: float,
) -> None:  # fmt: skip
    """One example; arguments as :func:`block_sums`. Columns are int32 or uint16."""
    least = values.dtype.type(floor)
    for o in range(first, last):
        m = begins[o + 1] - begins[o]
        for j in range(HEIGHT):
            total = start[HEIGHT * o + j] if start.shape[0] > 0 else values.dtype.type(0)
            for k in range(m):
                total += values[HEIGHT * begins[o] + j * m + k] * x[columns[begins[o] + k]]
            y[HEIGHT * o + j] = least if total < least else total
