"""Convolutions one row of pixels at a time, for images that do not fit in the cache.

A kernel goes from channel to channel, where no hardware fetches ahead: each of them is another place in memory. So the
next row of pixels is read in order, channel by channel, before its outputs are computed. The kernels return the sum of
what they read so, which means nothing: the compiler would leave out loads that nobody uses.

A *band* is the rows of pixels that a row of outputs meets: ``(channels, pitch, across, reach, step)``, that is
channels, numbers from one to the next and from one row of pixels to the next, the rows that a window covers, and rows
from one window to the next. Other arguments as in :mod:`sparseflow.engine.kernels.sums`, `gradients` and `blocks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.block_simd import HEIGHT
from sparseflow.engine.kernels.blocks import block_gradients, block_sums
from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.gradients import column_gradients

Floats = NDArray[Any]
Indices = NDArray[np.int32]
Band = tuple[int, int, int, int, int]

#: Bytes of a cache line.
_LINE = 64


@part
def _read(x: Floats, place: int, channels: int, pitch: int, length: int) -> float:
    # Loads, one a line: the hardware goes on from them, as it does not from prefetch instructions.
    numbers = _LINE // x.itemsize
    total = x.dtype.type(0)
    for c in range(channels):
        for n in range(place + c * pitch, place + c * pitch + length, numbers):
            total += x[n]
    return total  # type: ignore[no-any-return]


@part
def _clear(x: Floats, place: int, channels: int, pitch: int, length: int) -> None:
    for c in range(channels):
        x[place + c * pitch : place + c * pitch + length] = 0


@part
def _rows_of(i: int, band: Band) -> tuple[int, int]:
    # Rows of pixels [first, last) that window ``i`` is the first to meet.
    _, pitch, across, reach, step = band
    first = 0 if i == 0 else (i - 1) * step + reach
    return min(first, pitch // across), min(i * step + reach, pitch // across)


@kernel
def block_sums_by_rows(
    begins: Indices, columns: Indices, values: Floats, start: Floats,
    x: Floats, x0: int, pitch: int, y: Floats, y0: int, y_pitch: int, first: int, last: int,
    rows: int, xi: int, yi: int, parts: int, xj: int, yj: int, length: int, floor: float, band: Band,
) -> float:  # fmt: skip
    """:func:`~sparseflow.engine.kernels.blocks.block_sums`; ``band`` is that of ``x``."""
    channels, x_pitch, across, _, _ = band
    total = x.dtype.type(0)
    for i in range(rows):
        near, far = _rows_of(i, band)
        total += _read(x, near * across, channels, x_pitch, (far - near) * across)
        block_sums(
            begins, columns, values, start, x, x0 + i * xi, pitch, y, y0 + i * yi, y_pitch, first, last,
            1, xi, yi, parts, xj, yj, length, floor,
        )  # fmt: skip
    return total  # type: ignore[no-any-return]


@kernel
def block_gradients_by_rows(
    begins: Indices, columns: Indices, values: Floats, g: Floats, g0: int, g_pitch: int,
    x: Floats, x0: int, gx: Floats, y0: int, pitch: int, out: Floats, outputs: int,
    rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int, length: int, band: Band,
) -> float:  # fmt: skip
    """:func:`~sparseflow.engine.kernels.blocks.block_gradients` of all outputs, ``gx`` holding anything.

    ``band`` is that of ``x`` and ``gx``, whose frames are the same. ``out`` is stored.
    """
    channels, x_pitch, across, _, _ = band
    done = 0
    total = x.dtype.type(0)
    for i in range(rows):
        near, far = _rows_of(i, band)
        _clear(gx, done * across, channels, x_pitch, (far - done) * across)
        done = far
        total += _read(x, near * across, channels, x_pitch, (far - near) * across)
        total += _read(g, g0 + i * gi, HEIGHT * outputs, g_pitch, (parts - 1) * gj + length)
        block_gradients(
            begins, columns, columns, values, g, g0 + i * gi, g_pitch, x, x0 + i * xi, gx, y0 + i * yi, pitch, out,
            0, outputs, 1, gi, xi, yi, parts, gj, xj, yj, length, i > 0,
        )  # fmt: skip
    _clear(gx, done * across, channels, x_pitch, x_pitch - done * across)
    return total  # type: ignore[no-any-return]


@kernel
def column_gradients_by_rows(
    begins: Indices, ends: Indices, columns: Indices, order: Indices, values: Floats,
    g: Floats, g0: int, pitch: int, x: Floats, x0: int, x_pitch: int, gx: Floats, y0: int, y_pitch: int,
    out: Floats, first: int, last: int,
    rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int, length: int, band: Band,
) -> float:  # fmt: skip
    """:func:`~sparseflow.engine.kernels.gradients.column_gradients`, all stored; ``band`` is that of ``g``."""
    channels, g_pitch, across, _, _ = band
    total = x.dtype.type(0)
    for i in range(rows):
        near, far = _rows_of(i, band)
        total += _read(g, near * across, channels, g_pitch, (far - near) * across)
        total += _read(x, x0 + first * x_pitch + i * xi, last - first, x_pitch, (parts - 1) * xj + length)
        column_gradients(
            begins, ends, columns, order, values, g, g0 + i * gi, pitch, x, x0 + i * xi, x_pitch,
            gx, y0 + i * yi, y_pitch, out, first, last, 1, gi, xi, yi, parts, gj, xj, yj, length, False, i > 0,
        )  # fmt: skip
    return total  # type: ignore[no-any-return]
