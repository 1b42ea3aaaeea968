"""Passes of a linear layer with activations by rows: parts are transposed into buffers that stay in the cache.

Rows are ``(examples, numbers)``, flat; a strip is ``(numbers, n)`` of n examples, as the kernels take it. Other
arguments as in :mod:`sparseflow.engine.kernels.sums`, `gradients` and `blocks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.blocks import HEIGHT, block_dots, block_gradients, block_sums
from sparseflow.engine.kernels.compiling import kernel
from sparseflow.engine.kernels.gradients import column_gradients
from sparseflow.engine.kernels.passes import number_of
from sparseflow.engine.kernels.shares import share
from sparseflow.engine.kernels.sums import row_sums, sampled_dots, weighted_sums
from sparseflow.engine.kernels.transpose import transpose

Floats = NDArray[Any]
Indices = NDArray[np.int32]
#: ``(blocks, outputs)``.
Blocks = NDArray[np.int32]
_MINUS_INFINITY = -np.inf


@kernel
def _strips(x: Floats, stride: int, batch: int, size: int, width: int, out: Floats, first: int, last: int) -> None:
    for n0 in range(0, batch, width):
        n = min(width, batch - n0)
        transpose(x, n0 * stride + first, stride, n, last - first, out, n0 * size + first * n, n)


@kernel
def strips(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """Numbers [first, last) of rows that are ``stride`` apart, into strips of ``width`` examples."""
    share(team, threads, bounds, _strips, arguments)


@kernel
def _sums(
    begins: Blocks, ends: Blocks, columns: Indices, values: Floats, start: Floats, x: Floats, inputs: int, batch: int,
    width: int, room: int, y: Floats, outputs: int, floor: float, first: int, last: int,
) -> None:  # fmt: skip
    zero, one, blocks = np.int64(0), np.int64(1), begins.shape[0]
    step = max(1, room // min(width, batch))
    buffer = np.empty(min(step, last - first) * min(width, batch), x.dtype)
    for n0 in range(0, batch, width):
        n = min(width, batch - n0)
        for a in range(first, last, step):
            b = min(a + step, last)
            for block in range(blocks):
                weighted_sums(
                    begins[block], ends[block], columns, values, start, x, n0 * inputs, n, buffer, -a * n, n, a, b,
                    one, zero, zero, one, zero, zero, n, block > 0, floor if block == blocks - 1 else _MINUS_INFINITY,
                )  # fmt: skip
            transpose(buffer, zero, n, b - a, n, y, n0 * outputs + a, outputs)


@kernel
def strip_sums(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """Outputs [first, last) of strips ``x``, as rows ``y``, through a buffer of ``room`` numbers."""
    share(team, threads, bounds, _sums, arguments)


@kernel
def _block_sums(
    begins: Indices, columns: Indices, values: Floats, start: Floats, x: Floats, inputs: int, batch: int,
    width: int, room: int, y: Floats, outputs: int, floor: float, first: int, last: int,
) -> None:  # fmt: skip
    zero, one = np.int64(0), np.int64(1)
    step = max(1, room // (HEIGHT * min(width, batch)))
    buffer = np.empty(min(step, last - first) * HEIGHT * min(width, batch), x.dtype)
    for n0 in range(0, batch, width):
        n = min(width, batch - n0)
        for a in range(first, last, step):
            b = min(a + step, last)
            block_sums(
                begins, columns, values, start, x, n0 * inputs, n, buffer, -HEIGHT * a * n, n, a, b,
                one, zero, zero, one, zero, zero, n, floor,
            )  # fmt: skip
            transpose(buffer, zero, n, HEIGHT * (b - a), n, y, n0 * outputs + HEIGHT * a, outputs)


@kernel
def strip_block_sums(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """:func:`strip_sums` for block rows [first, last)."""
    share(team, threads, bounds, _block_sums, arguments)


@kernel
def _turned(
    g: Floats, stride: int, n0: int, n: int, place: int, out: Floats, sums: Floats, first: int, last: int
) -> None:
    zero, one, count = np.int64(0), np.int64(1), last - first
    transpose(g, n0 * stride + place + first, stride, n, count, out, first * n, n)
    if sums.shape[0] > 0:
        row_sums(out, first * n, n, sums[place + first :], zero, count, one, zero, one, zero, n)


@kernel
def turned_gradient(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """Numbers ``place`` + [first, last) of n rows of ``g``, as a strip; their sums are added to ``sums``, if any."""
    share(team, threads, bounds, _turned, arguments)


@kernel
def _columns(
    begins: Indices, ends: Indices, columns: Indices, order: Indices, values: Floats, g: Floats, place: int, x: Floats,
    n0: int, n: int, inputs: int, own: Floats, out: Floats, cuts: NDArray[np.int64], adds_inputs: bool,
    adds_weights: bool, gx: Floats, first: int, last: int,
) -> None:  # fmt: skip
    zero, one = np.int64(0), np.int64(1)
    column_gradients(
        begins, ends, columns, order, values, g, -place * n, n, x, n0 * inputs, n, own, zero, n,
        out[number_of(first, cuts, out.shape[0])], first, last,
        one, zero, zero, zero, one, zero, zero, zero, n, adds_inputs, adds_weights,
    )  # fmt: skip
    if gx.shape[0] > 0:
        transpose(own, first * n, n, last - first, n, gx, n0 * inputs + first, inputs)


@kernel
def strip_columns(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """Gradients of the inputs [first, last) of a strip, in ``own`` and as rows in ``gx``, if any; and of weights.

    ``g`` is a strip that begins with output ``place``; ``out`` and ``cuts`` as in
    :func:`~sparseflow.engine.kernels.passes.share_column_gradients`.
    """
    share(team, threads, bounds, _columns, arguments)


@kernel
def _blocks(
    begins: Indices, columns: Indices, values: Floats, g: Floats, stride: int, x: Floats, inputs: int, batch: int,
    width: int, room: int, gx: Floats, owns: Floats, out: Floats, sums: Floats, first: int, last: int,
) -> None:  # fmt: skip
    zero, one, rows = np.int64(0), np.int64(1), begins.shape[0] - 1
    half = 1 if first > 0 else 0
    step = min(rows, max(1, room // (HEIGHT * min(width, last - first))))
    buffer = np.empty(step * HEIGHT * min(width, last - first), x.dtype)
    own, begin = owns[half], first
    while begin < last:
        strip = begin - begin % width
        pitch = min(width, batch - strip)
        n = min(strip + pitch, last) - begin
        own[:] = 0
        for a in range(0, rows, step):
            b = min(a + step, rows)
            transpose(g, begin * stride + HEIGHT * a, stride, n, HEIGHT * (b - a), buffer, zero, n)
            if sums.shape[1] > 0:
                row_sums(
                    buffer, zero, n, sums[half][HEIGHT * a :], zero, HEIGHT * (b - a), one, zero, one, zero, n
                )  # fmt: skip
            # A strip is laid out as a whole, also where only a half of it is met.
            block_gradients(
                begins, columns, columns, values, buffer, -HEIGHT * a * n, n, x, strip * inputs + begin - strip,
                own, zero, pitch, out[half], a, b, one, zero, zero, zero, one, zero, zero, zero, n, begin > first,
            )  # fmt: skip
        transpose(own, zero, pitch, inputs, n, gx, begin * inputs, inputs)
        begin += n


@kernel
def strip_blocks(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """Both gradients of the examples [first, last), and the sums of ``g``.

    ``owns``, the gradient of a strip, ``out`` and ``sums`` are ``(halves, numbers)``: those of a half that does not
    begin the batch are the second ones.
    """
    share(team, threads, bounds, _blocks, arguments)


@kernel
def _dots(
    begins: Blocks, ends: Blocks, columns: Indices, g: Floats, stride: int, x: Floats, inputs: int, batch: int,
    width: int, room: int, out: Floats, sums: Floats, first: int, last: int,
) -> None:  # fmt: skip
    zero, one = np.int64(0), np.int64(1)
    step = max(1, room // min(width, batch))
    buffer = np.empty(min(step, last - first) * min(width, batch), x.dtype)
    for n0 in range(0, batch, width):
        n = min(width, batch - n0)
        for a in range(first, last, step):
            b = min(a + step, last)
            transpose(g, n0 * stride + a, stride, n, b - a, buffer, zero, n)
            if sums.shape[0] > 0:
                row_sums(buffer, zero, n, sums[a:], zero, b - a, one, zero, one, zero, n)
            for block in range(begins.shape[0]):
                sampled_dots(
                    begins[block], ends[block], columns, buffer, -a * n, n, x, n0 * inputs, n, out, a, b,
                    one, zero, zero, one, zero, zero, n, one,
                )  # fmt: skip


@kernel
def strip_dots(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """The weights' gradient of outputs [first, last), added to ``out``, and the sums of ``g``."""
    share(team, threads, bounds, _dots, arguments)


@kernel
def _block_dots(
    begins: Indices, columns: Indices, g: Floats, stride: int, x: Floats, inputs: int, batch: int,
    width: int, room: int, out: Floats, sums: Floats, first: int, last: int,
) -> None:  # fmt: skip
    zero, one = np.int64(0), np.int64(1)
    step = max(1, room // (HEIGHT * min(width, batch)))
    buffer = np.empty(min(step, last - first) * HEIGHT * min(width, batch), x.dtype)
    for n0 in range(0, batch, width):
        n = min(width, batch - n0)
        for a in range(first, last, step):
            b = min(a + step, last)
            transpose(g, n0 * stride + HEIGHT * a, stride, n, HEIGHT * (b - a), buffer, zero, n)
            if sums.shape[0] > 0:
                row_sums(buffer, zero, n, sums[HEIGHT * a :], zero, HEIGHT * (b - a), one, zero, one, zero, n)
            block_dots(
                begins, columns, buffer, -HEIGHT * a * n, n, x, n0 * inputs, n, out, a, b,
                one, zero, zero, one, zero, zero, n, n0 > 0,
            )  # fmt: skip


@kernel
def strip_block_dots(team: int, threads: int, bounds: NDArray[np.int64], *arguments: Any) -> None:
    """:func:`strip_dots` for block rows [first, last); ``out`` is stored."""
    share(team, threads, bounds, _block_dots, arguments)
