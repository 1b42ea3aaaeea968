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


def _flat(rows: Tensor) -> Floats:
    (count, size), stride = rows.shape, rows.stride(0)
    return rows.detach().as_strided(((count - 1) * stride + size,), (1,)).numpy()


def to_rows(storage: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A flat ``(channels, batch)`` as a contiguous tensor of this ``(..., channels)``."""
    rows = torch.empty(shape, dtype=storage.dtype)
    channels, batch = shape[-1], storage.numel() // max(1, shape[-1])
    transpose(storage.numpy(), 0, batch, channels, batch, rows.view(-1).numpy(), 0, channels)
    return rows


def _strips(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The examples [first, last) in strips that the kernels take at once: first example and number."""
    for n0 in range(first, last, TILE):
        yield n0, min(TILE, last - n0)


def _loops(n0: int, batch: int, y0: int, n: int) -> Loops:
    return Loops(n0, batch, y0, n, 1, 0, 0, 1, 0, 0, n)


def forward_by_rows(
    product: Product, values: Tensor, bias: Tensor | None, x: Tensor, shape: tuple[int, ...], *, floor: float = NO_FLOOR
) -> Tensor:
    """:meth:`Product.forward` of a storage as a contiguous tensor of this ``(..., outputs)``."""
    y = torch.empty(shape, dtype=values.dtype)
    w, xs, ys = values.detach().numpy(), x.numpy(), y.view(-1).numpy()
    start = w[:0] if bias is None else bias.detach().numpy()
    batch, outputs, height = product.y.batch, product.pattern.outputs, product.pattern.block

    def run(first: int, last: int) -> None:
        for n0, n in _strips(0, batch):
            for a, b, buffer in _chunks(first, last, height * n, w.dtype):
                product.sums(_loops(n0, batch, -a * height * n, n), w, start, xs, buffer, a, b, floor)
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
    """The gradients of input, active weights and biases; that of the input as a storage.

    Args:
        x: A storage.
        rows: The output's gradient, ``(batch, outputs)``; the numbers of a row are neighbours in memory.
        inputs, bias: Which of them are wanted beside that of the weights.
    """
    gb = torch.zeros(product.pattern.outputs if bias else 0, dtype=values.dtype)
    if not inputs:
        return None, _weights(product, x, rows, gb.numpy()), gb if bias else None
    both = _by_blocks if product.in_blocks else _by_columns
    gx, gv = both(product, values.detach().numpy(), x.numpy(), rows, gb.numpy())
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
                product.dots((_loops(n0, batch, -a * height * n, n),), 1, buffer, xs, outs, a, b)

    over_outputs(product.table, product.work, run)
    return out


def _by_columns(product: Product, w: Floats, x: Floats, rows: Tensor, sums: Floats) -> tuple[Tensor, Tensor]:
    ((table, _),) = product.backward
    batch, outputs, turn = product.y.batch, product.pattern.outputs, _turner(rows, sums)
    gx = torch.empty(product.pattern.inputs * batch, dtype=rows.dtype)
    out = torch.empty(product.pattern.num_active, dtype=rows.dtype)
    gxs, outs, height = gx.numpy(), out.numpy(), table.height or outputs

    def run(first: int, last: int) -> None:
        buffer = np.empty(min(height, outputs) * min(TILE, batch), w.dtype)
        for n0, n in _strips(0, batch):
            for block, (begins, ends) in enumerate(zip(table.begins, table.ends, strict=True)):
                a = block * height
                turn(n0, n, a, min(a + height, outputs), buffer, first == 0)
                column_gradients(
                    begins, ends, table.columns, table.order, w, buffer, -a * n, n, x, n0, batch, gxs, n0, batch, outs,
                    first, last, 1, 0, 0, 0, 1, 0, 0, 0, n, block > 0, n0 > 0,
                )  # fmt: skip

    over_outputs(table, 2 * product.work, run)
    return gx, out


def _by_blocks(product: Product, w: Floats, x: Floats, rows: Tensor, sums: Floats) -> tuple[Tensor, Tensor]:
    batch, pattern, table = product.y.batch, product.pattern, product.table
    gx = torch.zeros(pattern.inputs * batch, dtype=rows.dtype)
    gxs, height, parts = gx.numpy(), pattern.block, halves(batch, 2 * product.work)
    outs = [torch.empty(pattern.num_active, dtype=rows.dtype) for _ in parts]
    biases = [np.zeros_like(sums) for _ in parts]

    def run(part: int) -> None:
        (begin, end), out, turn = parts[part], outs[part].numpy(), _turner(rows, biases[part])
        for n0, n in _strips(begin, end):
            for a, b, buffer in _chunks(0, table.outputs, height * n, w.dtype):
                turn(n0, n, a * height, b * height, buffer, True)
                block_gradients(
                    pattern.begins, table.columns, table.columns, w, buffer, -a * height * n, n, x, n0, gxs, n0, batch,
                    out, a, b, 1, 0, 0, 0, 1, 0, 0, 0, n, n0 > begin,
                )  # fmt: skip

    over_parts(len(parts), 2 * product.work, run)
    for bias in biases:
        sums += bias
    return gx, sum_of(outs)
