"""The kernels of a layer's passes over ranges of its outputs, inputs or examples, on several threads.

Each takes what :func:`~sparseflow.engine.kernels.shares.share` does first, then the arguments of its kernel without
``first`` and ``last``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.blocks import block_dots, block_gradients, block_sums, block_vector_product
from sparseflow.engine.kernels.by_rows import (
    Band,
    Inside,
    block_gradients_by_rows,
    block_sums_by_rows,
    column_gradients_by_rows,
    sums_by_rows,
)
from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.gradients import column_gradients, gated_sums
from sparseflow.engine.kernels.norms import batch_norm, batch_norm_backward
from sparseflow.engine.kernels.shares import share
from sparseflow.engine.kernels.sums import all_dots, all_sums, row_sums, vector_product

Floats = NDArray[Any]
Indices = NDArray[np.int32]
Bounds = NDArray[np.int64]
Edges = NDArray[np.int32]


@kernel
def share_sums(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.sums.all_sums`."""
    share(team, threads, bounds, all_sums, arguments)


@kernel
def share_block_sums(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.blocks.block_sums`."""
    share(team, threads, bounds, block_sums, arguments)


@kernel
def share_sums_by_rows(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.by_rows.sums_by_rows`."""
    share(team, threads, bounds, sums_by_rows, arguments)


@kernel
def share_block_sums_by_rows(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.by_rows.block_sums_by_rows`."""
    share(team, threads, bounds, block_sums_by_rows, arguments)


@kernel
def share_vector_product(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.sums.vector_product`."""
    share(team, threads, bounds, vector_product, arguments)


@kernel
def share_block_vector_product(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.blocks.block_vector_product`."""
    share(team, threads, bounds, block_vector_product, arguments)


@kernel
def share_dots(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.sums.all_dots`."""
    share(team, threads, bounds, all_dots, arguments)


@kernel
def share_block_dots(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.blocks.block_dots`."""
    share(team, threads, bounds, block_dots, arguments)


@part
def number_of(first: int, cuts: Bounds, copies: int) -> int:
    """Which copy of a gradient belongs to the range that begins with ``first``."""
    number = 0
    while number + 1 < copies and cuts[number + 1] <= first:
        number += 1
    return number


@kernel
def _column_gradients(
    begins: Indices, ends: Indices, columns: Indices, order: Indices, values: Floats,
    g: Floats, g0: int, pitch: int, x: Floats, x0: int, x_pitch: int, gx: Floats, y0: int, y_pitch: int,
    out: Floats, cuts: Bounds, first: int, last: int,
    rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int, length: int,
    adds_inputs: bool, adds_weights: bool,
) -> None:  # fmt: skip
    column_gradients(
        begins, ends, columns, order, values, g, g0, pitch, x, x0, x_pitch, gx, y0, y_pitch,
        out[number_of(first, cuts, out.shape[0])], first, last, rows, gi, xi, yi, parts, gj, xj, yj, length,
        adds_inputs, adds_weights,
    )  # fmt: skip


@kernel
def share_column_gradients(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.gradients.column_gradients`.

    ``out`` is ``(copies, nonzeros)``, followed by the bounds of the ranges that write to one copy each: weights that
    are neighbours in it belong to several ranges, and two cores that write to one cache line wait for each other.
    """
    share(team, threads, bounds, _column_gradients, arguments)


@kernel
def share_column_gradients_by_rows(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.by_rows.column_gradients_by_rows`."""
    share(team, threads, bounds, column_gradients_by_rows, arguments)


@kernel
def _block_gradients(
    begins: Indices, columns: Indices, values: Floats, g: Floats, g0: int, g_pitch: int, x: Floats, x0: int,
    gx: Floats, y0: int, pitch: int, out: Floats, outputs: int, own: Floats, inputs: int,
    rows: int, gi: int, xi: int, yi: int, parts: int, gj: int, xj: int, yj: int, first: int, last: int,
) -> None:  # fmt: skip
    half, zero = 1 if first > 0 else 0, np.int64(0)
    if own.shape[0] == 0:
        block_gradients(
            begins, columns, columns, values, g, g0 + first, g_pitch, x, x0 + first, gx, y0 + first, pitch,
            out[half], zero, outputs, rows, gi, xi, yi, parts, gj, xj, yj, last - first, False,
        )  # fmt: skip
        return
    mine = own[half]
    for c in range(0, inputs * pitch, pitch):
        mine[c : c + last - first] = 0
    block_gradients(
        begins, columns, columns, values, g, g0 + first, g_pitch, x, x0 + first, mine, zero, pitch,
        out[half], zero, outputs, rows, gi, xi, yi, parts, gj, xj, yj, last - first, False,
    )  # fmt: skip
    for c in range(0, inputs * pitch, pitch):
        gx[y0 + c + first : y0 + c + last] = mine[c : c + last - first]


@kernel
def share_block_gradients(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.blocks.block_gradients` of the numbers [first, last) of a row.

    ``out`` is ``(halves, nonzeros)``, and ``own`` is empty or ``(halves, inputs * pitch)``, for linear layers: each
    half then adds up its gradient of the input there. Halves of short rows are neighbours, and what a core fetches
    ahead for one would be taken from the core that writes to the other. Without ``own``, ``gx`` holds zeros.
    """
    share(team, threads, bounds, _block_gradients, arguments)


@kernel
def _block_gradients_by_rows(
    starts: Indices, cuts: Bounds, edges: Edges, columns: Indices, y_columns: Indices, values: Floats,
    g: Floats, g0: int, g_pitch: int, x: Floats, x0: int, gx: Floats, pitch: int, out: Floats, outputs: int,
    rows: int, gi: int, xi: int, parts: int, gj: int, xj: int, length: int, band: Band, span: int,
    room: Floats, room_pitch: int, room_across: int, inside: Inside, first: int, last: int,
) -> None:  # fmt: skip
    begins, ends = edges[np.searchsorted(cuts, first)], edges[np.searchsorted(cuts, last)]
    block_gradients_by_rows(
        starts, begins, ends, columns, y_columns, values, g, g0, g_pitch, x, x0, gx, pitch, out, outputs, first, last,
        rows, gi, xi, parts, gj, xj, length, band, span, room[first * room_pitch : last * room_pitch], room_across,
        inside,
    )  # fmt: skip


@kernel
def share_block_gradients_by_rows(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.by_rows.block_gradients_by_rows` of the input channels [first, last).

    ``edges`` has a row for each of ``cuts``: where the blocks of that channel and those behind it begin, in each row of
    blocks. ``room`` has ``room_pitch`` numbers for each channel.
    """
    share(team, threads, bounds, _block_gradients_by_rows, arguments)


@kernel
def share_batch_norm(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.norms.batch_norm`."""
    share(team, threads, bounds, batch_norm, arguments)


@kernel
def share_batch_norm_backward(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.norms.batch_norm_backward`."""
    share(team, threads, bounds, batch_norm_backward, arguments)


@kernel
def share_row_sums(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.sums.row_sums`."""
    share(team, threads, bounds, row_sums, arguments)


@kernel
def share_gated_sums(team: int, threads: int, bounds: Bounds, *arguments: Any) -> None:
    """:func:`~sparseflow.engine.kernels.gradients.gated_sums`."""
    share(team, threads, bounds, gated_sums, arguments)
