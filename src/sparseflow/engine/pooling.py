"""Pooling and ReLU with the batch innermost, forward and backward.

An image is ``(channels, height, width, batch)`` in a flat array: where pixel (0, 0) of channel 0 begins, the numbers
from one channel to the next (``pitch``) and from one row of pixels to the next (``x_row``) come from `geometry.Frame`:
``frame.place(0, 0), frame.pitch, frame.width * batch``. Borders are neither read nor written. All channels
[first, last) are computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.compiling import kernel, part

Floats = NDArray[Any]
Places = NDArray[Any]


@part
def _span(position: int, size: int, kernel: int, dilation: int) -> tuple[int, int]:
    # The taps [low, high) of a window that begins at ``position`` and lie inside the image.
    low = (-position + dilation - 1) // dilation if position < 0 else 0
    high = (size - position + dilation - 1) // dilation
    return min(low, kernel), max(min(low, kernel), min(kernel, high))


@part
def _two_by_two(a: Floats, b: Floats, c: Floats, d: Floats, y: Floats, where: Places, floor: float) -> None:
    for n in range(y.shape[0]):
        top, tap = a[n], where.dtype.type(0)
        if (b[n] > top) | (b[n] != b[n]):
            top, tap = b[n], where.dtype.type(1)
        if (c[n] > top) | (c[n] != c[n]):
            top, tap = c[n], where.dtype.type(2)
        if (d[n] > top) | (d[n] != d[n]):
            top, tap = d[n], where.dtype.type(3)
        cut = (top <= floor) & (floor > -np.inf)
        y[n] = floor if cut else top
        where[n] = where.dtype.type(-1) if cut else tap


@part
def _raise_to(x: Floats, y: Floats, where: Places, tap: int) -> None:
    this = where.dtype.type(tap)
    for n in range(y.shape[0]):
        higher = (x[n] > y[n]) | (x[n] != x[n])
        y[n] = x[n] if higher else y[n]
        where[n] = this if higher else where[n]


@part
def _cut(y: Floats, where: Places, floor: float) -> None:
    for n in range(y.shape[0]):
        cut = y[n] <= floor
        y[n] = floor if cut else y[n]
        where[n] = where.dtype.type(-1) if cut else where[n]


@kernel
def max_pool(
    x: Floats, x0: int, pitch: int, x_row: int, height: int, width: int,
    y: Floats, y0: int, y_pitch: int, y_row: int, where: Places, where0: int, first: int, last: int,
    rows: int, columns: int, kernel_y: int, kernel_x: int, stride_y: int, stride_x: int,
    dilation_y: int, dilation_x: int, pad_y: int, pad_x: int, batch: int, floor: float,
) -> None:  # fmt: skip
    r"""The largest number of each window, and which tap it is.

    .. math:: y_{c,i,j,n} = \max(\text{floor},\ \max_{u,v} x_{c,\ i s_y - p_y + u d_y,\ j s_x - p_x + v d_x,\ n})

    Taps outside the image are left out. As in torch, NaN counts as largest and the first of equal taps is taken.

    Args:
        x, x0, pitch, x_row, height, width: Input: array, place of pixel (0, 0), distances, and size without border.
        y, y0, y_pitch, y_row: Output.
        where: Signed integers, written without gaps as ``(channels, rows, columns, batch)`` from ``where0`` on: the tap
            ``u * kernel_x + v``, or -1 where the floor was reached and no gradient passes. int8 holds 128 taps.
        first, last: Channels.
        rows, columns: Size of the output.
        kernel_y ... pad_x: The window.
        floor: 0 for a ReLU (before or after the pool: it is the same), minus infinity for none.
    """
    least = y.dtype.type(floor)
    pairs = kernel_y == 2 and kernel_x == 2 and dilation_y == 1 and dilation_x == 1 and pad_y == 0 and pad_x == 0
    pairs = pairs and (rows - 1) * stride_y + 2 <= height and (columns - 1) * stride_x + 2 <= width
    for c in range(first, last):
        for i in range(rows):
            top = i * stride_y - pad_y
            for j in range(columns):
                left = j * stride_x - pad_x
                at = x0 + c * pitch + top * x_row + left * batch
                b = y0 + c * y_pitch + i * y_row + j * batch
                w = where0 + ((c * rows + i) * columns + j) * batch
                out, taps = y[b : b + batch], where[w : w + batch]
                if pairs:
                    below = at + x_row
                    _two_by_two(
                        x[at : at + batch], x[at + batch : at + 2 * batch],
                        x[below : below + batch], x[below + batch : below + 2 * batch], out, taps, least,
                    )  # fmt: skip
                    continue
                first_u, last_u = _span(top, height, kernel_y, dilation_y)
                first_v, last_v = _span(left, width, kernel_x, dilation_x)
                out[:] = -np.inf
                taps[:] = first_u * kernel_x + first_v
                for u in range(first_u, last_u):
                    for v in range(first_v, last_v):
                        a = at + u * dilation_y * x_row + v * dilation_x * batch
                        _raise_to(x[a : a + batch], out, taps, u * kernel_x + v)
                if least > -np.inf:
                    _cut(out, taps, least)


@part
def _spread(g: Floats, where: Places, a: Floats, b: Floats, c: Floats, d: Floats) -> None:
    zero = g.dtype.type(0)
    for n in range(g.shape[0]):
        a[n] = g[n] if where[n] == 0 else zero
        b[n] = g[n] if where[n] == 1 else zero
        c[n] = g[n] if where[n] == 2 else zero
        d[n] = g[n] if where[n] == 3 else zero


@part
def _add_where(g: Floats, where: Places, x: Floats, tap: int) -> None:
    zero, this = g.dtype.type(0), where.dtype.type(tap)
    for n in range(g.shape[0]):
        x[n] += g[n] if where[n] == this else zero


@part
def _clear(x: Floats, x0: int, x_row: int, height: int, length: int) -> None:
    for i in range(height):
        x[x0 + i * x_row : x0 + i * x_row + length] = 0


@kernel
def max_pool_backward(
    g: Floats, g0: int, g_pitch: int, g_row: int, where: Places, where0: int,
    x: Floats, x0: int, pitch: int, x_row: int, height: int, width: int, first: int, last: int,
    rows: int, columns: int, kernel_y: int, kernel_x: int, stride_y: int, stride_x: int,
    dilation_y: int, dilation_x: int, pad_y: int, pad_x: int, batch: int,
) -> None:  # fmt: skip
    """The input's gradient, into ``x``: each output's gradient goes to the tap that was largest.

    Arguments as :func:`max_pool`, with ``g`` the output's gradient. What ``x`` held before is overwritten.
    """
    pairs = kernel_y == 2 and kernel_x == 2 and dilation_y == 1 and dilation_x == 1 and pad_y == 0 and pad_x == 0
    pairs = pairs and stride_y == 2 and stride_x == 2 and 2 * rows <= height and 2 * columns <= width
    whole = pairs and 2 * rows == height and 2 * columns == width
    for c in range(first, last):
        if not whole:
            _clear(x, x0 + c * pitch, x_row, height, width * batch)
        for i in range(rows):
            top = i * stride_y - pad_y
            for j in range(columns):
                left = j * stride_x - pad_x
                at = x0 + c * pitch + top * x_row + left * batch
                b = g0 + c * g_pitch + i * g_row + j * batch
                w = where0 + ((c * rows + i) * columns + j) * batch
                given, taps = g[b : b + batch], where[w : w + batch]
                if pairs:
                    below = at + x_row
                    _spread(
                        given, taps, x[at : at + batch], x[at + batch : at + 2 * batch],
                        x[below : below + batch], x[below + batch : below + 2 * batch],
                    )  # fmt: skip
                    continue
                first_u, last_u = _span(top, height, kernel_y, dilation_y)
                first_v, last_v = _span(left, width, kernel_x, dilation_x)
                for u in range(first_u, last_u):
                    for v in range(first_v, last_v):
                        a = at + u * dilation_y * x_row + v * dilation_x * batch
                        _add_where(given, taps, x[a : a + batch], u * kernel_x + v)


@part
def _add(x: Floats, y: Floats) -> None:
    for n in range(y.shape[0]):
        y[n] += x[n]


@part
def _add_scaled(x: Floats, y: Floats, factor: float) -> None:
    for n in range(y.shape[0]):
        y[n] += factor * x[n]


@kernel
def average_pool(
    x: Floats, x0: int, pitch: int, x_row: int, height: int, width: int,
    y: Floats, y0: int, y_pitch: int, y_row: int, first: int, last: int,
    rows: int, columns: int, kernel_y: int, kernel_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int, batch: int, divisor: int,
) -> None:  # fmt: skip
    r"""The mean of each window.

    .. math:: y_{c,i,j,n} = \frac{1}{D} \sum_{u,v} x_{c,\ i s_y - p_y + u,\ j s_x - p_x + v,\ n}

    Args:
        divisor: ``D``: ``kernel_y * kernel_x`` is torch's ``count_include_pad=True``; 0 divides by the taps inside the
            image, torch's ``count_include_pad=False``; another number is torch's ``divisor_override``.

    The others as :func:`max_pool`.
    """
    for c in range(first, last):
        for i in range(rows):
            first_u, last_u = _span(i * stride_y - pad_y, height, kernel_y, 1)
            for j in range(columns):
                first_v, last_v = _span(j * stride_x - pad_x, width, kernel_x, 1)
                at = x0 + c * pitch + (i * stride_y - pad_y) * x_row + (j * stride_x - pad_x) * batch
                b = y0 + c * y_pitch + i * y_row + j * batch
                out = y[b : b + batch]
                out[:] = 0
                for u in range(first_u, last_u):
                    for v in range(first_v, last_v):
                        a = at + u * x_row + v * batch
                        _add(x[a : a + batch], out)
                count = divisor if divisor > 0 else max(1, (last_u - first_u) * (last_v - first_v))
                out /= y.dtype.type(count)


@kernel
def average_pool_backward(
    g: Floats, g0: int, g_pitch: int, g_row: int,
    x: Floats, x0: int, pitch: int, x_row: int, height: int, width: int, first: int, last: int,
    rows: int, columns: int, kernel_y: int, kernel_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int, batch: int, divisor: int,
) -> None:  # fmt: skip
    """The input's gradient, into ``x``: each output's gradient over the divisor goes to all its taps.

    Arguments as :func:`average_pool`, with ``g`` the output's gradient. What ``x`` held before is overwritten.
    """
    for c in range(first, last):
        _clear(x, x0 + c * pitch, x_row, height, width * batch)
        for i in range(rows):
            first_u, last_u = _span(i * stride_y - pad_y, height, kernel_y, 1)
            for j in range(columns):
                first_v, last_v = _span(j * stride_x - pad_x, width, kernel_x, 1)
                at = x0 + c * pitch + (i * stride_y - pad_y) * x_row + (j * stride_x - pad_x) * batch
                b = g0 + c * g_pitch + i * g_row + j * batch
                count = divisor if divisor > 0 else max(1, (last_u - first_u) * (last_v - first_v))
                for u in range(first_u, last_u):
                    for v in range(first_v, last_v):
                        a = at + u * x_row + v * batch
                        _add_scaled(g[b : b + batch], x[a : a + batch], x.dtype.type(1 / count))


@kernel
def relu(
    x: Floats, x0: int, pitch: int, x_row: int, y: Floats, y0: int, y_pitch: int, y_row: int,
    first: int, last: int, rows: int, length: int,
) -> None:  # fmt: skip
    """``y = max(0, x)``; ``y`` may be ``x``. NaN stays NaN. ``length`` is a row of pixels times the batch."""
    zero = y.dtype.type(0)
    for c in range(first, last):
        for i in range(rows):
            a, b = x0 + c * pitch + i * x_row, y0 + c * y_pitch + i * y_row
            given, out = x[a : a + length], y[b : b + length]
            for n in range(length):
                out[n] = zero if given[n] <= zero else given[n]


@kernel
def relu_backward(
    g: Floats, g0: int, g_pitch: int, g_row: int, y: Floats, y0: int, y_pitch: int, y_row: int,
    x: Floats, x0: int, pitch: int, x_row: int, first: int, last: int, rows: int, length: int,
) -> None:  # fmt: skip
    """The input's gradient, into ``x``: ``g`` where the ReLU's output ``y`` is not zero. ``x`` may be ``g``."""
    zero = x.dtype.type(0)
    for c in range(first, last):
        for i in range(rows):
            a, b, d = g0 + c * g_pitch + i * g_row, y0 + c * y_pitch + i * y_row, x0 + c * pitch + i * x_row
            given, result, out = g[a : a + length], y[b : b + length], x[d : d + length]
            for n in range(length):
                out[n] = zero if result[n] <= zero else given[n]
