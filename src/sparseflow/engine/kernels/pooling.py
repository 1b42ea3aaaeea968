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

from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.pooling_simd import window_max, window_spread
from sparseflow.engine.kernels.vectors import WIDTH

Floats = NDArray[Any]
Places = NDArray[Any]


@part
def _span(position: int, size: int, kernel: int, dilation: int) -> tuple[int, int]:
    # The taps [low, high) of a window that begins at ``position`` and lie inside the image.
    low = (-position + dilation - 1) // dilation if position < 0 else 0
    high = (size - position + dilation - 1) // dilation
    return min(low, kernel), max(min(low, kernel), min(kernel, high))


_MAX, _MAX_OF_ONE = window_max(WIDTH), window_max(1)
_PUT, _PUT_ONE = window_spread(WIDTH, add=False), window_spread(1, add=False)
_ADD, _ADD_ONE = window_spread(WIDTH, add=True), window_spread(1, add=True)


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
        floor: 0 for a ReLU (before or after the pool: it is the same), minus infinity for none; no other.
    """
    whole = batch - batch % WIDTH
    rectify = floor == 0
    xu, xv = np.int64(dilation_y * x_row), np.int64(dilation_x * batch)
    for c in range(first, last):
        for i in range(rows):
            top = i * stride_y - pad_y
            u0, u1 = _span(top, height, kernel_y, dilation_y)
            for j in range(columns):
                left = j * stride_x - pad_x
                v0, v1 = _span(left, width, kernel_x, dilation_x)
                a = x0 + c * pitch + top * x_row + left * batch
                b = y0 + c * y_pitch + i * y_row + j * batch
                w = where0 + ((c * rows + i) * columns + j) * batch
                for n in range(0, whole, WIDTH):
                    _MAX(x, a + n, xu, xv, u0, u1, v0, v1, kernel_x, y, b + n, where, w + n, rectify)
                for n in range(whole, batch):
                    _MAX_OF_ONE(x, a + n, xu, xv, u0, u1, v0, v1, kernel_x, y, b + n, where, w + n, rectify)


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
    # Windows that lie side by side and cover the image write each pixel once; others add to zeros.
    tiles = kernel_y == stride_y and kernel_x == stride_x and dilation_y == dilation_x == 1 and pad_y == pad_x == 0
    tiles = tiles and rows * stride_y == height and columns * stride_x == width
    whole = batch - batch % WIDTH
    xu, xv = np.int64(dilation_y * x_row), np.int64(dilation_x * batch)
    for c in range(first, last):
        if not tiles:
            _clear(x, x0 + c * pitch, x_row, height, width * batch)
        for i in range(rows):
            top = i * stride_y - pad_y
            u0, u1 = _span(top, height, kernel_y, dilation_y)
            for j in range(columns):
                left = j * stride_x - pad_x
                v0, v1 = _span(left, width, kernel_x, dilation_x)
                a = x0 + c * pitch + top * x_row + left * batch
                b = g0 + c * g_pitch + i * g_row + j * batch
                w = where0 + ((c * rows + i) * columns + j) * batch
                if tiles:
                    for n in range(0, whole, WIDTH):
                        _PUT(g, b + n, where, w + n, x, a + n, xu, xv, u0, u1, v0, v1, kernel_x)
                    for n in range(whole, batch):
                        _PUT_ONE(g, b + n, where, w + n, x, a + n, xu, xv, u0, u1, v0, v1, kernel_x)
                else:
                    for n in range(0, whole, WIDTH):
                        _ADD(g, b + n, where, w + n, x, a + n, xu, xv, u0, u1, v0, v1, kernel_x)
                    for n in range(whole, batch):
                        _ADD_ONE(g, b + n, where, w + n, x, a + n, xu, xv, u0, u1, v0, v1, kernel_x)


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
    """The input's gradient, into ``x``: ``g`` where the ReLU's output ``y`` is not zero."""
    zero = x.dtype.type(0)
    for c in range(first, last):
        for i in range(rows):
            a, b, d = g0 + c * g_pitch + i * g_row, y0 + c * y_pitch + i * y_row, x0 + c * pitch + i * x_row
            given, result, out = g[a : a + length], y[b : b + length], x[d : d + length]
            for n in range(length):
                out[n] = zero if result[n] <= zero else given[n]


@kernel
def relu_gate(
    y: Floats, y0: int, y_pitch: int, y_row: int, g: Floats, g0: int, pitch: int, g_row: int,
    first: int, last: int, rows: int, length: int,
) -> None:  # fmt: skip
    """The input's gradient in place of the output's: 0 where the ReLU's output ``y`` is zero.

    A function of its own: :func:`relu_backward` with ``x`` in the place of ``g`` gives the same 50 times as slowly,
    since the compiler must assume that the two overlap.
    """
    zero = g.dtype.type(0)
    for c in range(first, last):
        for i in range(rows):
            a, b = y0 + c * y_pitch + i * y_row, g0 + c * pitch + i * g_row
            result, out = y[a : a + length], g[b : b + length]
            for n in range(length):
                out[n] = zero if result[n] <= zero else out[n]
