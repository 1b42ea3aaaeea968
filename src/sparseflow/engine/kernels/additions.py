"""Sums of images with the batch innermost; where they are as in :mod:`sparseflow.engine.kernels.pooling`."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel

Floats = NDArray[Any]


@kernel
def image_sum(
    x: Floats, x0: int, x_pitch: int, x_row: int, other: Floats, o0: int, o_pitch: int, o_row: int,
    y: Floats, y0: int, y_pitch: int, y_row: int, first: int, last: int, rows: int, length: int, rectifies: bool,
) -> None:  # fmt: skip
    """``y = x + other``, through a ReLU where it ``rectifies``; NaN stays NaN. ``y`` is neither of them."""
    zero = y.dtype.type(0)
    for c in range(first, last):
        for i in range(rows):
            a, b, d = x0 + c * x_pitch + i * x_row, o0 + c * o_pitch + i * o_row, y0 + c * y_pitch + i * y_row
            given, more, out = x[a : a + length], other[b : b + length], y[d : d + length]
            if rectifies:
                for n in range(length):
                    value = given[n] + more[n]
                    out[n] = zero if value <= zero else value
            else:
                for n in range(length):
                    out[n] = given[n] + more[n]


@kernel
def add_image(
    x: Floats, x0: int, x_pitch: int, x_row: int, y: Floats, y0: int, y_pitch: int, y_row: int,
    first: int, last: int, rows: int, length: int,
) -> None:  # fmt: skip
    """``y += x``."""
    for c in range(first, last):
        for i in range(rows):
            a, b = x0 + c * x_pitch + i * x_row, y0 + c * y_pitch + i * y_row
            given, out = x[a : a + length], y[b : b + length]
            for n in range(length):
                out[n] += given[n]
