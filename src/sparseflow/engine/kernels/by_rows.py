"""Convolutions in strips that stay in the second-level cache: a row of pixels after the other, a part of it at a time.

A kernel goes from channel to channel, where no hardware fetches ahead: each of them is another place in memory. So
while a row is computed, a few channels after the other, the next row is asked for, as many channels of it at a time.

A *band* is the rows of pixels that a row of outputs meets: ``(channels, pitch, across, reach, step, beside)``, that is
channels, numbers from one to the next and from one row of pixels to the next, the rows that a window covers, rows
from one window to the next, and the numbers of a row that a window covers beyond its first pixel. A strip is ``span``
numbers wide. Other arguments as in :mod:`sparseflow.engine.kernels.sums`, `gradients` and `blocks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.block_simd import HEIGHT
from sparseflow.engine.kernels.blocks import block_sums, gradients_of_blocks
from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.gradients import column_gradients
from sparseflow.engine.kernels.simd import move, prefetch_far
from sparseflow.engine.kernels.sums import weighted_sums

Floats = NDArray[Any]
Indices = NDArray[np.int32]
Band = tuple[int, int, int, int, int, int]
Inside = tuple[int, int, int, int]

#: Bytes of a cache line.
_LINE = 64
#: Channels, or rows of blocks, that are computed before more is asked for.
_FEW = 4


@part
def _ask(x: Floats, place: int, first: int, last: int, pitch: int, rows: int, across: int, width: int) -> None:
    # Into the second-level cache: the first has no room for what is not met at once.
    numbers = _LINE // x.itemsize
    for c in range(first, last):
        for i in range(rows):
            begin = place + c * pitch + i * across
            for n in range(begin, begin + width, numbers):
                prefetch_far(x, n)


@part
def _share(k: int, few: int, of: int, channels: int) -> tuple[int, int]:
    # Of all channels, those to ask for while [k, k + few) of some others are computed.
    return channels * k // of, channels * min(k + few, of) // of


@part
def _rows_of(i: int, band: Band) -> tuple[int, int]:
    # Rows of pixels [first, last) that window ``i`` is the first to meet.
    _, pitch, across, reach, step, _ = band
    first = 0 if i == 0 else (i - 1) * step + reach
    return min(first, pitch // across), min(i * step + reach, pitch // across)


@kernel
def sums_by_rows(
    begins: Indices, ends: Indices, columns: Indices, values: Floats, start: Floats,
    x: Floats, x0: int, pitch: int, y: Floats, y0: int, y_pitch: int, first: int, last: int,
    rows: int, xi: int, yi: int, parts: int, xj: int, yj: int, length: int, floor: float, band: Band, span: int,
) -> None:  # fmt: skip
    """:func:`~sparseflow.engine.kernels.sums.weighted_sums`, all stored; ``band`` is that of ``x``."""
    channels, x_pitch, across, _, _, beside = band
    one, no = min(rows, 1), rows < 0  # a literal would make Numba compile the kernel a second time
    for n in range(0, length, span):
        strip = min(span, length - n)
        width = min(strip + (parts - 1) * xj + beside, across - n)
        for i in range(rows):
            near, far = _rows_of(i + 1, band)
            a, b = x0 + n + i * xi, y0 + n + i * yi
            for o in range(first, last, _FEW):
                end = min(o + _FEW, last)
                if i + 1 < rows:
                    low, high = _share(o - first, _FEW, last - first, channels)
                    _ask(x, near * across + n, low, high, x_pitch, far - near, across, width)
                    _ask(y, b + yi, o, end, y_pitch, 1, 0, (parts - 1) * yj + strip)
                weighted_sums(
                    begins, ends, columns, values, start, x, a, pitch, y, b, y_pitch, o, end,
                    one, xi, yi, parts, xj, yj, strip, no, floor,
                )  # fmt: skip


@kernel
def block_sums_by_rows(
    begins: Indices, columns: Indices, values: Floats, start: Floats,
    x: Floats, x0: int, pitch: int, y: Floats, y0: int, y_pitch: int, first: int, last: int,
    rows: int, xi: int, yi: int, parts: int, xj: int, yj: int, length: int, floor: float, band: Band, span: int,
) -> None:  # fmt: skip
    """:func:`~sparseflow.engine.kernels.blocks.block_sums`; ``band`` is that of ``x``."""
    channels, x_pitch, across, _, _, beside = band
    one = min(rows, 1)
    for n in range(0, length, span):
        strip = min(span, length - n)
        width = min(strip + (parts - 1) * xj + beside, across - n)
        for i in range(rows):
            near, far = _rows_of(i + 1, band)
            a, b = x0 + n + i * xi, y0 + n + i * yi
            for o in range(first, last):
                if i + 1 < rows:
                    low, high = _share(o - first, 1, last - first, channels)
                    _ask(x, near * across + n, low, high, x_pitch, far - near, across, width)
                    _ask(y, b + yi, HEIGHT * o, HEIGHT * (o + 1), y_pitch, 1, 0, (parts - 1) * yj + strip)
                block_sums(
                    begins, columns, values, start, x, a, pitch, y, b, y_pitch, o, o + 1,
                    one, xi, yi, parts, xj, yj, strip, floor,
                )  # fmt: skip


@part
def _give(
    room: Floats, row: int, room_pitch: int, room_across: int, gx: Floats, to: int, first: int, last: int,
    n: int, begun: int, end: int, inside: Inside,
) -> None:  # fmt: skip
    # Row ``row`` of a strip that begins at number ``n`` of the frame's rows, to row ``to`` of the image. Strips
    # overlap: of the numbers before ``begun`` those before have given a part.
    top, left, height, across = inside
    near, far = max(n, left), min(end, left + across)
    middle = min(max(begun, near), far)
    if to < top or to >= top + height:
        return
    for c in range(first, last):
        source, target = (c - first) * room_pitch + row * room_across - n, (c * height + to - top) * across - left
        for k in range(near, middle):
            # Unsigned, for which Numba looks for no end of the array to count from.
            gx[np.uint64(target + k)] += room[np.uint64(source + k)]
        move(room, source + middle, gx, target + middle, far - middle)


@part
def _advance(room: Floats, channels: int, rows: int, across: int, step: int) -> None:
    # The rows of each channel change places: the first ones go, and zeros come behind the last.
    kept = max(rows - step, 0) * across
    for c in range(channels):
        begin = c * rows * across
        move(room, begin + step * across, room, begin, kept)
        room[begin + kept : begin + rows * across] = 0


@kernel
def block_gradients_by_rows(
    starts: Indices, begins: Indices, ends: Indices, columns: Indices, y_columns: Indices, values: Floats,
    g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, gx: Floats, pitch: int, out: Floats,
    outputs: int, first: int, last: int,
    rows: int, gi: int, xi: int, parts: int, gj: int, xj: int, length: int, band: Band, span: int,
    room: Floats, room_across: int, inside: Inside,
) -> None:  # fmt: skip
    """Both gradients of blocks, stored, of the input channels [first, last); ``band`` is that of ``x``.

    The gradient of the input is made in a strip of as many rows as a window has, and leaves it row by row; what no
    window meets stays as it is.

    Args:
        starts: int32 ``(outputs + 1,)``: the blocks of each row.
        begins, ends: int32 ``(outputs,)``: those of the channels.
        y_columns: int32, per block: where its row of the strip begins, over the pitch.
        outputs: Rows of blocks.
        room, room_across: For the strip, ``(last - first, rows of a window, room_across)``.
        inside: Rows above the image and numbers left of it in the frame of ``x``, rows of the image and their numbers.
    """
    _, x_pitch, across, reach, step, beside = band
    top, left, height, inner = inside
    shift = first * reach * room_across
    for n in range(0, length, span):
        strip = min(span, length - n)
        width, g_width = min(strip + (parts - 1) * xj + beside, across - n), (parts - 1) * gj + strip
        begun = n + beside if n > 0 else n
        room[:] = 0
        for i in range(rows):
            near, far = _rows_of(i + 1, band)
            d, a, here = g0 + n + i * gi, x0 + n + i * xi, max(i * step - top, 0) * inner + max(n - left, 0)
            for o in range(outputs):
                if i + 1 < rows:
                    low, high = _share(o, 1, outputs, last - first)
                    _ask(x, near * across + n, first + low, first + high, x_pitch, far - near, across, width)
                    _ask(g, d + gi, HEIGHT * o, HEIGHT * (o + 1), g_pitch, 1, 0, g_width)
                    _ask(gx, here, first + low, first + high, height * inner, 1, 0, width)
                gradients_of_blocks(
                    starts, begins, ends, columns, y_columns, values, g, d, g_pitch, x, a, room, -shift, pitch, out,
                    o, o + 1, 1, gi, xi, xi, parts, gj, xj, xj, strip, i > 0 or n > 0,
                )  # fmt: skip
            for row in range(min(step, reach) if i + 1 < rows else reach):
                _give(
                    room, row, reach * room_across, room_across, gx, i * step + row, first, last,
                    n, begun, n + width, inside,
                )  # fmt: skip
            _advance(room, last - first, reach, room_across, step)


@kernel
def column_gradients_by_rows(
    begins: Indices, ends: Indices, columns: Indices, order: Indices, values: Floats,
    g: Floats, g0: int, pitch: int, x: Floats, x0: int, x_pitch: int, gx: Floats, y0: int, y_pitch: int,
    out: Floats, first: int, last: int,
    rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int, length: int, band: Band, span: int,
) -> None:  # fmt: skip
    """:func:`~sparseflow.engine.kernels.gradients.column_gradients`, all stored; ``band`` is that of ``g``."""
    channels, g_pitch, across, _, _, beside = band
    for n in range(0, length, span):
        strip = min(span, length - n)
        width = min(strip + (parts - 1) * gj + beside, across - n)
        x_width, y_width = (parts - 1) * xj + strip, (parts - 1) * yj + strip
        for i in range(rows):
            near, far = _rows_of(i + 1, band)
            d, a, b = g0 + n + i * gi, x0 + n + i * xi, y0 + n + i * yi
            for c in range(first, last, _FEW):
                end = min(c + _FEW, last)
                if i + 1 < rows:
                    low, high = _share(c - first, _FEW, last - first, channels)
                    _ask(g, near * across + n, low, high, g_pitch, far - near, across, width)
                    _ask(x, a + xi, c, end, x_pitch, 1, 0, x_width)
                    _ask(gx, b + yi, c, end, y_pitch, 1, 0, y_width)
                column_gradients(
                    begins, ends, columns, order, values, g, d, pitch, x, a, x_pitch, gx, b, y_pitch, out, c, end,
                    1, gi, xi, yi, parts, gj, xj, yj, strip, False, i > 0 or n > 0,
                )  # fmt: skip
