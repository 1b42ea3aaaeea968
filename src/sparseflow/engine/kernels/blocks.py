"""Blocks of four outputs that share an input: a row of the input is read once for four multiply-adds.

Arguments as in :mod:`sparseflow.engine.kernels.sums`, but begins and columns are of blocks. The values of the blocks of
one row lie as those of its four outputs do, one output after the other: with ``m`` blocks from ``b`` on, that of block
``k`` and output ``j`` is at ``4 * b + j * m + k``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.block_simd import HEIGHT as HEIGHT
from sparseflow.engine.kernels.block_simd import block_dot, block_gradient, block_sum
from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.sums import tiles_of_strip
from sparseflow.engine.kernels.vectors import REGISTERS, WIDTH

Floats = NDArray[Any]
Indices = NDArray[np.int32]

#: Vectors of float32 that a tile is wide: its four rows fill half of the registers.
_WIDEST = REGISTERS // (2 * HEIGHT)


def _sums_over_rows(emit: Callable[..., None], tile: int) -> Callable[..., None]:
    @part
    def run(
        begins: Indices, columns: Indices, values: Floats, start: Floats, x: Floats, x0: int, pitch: int,
        y: Floats, y0: int, y_pitch: int, first: int, last: int, floor: float, length: int, tiles: int,
    ) -> None:  # fmt: skip
        started = start.shape[0] > 0
        for o in range(first, last):
            begin, row = np.int64(begins[o]), HEIGHT * o
            for n in range(0, tiles * tile, tile):
                emit(
                    values, HEIGHT * begin, columns, begin, begins[o + 1] - begin, x, x0 + n, pitch,
                    y, y0 + n + row * y_pitch, y_pitch, start, row, started, floor, length,
                )  # fmt: skip

    return run


def _gradients_over_rows(emit: Callable[..., None], tile: int) -> Callable[..., None]:
    @part
    def run(
        starts: Indices, begins: Indices, ends: Indices, columns: Indices, y_columns: Indices, values: Floats,
        g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, gx: Floats, y0: int, pitch: int, out: Floats,
        first: int, last: int, adds: bool, length: int, tiles: int,
    ) -> None:  # fmt: skip
        for o in range(first, last):
            start, begin = np.int64(starts[o]), np.int64(begins[o])
            stream, blocks = starts[o + 1] - start, ends[o] - begin
            for n in range(0, tiles * tile, tile):
                emit(
                    values, HEIGHT * start + begin - start, stream, columns, y_columns, begin, blocks,
                    g, g0 + n + HEIGHT * o * g_pitch, g_pitch, x, x0 + n, gx, y0 + n, pitch, out, adds or n > 0, length,
                )  # fmt: skip

    return run


_WIDE, _TWO = (_sums_over_rows(block_sum(count), count * WIDTH) for count in (_WIDEST, 2))
_REST, _FEW = (_sums_over_rows(block_sum(1, width=width, masked=True), width) for width in (WIDTH, 8))


def _gradients_over_tiles(*, inputs: bool) -> Callable[..., None]:
    """The kernel over an image, with the gradient of the inputs or without it."""
    wide, two, rest = (
        _gradients_over_rows(block_gradient(count, inputs=inputs, masked=masked), count * WIDTH)
        for count, masked in ((_WIDEST, False), (2, False), (1, True))
    )

    @part
    def run(
        starts: Indices, begins: Indices, ends: Indices, columns: Indices, y_columns: Indices, values: Floats,
        g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, gx: Floats, y0: int, pitch: int, out: Floats,
        first: int, last: int, rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int,
        length: int, adds: bool,
    ) -> None:  # fmt: skip
        for i in range(rows):
            for j in range(parts):
                d, a, b, n = g0 + i * gi + j * gj, x0 + i * xi + j * xj, y0 + i * yi + j * yj, 0
                if x.itemsize == 4:
                    while n + _WIDEST * WIDTH <= length:
                        tiles = tiles_of_strip(length - n, pitch, _WIDEST * WIDTH)
                        wide(starts, begins, ends, columns, y_columns, values, g, d + n, g_pitch, x, a + n, gx, b + n,
                             pitch, out, first, last, adds, length, tiles)  # fmt: skip
                        n, adds = n + _WIDEST * WIDTH * tiles, True
                while n + 2 * WIDTH <= length:
                    two(starts, begins, ends, columns, y_columns, values, g, d + n, g_pitch, x, a + n, gx, b + n,
                        pitch, out, first, last, adds, length, 1)  # fmt: skip
                    n, adds = n + 2 * WIDTH, True
                while n < length:
                    rest(starts, begins, ends, columns, y_columns, values, g, d + n, g_pitch, x, a + n, gx, b + n,
                         pitch, out, first, last, adds, length - n, 1)  # fmt: skip
                    n, adds = n + WIDTH, True

    return run


#: Both gradients; arguments as :func:`block_gradients`, but of a row's blocks [starts[o], starts[o + 1]) those in
#: [begins[o], ends[o]) are computed.
gradients_of_blocks = _gradients_over_tiles(inputs=True)
_DOTS = _gradients_over_tiles(inputs=False)


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
    for i in range(rows):
        for j in range(parts):
            a, b, n = x0 + i * xi + j * xj, y0 + i * yi + j * yj, 0
            if x.itemsize == 4:
                while n + _WIDEST * WIDTH <= length:
                    tiles = tiles_of_strip(length - n, pitch, _WIDEST * WIDTH)
                    _WIDE(begins, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                          first, last, least, length, tiles)  # fmt: skip
                    n += _WIDEST * WIDTH * tiles
            while n + 2 * WIDTH <= length:
                _TWO(begins, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                     first, last, least, length, 1)  # fmt: skip
                n += 2 * WIDTH
            while n + 8 < length:
                _REST(begins, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                      first, last, least, length - n, 1)  # fmt: skip
                n += WIDTH
            if n < length:
                _FEW(begins, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                     first, last, least, length - n, 1)  # fmt: skip


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
    gradients_of_blocks(
        begins, begins, begins[1:], columns, y_columns, values, g, g0, g_pitch, x, x0, gx, y0, pitch, out, first, last,
        rows, gi, xi, yi, parts, gj, xj, yj, length, adds_weights,
    )  # fmt: skip


@kernel
def block_dots(
    begins: Indices, columns: Indices, g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, pitch: int,
    out: Floats, first: int, last: int,
    rows: int, gi: int, xi: int, parts: int, gj: int, xj: int, length: int, adds_weights: bool,
) -> None:  # fmt: skip
    """The gradient of the weights alone; arguments as :func:`block_gradients`."""
    _DOTS(
        begins, begins, begins[1:], columns, columns, x, g, g0, g_pitch, x, x0, x, x0, pitch, out, first, last,
        rows, gi, xi, xi, parts, gj, xj, xj, length, adds_weights,
    )  # fmt: skip


@kernel
def block_vector_product(
    begins: Indices, columns: NDArray[Any], values: Floats, start: Floats, x: Floats, y: Floats,
    first: int, last: int, floor: float,
) -> None:  # fmt: skip
    """One example; arguments as :func:`block_sums`. Columns are int32 or uint16."""
    least, started = values.dtype.type(floor), start.shape[0] > 0
    for o in range(first, last):
        begin, row = np.int64(begins[o]), HEIGHT * o
        block_dot(
            values, HEIGHT * begin, columns, begin, begins[o + 1] - begin, x, y, row, start, row, started, least
        )  # fmt: skip
