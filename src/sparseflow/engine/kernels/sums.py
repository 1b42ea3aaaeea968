"""Sparse times dense with the batch innermost: weighted sums of rows, and dot products at active positions only.

A *row* is the ``length`` neighbouring numbers that one nonzero multiplies. Linear: the batch. Convolution: a row of
output pixels times the batch, since neighbouring pixels are ``batch`` apart. Nonzero ``k`` finds its row at
``columns[k] * pitch``; the loops ``i < rows`` and ``j < parts`` move all of them over the image (`geometry` has
the numbers). All arrays are flat, with offsets, so that plans can put everything into one workspace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.simd import dots, gathered_dot, move, prefetch, span_dots, span_sum, weighted_sum
from sparseflow.engine.kernels.vectors import WIDTH

Floats = NDArray[Any]
Indices = NDArray[np.int32]
#: ``(blocks, outputs)``.
Blocks = NDArray[np.int32]
#: The fields of ``engine.layers.geometry.Loops``, as integers.
Numbers = tuple[int, ...]


#: Indices in a cache line.
_LINE = 16


#: Numbers of a long row that are taken before the next output.
_STRIP = 512


@part
def tiles_of_strip(length: int, pitch: int, tile: int) -> int:
    """How many tiles of a row to take before the next output.

    Rows of pixels come from memory, and memory gives neighbours sooner. The rows of a linear layer, a batch each, are
    in the cache already if one tile at a time is taken of them.
    """
    return max(1, min(_STRIP, length) // tile) if length > pitch else 1


def _over_rows(emit: Callable[..., None], tile: int) -> Callable[..., None]:
    """The kernel over outputs, each with ``tiles`` neighbouring tiles."""

    @part
    def run(
        begins: Indices, ends: Indices, columns: Indices, values: Floats, start: Floats,
        x: Floats, x0: int, pitch: int, y: Floats, y0: int, y_pitch: int, first: int, last: int,
        accumulate: bool, floor: float, length: int, tiles: int,
    ) -> None:  # fmt: skip
        started = start.shape[0] > 0
        for row in range(first, last):
            if row + 1 < last:
                # In a block of columns the next output's nonzeros are elsewhere, where no hardware would look.
                for k in range(begins[row + 1], ends[row + 1], _LINE):
                    prefetch(columns, np.int64(k))
                    prefetch(values, np.int64(k))
            bias, begin, end = (
                start[row] if started else values.dtype.type(0),
                np.int64(begins[row]),
                np.int64(ends[row]),
            )
            for n in range(0, tiles * tile, tile):
                emit(
                    values, columns, begin, end, x, x0 + n, pitch, y, y0 + n + row * y_pitch,
                    bias, accumulate, floor, length,
                )  # fmt: skip

    return run


_EIGHT, _FOUR, _TWO = (_over_rows(weighted_sum(count), count * WIDTH) for count in (8, 4, 2))
_REST = _over_rows(weighted_sum(1, masked=True), WIDTH)
#: A vector of 8 where that is enough: from a batch of 8 it never crosses a cache line, masked or not.
_FEW = _over_rows(weighted_sum(1, width=8, masked=True), 8)


@kernel
def weighted_sums(
    begins: Indices, ends: Indices, columns: Indices, values: Floats, start: Floats,
    x: Floats, x0: int, pitch: int, y: Floats, y0: int, y_pitch: int, first: int, last: int,
    rows: int, xi: int, yi: int, parts: int, xj: int, yj: int, length: int, accumulate: bool, floor: float,
) -> None:  # fmt: skip
    r"""Each output row is a weighted sum of input rows.

    .. math:: y_{o,i,j,n} = \max(\text{floor},\ s_o + \sum_{k = b_o}^{e_o - 1} v_k\, x_{i,j,n + c_k \text{pitch}})

    Args:
        begins, ends: int32 ``(outputs,)``: the nonzeros of each output.
        columns: int32, per nonzero; may repeat, in any order.
        values: Per nonzero.
        start: ``(outputs,)`` or empty for zeros.
        x, x0, pitch: Input, where it begins, and what a column counts.
        y, y0, y_pitch: Output, where it begins, and from one output to the next.
        first, last: The outputs to compute.
        rows, xi, yi, parts, xj, yj, length: The loops and what each step adds to the two places.
        accumulate: Add to ``y`` instead of starting from ``start``.
        floor: 0 for a ReLU, minus infinity for none. NaN stays NaN.
    """
    least = values.dtype.type(floor)
    # Written out: a tuple of what the calls share would count references to its arrays, and take 5 % of a step.
    for i in range(rows):
        for j in range(parts):
            a, b, n = x0 + i * xi + j * xj, y0 + i * yi + j * yj, 0
            while n + 8 * WIDTH <= length:
                tiles = tiles_of_strip(length - n, pitch, 8 * WIDTH)
                _EIGHT(begins, ends, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                       first, last, accumulate, least, length, tiles)  # fmt: skip
                n += 8 * WIDTH * tiles
            if n + 4 * WIDTH <= length:
                _FOUR(begins, ends, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                      first, last, accumulate, least, length, 1)  # fmt: skip
                n += 4 * WIDTH
            if n + 2 * WIDTH <= length:
                _TWO(begins, ends, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                     first, last, accumulate, least, length, 1)  # fmt: skip
                n += 2 * WIDTH
            while n + 8 < length:
                _REST(begins, ends, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                      first, last, accumulate, least, length - n, 1)  # fmt: skip
                n += WIDTH
            if n < length:
                _FEW(begins, ends, columns, values, start, x, a + n, pitch, y, b + n, y_pitch,
                     first, last, accumulate, least, length - n, 1)  # fmt: skip


#: Vectors of the gradient that stay in registers, at most and at least.
_SPAN, _HALF_SPAN = 8, 4
_SPAN_DOTS, _HALF_SPAN_DOTS = span_dots(_SPAN), span_dots(_HALF_SPAN)
_EIGHT_DOTS, _FOUR_DOTS, _TWO_DOTS, _ONE_DOT = (dots(count) for count in (8, 4, 2, 1))


@kernel
def sampled_dots(
    begins: Indices, ends: Indices, columns: Indices, g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, pitch: int,
    out: Floats, first: int, last: int,
    rows: int, xi: int, gi: int, parts: int, xj: int, gj: int, length: int, block: int,
) -> None:  # fmt: skip
    r"""The gradient of each active weight.

    .. math:: \text{out}_k \mathrel{+}= \sum_{i,j,n} g_{o,i,j,n}\, x_{i,j,n + c_k \text{pitch}}

    Arguments as :func:`weighted_sums`; ``block`` rows at a time, so that what they touch of ``x`` stays in the cache.
    """
    spans = length - length % (_HALF_SPAN * WIDTH)
    for i in range(rows if spans > 0 else 0):
        for j in range(parts):
            a, b, n = x0 + i * xi + j * xj, g0 + i * gi + j * gj, 0
            while n + _SPAN * WIDTH <= spans:
                for row in range(first, last):
                    begin, end = np.int64(begins[row]), np.int64(ends[row])
                    _SPAN_DOTS(g, b + n + row * g_pitch, columns, begin, end, x, a + n, pitch, out)
                n += _SPAN * WIDTH
            if n < spans:
                for row in range(first, last):
                    begin, end = np.int64(begins[row]), np.int64(ends[row])
                    _HALF_SPAN_DOTS(g, b + n + row * g_pitch, columns, begin, end, x, a + n, pitch, out)
    if spans < length:
        _short_dots(
            begins, ends, columns, g, g0 + spans, g_pitch, x, x0 + spans, pitch, out, first, last,
            rows, xi, gi, parts, xj, gj, length - spans, block,
        )  # fmt: skip


@part
def _short_dots(
    begins: Indices, ends: Indices, columns: Indices, g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, pitch: int,
    out: Floats, first: int, last: int,
    rows: int, xi: int, gi: int, parts: int, xj: int, gj: int, length: int, block: int,
) -> None:  # fmt: skip
    for i in range(0, rows, block):
        count = min(block, rows - i)
        a = x0 + i * xi
        for row in range(first, last):
            b = g0 + row * g_pitch + i * gi
            k, end = np.int64(begins[row]), np.int64(ends[row])
            if row + 1 < last:
                for line in range(begins[row + 1], ends[row + 1], _LINE):
                    prefetch(columns, np.int64(line))
                    prefetch(out, np.int64(line))
                for n in range(0, min(length, 8 * WIDTH), _LINE):
                    prefetch(g, np.int64(b + g_pitch + n))
            while k + 8 <= end:
                _EIGHT_DOTS(g, b, columns, k, x, a, pitch, count, gi, xi, parts, gj, xj, length, out)
                k += 8
            if k + 4 <= end:
                _FOUR_DOTS(g, b, columns, k, x, a, pitch, count, gi, xi, parts, gj, xj, length, out)
                k += 4
            if k + 2 <= end:
                _TWO_DOTS(g, b, columns, k, x, a, pitch, count, gi, xi, parts, gj, xj, length, out)
                k += 2
            if k < end:
                _ONE_DOT(g, b, columns, k, x, a, pitch, count, gi, xi, parts, gj, xj, length, out)


@kernel
def row_sums(
    g: Floats, g0: int, g_pitch: int, out: Floats, first: int, last: int,
    rows: int, gi: int, parts: int, gj: int, length: int,
) -> None:  # fmt: skip
    """The bias gradient: ``out[o] += sum_{i, j, n} g[o, i, j, n]``; arguments as :func:`sampled_dots`."""
    for row in range(first, last):
        for i in range(rows):
            for j in range(parts):
                out[row] = span_sum(g, g0 + row * g_pitch + i * gi + j * gj, length, out[row])


@kernel
def vector_product(
    begins: Indices, ends: Indices, columns: NDArray[Any], values: Floats, start: Floats, x: Floats, y: Floats,
    first: int, last: int, floor: float,
) -> None:  # fmt: skip
    """One example: ``y[o] = max(floor, start[o] + sum_k values[k] * x[columns[k]])``.

    Arguments as :func:`weighted_sums`; columns are int32 or uint16.
    """
    least, started = values.dtype.type(floor), start.shape[0] > 0
    for row in range(first, last):
        bias = start[row] if started else values.dtype.type(0)
        total = gathered_dot(values, columns, np.int64(begins[row]), np.int64(ends[row]), x, bias)
        y[row] = least if total < least else total


@kernel
def all_sums(
    begins: Blocks, ends: Blocks, columns: Indices, values: Floats, start: Floats, x: Floats, y: Floats,
    loops: Numbers, first: int, last: int, floor: float,
) -> None:  # fmt: skip
    """:func:`weighted_sums` over all blocks of a table; ``loops`` as ``engine.layers.geometry.Loops``."""
    x0, pitch, y0, y_pitch, rows, xi, yi, parts, xj, yj, length = loops
    blocks = begins.shape[0]
    for block in range(blocks):
        weighted_sums(
            begins[block], ends[block], columns, values, start, x, x0, pitch, y, y0, y_pitch, first, last,
            rows, xi, yi, parts, xj, yj, length, block > 0, floor if block == blocks - 1 else -np.inf,
        )  # fmt: skip


@kernel
def all_dots(
    begins: Blocks, ends: Blocks, columns: Indices, g: Floats, x: Floats, out: Floats,
    loops: tuple[Numbers, ...], rows_at_a_time: int, first: int, last: int,
) -> None:  # fmt: skip
    """:func:`sampled_dots` over all blocks of a table and all loops, ``rows_at_a_time`` rows of pixels at a time."""
    for block in range(begins.shape[0]):
        for numbers in loops:
            x0, pitch, g0, g_pitch, rows, xi, gi, parts, xj, gj, length = numbers
            sampled_dots(
                begins[block], ends[block], columns, g, g0, g_pitch, x, x0, pitch, out, first, last,
                rows, xi, gi, parts, xj, gj, length, rows_at_a_time,
            )  # fmt: skip


@kernel
def put_in_frame(
    x: Floats, channels: int, height: int, width: int, batch: int, top: int, bottom: int, left: int, right: int,
    y: Floats,
) -> None:  # fmt: skip
    """Copy an image into a border of zeros.

    Args:
        x, channels, height, width, batch: The image, ``(channels, height, width, batch)``, flat.
        top, bottom, left, right: Pixels of border on each side.
        y: The bordered image, flat.
    """
    across = (left + width + right) * batch
    pitch = (top + height + bottom) * across
    row = width * batch
    for c in range(channels):
        base = c * pitch
        y[base : base + top * across] = 0
        for i in range(height):
            a, b = (c * height + i) * row, base + (top + i) * across
            y[b : b + left * batch] = 0
            move(x, a, y, b + left * batch, row)
            y[b + left * batch + row : b + across] = 0
        y[base + (top + height) * across : base + pitch] = 0
