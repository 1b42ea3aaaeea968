"""The products of a linear layer with activations by rows, one example after the other.

Kernels have the batch innermost. What comes in and goes out by rows is transposed a part at a time, in a buffer that
stays in the second-level cache: whole outputs never go to memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.engine.kernels.blocks import block_gradients
from sparseflow.engine.kernels.gradients import column_gradients
from sparseflow.engine.kernels.sums import row_sums
from sparseflow.engine.kernels.transpose import transpose
from sparseflow.engine.layers.geometry import TILE, Loops
from sparseflow.engine.layers.products import NO_FLOOR, Product, sum_of
from sparseflow.engine.layers.threads import halves, over_outputs, over_parts

Floats = NDArray[Any]
#: Bytes of the buffer: a quarter of a second-level cache.
_ROOM = 1 << 18


def turned(rows: Tensor) -> Tensor:
    """The transpose, flat, of a matrix whose rows are neighbours in memory."""
    (count, size), stride = rows.shape, rows.stride(0)
    out = torch.empty(size * count, dtype=rows.dtype)
    transpose(_flat(rows), 0, stride, count, size, out.numpy(), 0, count)
    return out


def in_strips(rows: Tensor) -> Tensor:
    """A matrix whose rows are neighbours in memory as strips of examples, flat: each is ``(channels, examples)``.

    In one storage of many examples all channels of a strip would lie in the same few places of a cache.
    """
    (count, size), stride = rows.shape, rows.stride(0)
    out = torch.empty(size * count, dtype=rows.dtype)
    given, strips = _flat(rows), out.numpy()
    for n0, n in _strips(0, count):
        transpose(given, n0 * stride, stride, n, size, strips, n0 * size, n)
    return out


def out_of_strips(strips: Tensor, batch: int) -> Tensor:
    """The contiguous matrix that :func:`in_strips` was given."""
    rows = torch.empty(batch, strips.numel() // batch, dtype=strips.dtype)
    given, out, size = strips.numpy(), rows.view(-1).numpy(), rows.shape[1]
    for n0, n in _strips(0, batch):
        transpose(given, n0 * size, n, size, n, out, n0 * size, size)
    return rows


def _flat(rows: Tensor) -> Floats:
    (count, size), stride = rows.shape, rows.stride(0)
    return rows.detach().as_strided(((count - 1) * stride + size,), (1,)).numpy()


def _strips(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The examples [first, last) in strips that the kernels take at once: first example and number."""
    for n0 in range(first, last, TILE):
        yield n0, min(TILE, last - n0)


def _loops(product: Product, n0: int, n: int, first: int) -> Loops:
    """From a strip to a buffer, ``(outputs, n)``, that begins with output ``first``."""
    return Loops(n0 * product.pattern.inputs, n, -first * n, n, 1, 0, 0, 1, 0, 0, n)


def forward_by_rows(
    product: Product, values: Tensor, bias: Tensor | None, x: Tensor, shape: tuple[int, ...], *, floor: float = NO_FLOOR
) -> Tensor:
    """``max(floor, W x + b)`` of strips ``x`` as a contiguous tensor of this ``(..., outputs)``."""
    y = torch.empty(shape, dtype=values.dtype)
    w, xs, ys = values.detach().numpy(), x.numpy(), y.view(-1).numpy()
    start = w[:0] if bias is None else bias.detach().numpy()
    batch, outputs, height = product.y.batch, product.pattern.outputs, product.pattern.block

    def run(first: int, last: int) -> None:
        for n0, n in _strips(0, batch):
            for a, b, buffer in _chunks(first, last, height * n, w.dtype):
                product.sums(_loops(product, n0, n, a * height), w, start, xs, buffer, a, b, floor)
                transpose(buffer, 0, n, (b - a) * height, n, ys, n0 * outputs + a * height, outputs)

    over_outputs(product.table, product.work, run)
    return y


def _chunks(first: int, last: int, size: int, dtype: Any) -> Iterator[tuple[int, int, Floats]]:
    """Ranges of [first, last) whose numbers, ``size`` each, fill a buffer that they share."""
    step = max(1, _ROOM // (size * dtype.itemsize))
    buffer = np.empty(min(step, last - first) * size, dtype)
    for a in range(first, last, step):
        yield a, min(a + step, last), buffer


def gradients_by_rows(
    product: Product, values: Tensor, x: Tensor, rows: Tensor, *, inputs: bool, bias: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """The gradients of input, ``(batch, inputs)``, active weights and biases.

    Args:
        x: In strips.
        rows: The output's gradient, ``(batch, outputs)``; the numbers of a row are neighbours in memory.
        inputs, bias: Which of them are wanted beside that of the weights.
    """
    gb = torch.zeros(product.pattern.outputs if bias else 0, dtype=values.dtype)
    if not inputs:
        return None, _weights(product, x, rows, gb.numpy()), gb if bias else None
    gx = torch.empty(product.x.batch, product.pattern.inputs, dtype=values.dtype)
    both = _by_blocks if product.in_blocks else _by_columns
    gv = both(product, values.detach().numpy(), x.numpy(), rows, gx.view(-1).numpy(), gb.numpy())
    return gx, gv, gb if bias else None


def _turner(rows: Tensor, sums: Floats) -> Callable[[int, int, int, int, Floats, bool], None]:
    """The function that transposes a part of the gradient into a buffer, and adds it up over the examples."""
    g, stride = _flat(rows), rows.stride(0)

    def turn(n0: int, n: int, first: int, last: int, buffer: Floats, adds: bool) -> None:
        transpose(g, n0 * stride + first, stride, n, last - first, buffer, 0, n)
        if adds and len(sums):
            row_sums(buffer, 0, n, sums[first:], 0, last - first, 1, 0, 1, 0, n)

    return turn


def _weights(product: Product, x: Tensor, rows: Tensor, sums: Floats) -> Tensor:
    out = torch.zeros(product.pattern.num_active, dtype=x.dtype)
    xs, outs, turn = x.numpy(), out.numpy(), _turner(rows, sums)
    batch, height = product.y.batch, product.pattern.block

    def run(first: int, last: int) -> None:
        for n0, n in _strips(0, batch):
            for a, b, buffer in _chunks(first, last, height * n, outs.dtype):
                turn(n0, n, a * height, b * height, buffer, True)
                product.dots((_loops(product, n0, n, a * height),), 1, buffer, xs, outs, a, b)

    over_outputs(product.table, product.work, run)
    return out


def _by_columns(product: Product, w: Floats, x: Floats, rows: Tensor, gx: Floats, sums: Floats) -> Tensor:
    ((table, _),) = product.backward
    batch, inputs, outputs = product.y.batch, product.pattern.inputs, product.pattern.outputs
    out = torch.empty(product.pattern.num_active, dtype=rows.dtype)
    outs, turn, height, widest = out.numpy(), _turner(rows, sums), table.height or outputs, min(TILE, batch)

    def run(first: int, last: int) -> None:
        g, own = np.empty(min(height, outputs) * widest, w.dtype), np.empty((last - first) * widest, w.dtype)
        for n0, n in _strips(0, batch):
            for block, (begins, ends) in enumerate(zip(table.begins, table.ends, strict=True)):
                a = block * height
                turn(n0, n, a, min(a + height, outputs), g, first == 0)
                column_gradients(
                    begins, ends, table.columns, table.order, w, g, -a * n, n, x, n0 * inputs, n,
                    own, -first * n, n, outs, first, last, 1, 0, 0, 0, 1, 0, 0, 0, n, block > 0, n0 > 0,
                )  # fmt: skip
            transpose(own, 0, n, last - first, n, gx, n0 * inputs + first, inputs)

    over_outputs(table, 2 * product.work, run)
    return out


def _by_blocks(product: Product, w: Floats, x: Floats, rows: Tensor, gx: Floats, sums: Floats) -> Tensor:
    pattern, table, height, inputs = product.pattern, product.table, product.pattern.block, product.pattern.inputs
    parts = halves(product.y.batch, 2 * product.work)
    outs = [torch.empty(pattern.num_active, dtype=rows.dtype) for _ in parts]
    biases = [np.zeros_like(sums) for _ in parts]

    def run(part: int) -> None:
        (begin, end), out, turn = parts[part], outs[part].numpy(), _turner(rows, biases[part])
        for strip, width in _strips(0, product.y.batch):
            n0, n = max(strip, begin), min(strip + width, end) - max(strip, begin)
            if n <= 0:
                continue
            own = np.zeros(inputs * width, w.dtype)  # laid out as the strip is, also where only a half of it is met
            for a, b, g in _chunks(0, table.outputs, height * n, w.dtype):
                turn(n0, n, a * height, b * height, g, True)
                block_gradients(
                    pattern.begins, table.columns, table.columns, w, g, -a * height * n, n,
                    x, strip * inputs + n0 - strip, own, 0, width, out, a, b, 1, 0, 0, 0, 1, 0, 0, 0, n, n0 > begin,
                )  # fmt: skip
            transpose(own, 0, width, inputs, n, gx, n0 * inputs, inputs)

    over_parts(len(parts), 2 * product.work, run)
    for bias in biases:
        sums += bias
    return sum_of(outs)
