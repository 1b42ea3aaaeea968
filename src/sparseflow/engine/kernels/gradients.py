"""The backward pass of a sparse layer: both gradients from one reading of the output's, and a ReLU's gate.

Arguments as in :mod:`sparseflow.engine.kernels.sums`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel

Floats = NDArray[Any]
Indices = NDArray[np.int32]


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
    zero = values.dtype.type(0)
    for c in range(first, last):
        for k in range(begins[c], ends[c]):
            if not adds_weights:
                out[order[k]] = zero
        for i in range(rows):
            for j in range(parts):
                b, a = x0 + c * x_pitch + i * xi + j * xj, y0 + c * y_pitch + i * yi + j * yj
                if not adds_inputs:
                    gx[a : a + length] = zero
                for k in range(begins[c], ends[c]):
                    d = g0 + columns[k] * pitch + i * gi + j * gj
                    total = zero
                    for n in range(length):
                        gx[a + n] += values[order[k]] * g[d + n]
                        total += x[b + n] * g[d + n]
                    out[order[k]] += total


@kernel
def gated_sums(
    y: Floats, y0: int, y_pitch: int, y_row: int, g: Floats, g0: int, pitch: int, g_row: int,
    out: Floats, first: int, last: int, rows: int, length: int,
) -> None:  # fmt: skip
    """A ReLU's gate and the gradient of the biases before it, in one pass.

    ``g`` becomes 0 where the ReLU's output ``y`` is 0, and ``out[o] += sum_{i, n} g[o, i, n]``.
    """
    zero = g.dtype.type(0)
    for row in range(first, last):
        total = zero
        for i in range(rows):
            a, b = y0 + row * y_pitch + i * y_row, g0 + row * pitch + i * g_row
            for n in range(length):
                if y[a + n] <= zero:
                    g[b + n] = zero
                total += g[b + n]
        out[row] += total
