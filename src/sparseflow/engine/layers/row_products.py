"""The products of a linear layer with activations by rows, one example after the other.

Kernels have the batch innermost. What comes in and goes out by rows is transposed a part at a time, in a buffer that
stays in the second-level cache: whole outputs never go to memory twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.engine.kernels.row_passes import (
    strip_block_dots,
    strip_block_sums,
    strip_blocks,
    strip_columns,
    strip_dots,
    strip_sums,
    strips,
    turned_gradient,
)
from sparseflow.engine.kernels.transpose import transpose
from sparseflow.engine.layers.geometry import TILE
from sparseflow.engine.layers.memory import shared_pool
from sparseflow.engine.layers.products import NO_FLOOR, Product, sum_of
from sparseflow.engine.layers.threads import evenly, halves, over_outputs, over_ranges

Floats = NDArray[Any]
#: Bytes of the buffer: a quarter of a second-level cache.
_ROOM = 1 << 18


def turned(rows: Tensor) -> Tensor:
    """The transpose, flat, of a matrix whose rows are neighbours in memory."""
    return _in_strips(rows, rows.shape[0])


def in_strips(rows: Tensor) -> Tensor:
    """A matrix whose rows are neighbours in memory as strips of examples, flat: each is ``(channels, examples)``.

    In one storage of many examples all channels of a strip would lie in the same few places of a cache.
    """
    return _in_strips(rows, TILE)


def _in_strips(rows: Tensor, width: int) -> Tensor:
    (count, size), stride = rows.shape, rows.stride(0)
    out = shared_pool().empty(size * count, rows.dtype)
    if count and size:
        bounds = evenly(size, size * count)
        over_ranges(strips, bounds, size * count, _flat(rows), stride, count, size, width, out.numpy())
    return out


def out_of_strips(strips: Tensor, batch: int) -> Tensor:
    """The contiguous matrix that :func:`in_strips` was given."""
    rows = torch.empty(batch, strips.numel() // batch, dtype=strips.dtype)
    given, out, size = strips.numpy(), rows.view(-1).numpy(), rows.shape[1]
    for n0, n in _strips(batch):
        transpose(given, n0 * size, n, size, n, out, n0 * size, size)
    return rows


def _flat(rows: Tensor) -> Floats:
    (count, size), stride = rows.shape, rows.stride(0)
    return rows.detach().as_strided(((count - 1) * stride + size,), (1,)).numpy()


def _strips(batch: int) -> Iterator[tuple[int, int]]:
    """A batch in strips that the kernels take at once: first example and number."""
    for n0 in range(0, batch, TILE):
        yield n0, min(TILE, batch - n0)


def forward_by_rows(
    product: Product, values: Tensor, bias: Tensor | None, x: Tensor, shape: tuple[int, ...], *, floor: float = NO_FLOOR
) -> Tensor:
    """``max(floor, W x + b)`` of strips ``x`` as a contiguous tensor of this ``(..., outputs)``."""
    y = product.memory.empty(math.prod(shape), values.dtype)
    w, table, pattern = product.computed(values), product.table, product.pattern
    start = w[:0] if bias is None else bias.detach().numpy()
    arguments = (
        table.columns, w, start, x.numpy(), pattern.inputs, product.y.batch, TILE, _ROOM // w.itemsize,
        y.numpy(), pattern.outputs, floor,
    )  # fmt: skip
    if product.in_blocks:
        over_outputs(strip_block_sums, table, product.work, pattern.begins, *arguments)
    else:
        over_outputs(strip_sums, table, product.work, table.begins, table.ends, *arguments)
    return y.view(shape).data  # no view, so that activations may write into it


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
        return None, product.stored(_weights(product, x, rows, gb.numpy()).view(1, -1)), gb if bias else None
    gx = product.memory.empty(product.x.batch * product.pattern.inputs, values.dtype)
    both = _by_blocks if product.in_blocks else _by_columns
    parts = both(product, product.computed(values), x.numpy(), rows, gx.numpy(), gb)
    return gx.view(product.x.batch, -1), product.stored(parts), gb if bias else None


def _weights(product: Product, x: Tensor, rows: Tensor, sums: Floats) -> Tensor:
    out, table, pattern = torch.zeros(product.pattern.num_active, dtype=x.dtype), product.table, product.pattern
    arguments = (
        table.columns, _flat(rows), rows.stride(0), x.numpy(), pattern.inputs, product.y.batch, TILE,
        _ROOM // x.itemsize, out.numpy(), sums,
    )  # fmt: skip
    if product.in_blocks:
        over_outputs(strip_block_dots, table, product.work, pattern.begins, *arguments)
    else:
        over_outputs(strip_dots, table, product.work, table.begins, table.ends, *arguments)
    return out


def _by_columns(product: Product, w: Floats, x: Floats, rows: Tensor, gx: Floats, bias: Tensor) -> Tensor:
    ((table, _),) = product.backward
    batch, inputs, outputs = product.y.batch, product.pattern.inputs, product.pattern.outputs
    out = product.copies_of_gradient(table)
    outs, given, sums, stride = out.numpy(), _flat(rows), bias.numpy(), rows.stride(0)
    cuts = table.cuts(len(outs))
    height, widest, blocks = table.height or outputs, min(TILE, batch), len(table.begins)
    g, own = (product.memory.empty(n * widest, rows.dtype).numpy() for n in (min(height, outputs), inputs))
    for n0, n in _strips(batch):
        for block, (begins, ends) in enumerate(zip(table.begins, table.ends, strict=True)):
            a = block * height
            count = min(height, outputs - a)
            over_ranges(turned_gradient, evenly(count, count * n), count * n, given, stride, n0, n, a, g, sums)
            over_outputs(
                strip_columns, table, 2 * product.work, begins, ends, table.columns, table.order, w, g, a, x, n0, n,
                inputs, own, outs, cuts, block > 0, n0 > 0, gx if block == blocks - 1 else gx[:0],
            )  # fmt: skip
    return out


def _by_blocks(product: Product, w: Floats, x: Floats, rows: Tensor, gx: Floats, bias: Tensor) -> Tensor:
    pattern, table, work = product.pattern, product.table, 2 * product.work
    bounds = halves(product.y.batch, work)
    outs = product.gradients_of_values(len(bounds) - 1)
    sums = torch.zeros(len(bounds) - 1, len(bias), dtype=rows.dtype)
    own = product.memory.empty(len(outs) * pattern.inputs * min(TILE, product.y.batch), rows.dtype).view(len(outs), -1)
    over_ranges(
        strip_blocks, bounds, work, pattern.begins, table.columns, w, _flat(rows), rows.stride(0), x, pattern.inputs,
        product.y.batch, TILE, _ROOM // w.itemsize, gx, own.numpy(), outs.numpy(), sums.numpy(),
    )  # fmt: skip
    bias += sum_of(list(sums))
    return outs
