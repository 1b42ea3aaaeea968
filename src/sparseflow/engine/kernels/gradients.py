"""The backward pass of a sparse layer: both gradients from one reading of the output's, and a ReLU's gate.

Arguments as in :mod:`sparseflow.engine.kernels.sums`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.gradient_simd import both_gradients, gated_sum
from sparseflow.engine.kernels.sums import tiles_of_strip
from sparseflow.engine.kernels.vectors import REGISTERS, WIDTH

Floats = NDArray[Any]
Indices = NDArray[np.int32]

#: Vectors of float32 of which an input and its gradient leave registers for what meets them.
_WIDEST = REGISTERS // 4


def _over_inputs(emit: Callable[..., None], tile: int) -> Callable[..., None]:
    @part
    def run(
        begins: Indices, ends: Indices, columns: Indices, order: Indices, values: Floats,
        g: Floats, g0: int, pitch: int, x: Floats, x0: int, x_pitch: int, gx: Floats, y0: int, y_pitch: int,
        out: Floats, first: int, last: int, adds_inputs: bool, adds_weights: bool, length: int,
        tiles: int,
    ) -> None:  # fmt: skip
        for c in range(first, last):
            begin, end = np.int64(begins[c]), np.int64(ends[c])
            for n in range(0, tiles * tile, tile):
                emit(
                    values, order, columns, begin, end, g, g0 + n, pitch, x, x0 + n + c * x_pitch,
                    gx, y0 + n + c * y_pitch, out, adds_inputs, adds_weights or n > 0, length,
                )  # fmt: skip

    return run


_WIDE, _HALF, _TWO = (_over_inputs(both_gradients(count), count * WIDTH) for count in (_WIDEST, _WIDEST // 2, 2))
_REST = _over_inputs(both_gradients(1, masked=True), WIDTH)


@kernel
def column_gradients(
    begins: Indices, ends: Indices, columns: Indices, order: Indices, values: Floats,
    g: Floats, g0: int, pitch: int, x: Floats, x0: int, x_pitch: int, gx: Floats, y0: int, y_pitch: int,
    out: Floats, first: int, last: int,
    rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int, length: int,
    adds_inputs: bool, adds_weights: bool,
) -> None:  # fmt: skip
    r"""The gradients of the inputs and of the active weights that read them.

    .. math::
        \text{gx}_{c,i,j,n} = \sum_{k = b_c}^{e_c - 1} v_{o_k}\, g_{i,j,n + c_k \text{pitch}}, \qquad
        \text{out}_{o_k} = \sum_{i,j,n} x_{c,i,j,n}\, g_{i,j,n + c_k \text{pitch}}

    Args:
        begins, ends: int32 ``(inputs,)``: the nonzeros of each input.
        columns: int32, per nonzero: where the gradient that it meets begins, over the pitch.
        order: int32, per nonzero: its place in ``values`` and ``out``.
        values, out: The active weights, and their gradients.
        g, g0, pitch: The output's gradient, where it begins, and what a column counts.
        x, x0, x_pitch: Input, where it begins, and from one input to the next.
        gx, y0, y_pitch: The input's gradient, the same.
        first, last: The inputs to compute.
        rows, gi, xi, yi, parts, gj, xj, yj, length: The loops, and what each step adds to the three places.
        adds_inputs, adds_weights: Add to what ``gx`` and ``out`` hold.
    """
    for i in range(rows):
        for j in range(parts):
            d, b, a, n = g0 + i * gi + j * gj, x0 + i * xi + j * xj, y0 + i * yi + j * yj, 0
            if x.itemsize == 4:
                while n + _WIDEST * WIDTH <= length:
                    tiles = tiles_of_strip(length - n, pitch, _WIDEST * WIDTH)
                    _WIDE(begins, ends, columns, order, values, g, d + n, pitch, x, b + n, x_pitch, gx, a + n, y_pitch,
                          out, first, last, adds_inputs, adds_weights, length, tiles)  # fmt: skip
                    n, adds_weights = n + _WIDEST * WIDTH * tiles, True
            while n + _WIDEST // 2 * WIDTH <= length:
                _HALF(begins, ends, columns, order, values, g, d + n, pitch, x, b + n, x_pitch, gx, a + n, y_pitch,
                      out, first, last, adds_inputs, adds_weights, length, 1)  # fmt: skip
                n, adds_weights = n + _WIDEST // 2 * WIDTH, True
            while n + 2 * WIDTH <= length:
                _TWO(begins, ends, columns, order, values, g, d + n, pitch, x, b + n, x_pitch, gx, a + n, y_pitch,
                     out, first, last, adds_inputs, adds_weights, length, 1)  # fmt: skip
                n, adds_weights = n + 2 * WIDTH, True
            while n < length:
                _REST(begins, ends, columns, order, values, g, d + n, pitch, x, b + n, x_pitch, gx, a + n, y_pitch,
                      out, first, last, adds_inputs, adds_weights, length - n, 1)  # fmt: skip
                n, adds_weights = n + WIDTH, True


@kernel
def gated_sums(
    y: Floats, y0: int, y_pitch: int, y_row: int, g: Floats, g0: int, pitch: int, g_row: int,
    out: Floats, first: int, last: int, rows: int, length: int,
) -> None:  # fmt: skip
    """A ReLU's gate and the gradient of the biases before it, in one pass.

    ``g`` becomes 0 where the ReLU's output ``y`` is 0, and ``out[o] += sum_{i, n} g[o, i, n]``.
    """
    for row in range(first, last):
        for i in range(rows):
            a, b = y0 + row * y_pitch + i * y_row, g0 + row * pitch + i * g_row
            out[row] = gated_sum(y, a, g, b, length, out[row])
