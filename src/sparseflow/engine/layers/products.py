"""The products of a sparse layer with activations, for one size of input: forward, and the two gradients."""

from __future__ import annotations

import math
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.engine.kernels.by_rows import Band
from sparseflow.engine.kernels.passes import (
    share_block_dots,
    share_block_gradients,
    share_block_gradients_by_rows,
    share_block_sums,
    share_block_sums_by_rows,
    share_block_vector_product,
    share_column_gradients,
    share_column_gradients_by_rows,
    share_dots,
    share_gated_sums,
    share_row_sums,
    share_sums,
    share_sums_by_rows,
    share_vector_product,
)
from sparseflow.engine.layers.cover import cover_if_faster
from sparseflow.engine.layers.geometry import (
    CACHE,
    TILE,
    Frame,
    Loops,
    Window,
    block_table,
    columns_in,
    forward_loops,
    forward_table,
    input_channels,
)
from sparseflow.engine.layers.gradient_geometry import GradientLoops, block_gradient_loops, gradient_passes
from sparseflow.engine.layers.memory import shared_pool
from sparseflow.engine.layers.pattern import Indices, Pattern, Table
from sparseflow.engine.layers.threads import evenly, halves, over_outputs, over_ranges, threads_for

Floats = NDArray[Any]
#: Bytes of an input that leave the second-level cache before a window comes back to them.
_LARGE = 1 << 22
#: Numbers of a row from which its halves are far enough apart for two threads to write them.
_LONG = 1 << 10
#: The floor of a layer without a ReLU.
NO_FLOOR = float("-inf")


class Product:
    """The pattern of a layer at one input size: frames, tables and loops, made once and used at every step.

    Activations are flat tensors that hold ``(channels, height + border, width + border, batch)``: input and output in
    the frames ``x`` and ``y``, their gradients in ``gx`` and ``g``. The forward pass gathers inputs, output by output.
    The backward pass gathers gradients of outputs, input by input, which needs a border around those; a pattern in
    blocks scatters into the gradient of the input instead, which needs one around that.

    Values and their gradients are those of the pattern's active weights. A pattern that is nearly dense is computed by
    its cover, see :mod:`sparseflow.engine.layers.cover`, and ``pattern`` is then that.

    Args:
        window: Of its convolution; a linear layer is a 1 x 1 convolution of one pixel.
        size: Height and width of the input.
        itemsize: Bytes of a number.

    >>> pattern = Pattern.of(torch.tensor([[True, False, True]]))
    >>> product = Product(pattern, Window(), (1, 1), batch=2, itemsize=4)
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # three inputs, two examples
    >>> product.forward(torch.tensor([10.0, 1.0]), None, x)
    tensor([15., 26.])
    """

    def __init__(self, pattern: Pattern, window: Window, size: tuple[int, int], batch: int, itemsize: int) -> None:
        self.window = window
        self.itemsize = itemsize
        self.dtype = torch.float32 if itemsize == 4 else torch.float64
        self.x = Frame(size, batch, window.padding)
        self.y = Frame(window.outputs(size), batch)
        self.cover = cover_if_faster(pattern, forward_loops(window, self.x, self.y).length, itemsize)
        self.pattern = pattern = pattern if self.cover is None else self.cover.pattern
        self.in_blocks = pattern.block > 1
        self.g = self.y if self.in_blocks else Frame(self.y.size, batch, window.gradient_border(size))
        self.memory = shared_pool()
        self.work = pattern.num_active * self.y.pitch
        """Multiply-adds of one product."""
        large = pattern.inputs * self.x.pitch * itemsize > _LARGE
        self.by_rows = window.kernel != (1, 1) and (large or self.in_blocks)
        """Whether kernels take an image in strips and ask for what a strip meets before they compute with it."""
        self.gx = self.x if self.in_blocks and not self.by_rows else Frame(size, batch)

    @cached_property
    def table(self) -> Table:
        """The inputs of each output, or of each row of blocks."""
        if self.in_blocks:
            return block_table(self.pattern, self.window, self.x)
        return forward_table(self.pattern, self.window, self.x, self.itemsize)

    @cached_property
    def _forward(self) -> Loops:
        loops = forward_loops(self.window, self.x, self.y)
        return loops.by_rows(self.y.size[0]) if self.by_rows else loops

    @cached_property
    def backward(self) -> list[tuple[Table, GradientLoops]]:
        """The tables and loops of both gradients: one for blocks, else one for each phase of the stride."""
        if self.in_blocks:
            passes = [(self.table, block_gradient_loops(self.window, self.x, self.x, self.g))]
        else:
            passes = gradient_passes(self.pattern, self.window, self.x, self.gx, self.g, self.itemsize)
        if not self.by_rows or not (self.in_blocks or self.window.stride == (1, 1)):
            return passes
        rows = self.y.size[0] if self.in_blocks else self.gx.size[0]
        return [(table, loops.by_rows(rows)) for table, loops in passes]

    @cached_property
    def _x_band(self) -> Band:
        down, right = (d * (k - 1) for d, k in zip(self.window.dilation, self.window.kernel, strict=True))
        across = self.x.width * self.x.batch
        return self.pattern.inputs, self.x.pitch, across, down + 1, self.window.stride[0], right * self.x.batch

    @cached_property
    def _g_band(self) -> Band:
        down, right = (
            d * (k - 1) // s
            for d, k, s in zip(self.window.dilation, self.window.kernel, self.window.stride, strict=True)
        )
        return self.pattern.outputs, self.g.pitch, self.g.width * self.g.batch, down + 1, 1, right * self.g.batch

    def _span(self, parts: int, length: int, rows: int) -> int:
        """Numbers of a row that a strip is wide, if its kernel meets this many rows of pixels of single channels."""
        if parts > 1:
            return length
        return max(TILE, CACHE // (rows * self.itemsize) // TILE * TILE)

    @cached_property
    def _channels(self) -> tuple[Table, NDArray[np.int64]]:
        """The blocks of each input channel, in number, and of each block its row and channel as one ascending key."""
        own = input_channels(self.pattern, math.prod(self.window.kernel))
        counts = np.bincount(own, minlength=self.pattern.inputs)
        edges = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        key = self.pattern.block_rows.astype(np.int64) * self.pattern.inputs + own
        return Table(edges[None, :-1], edges[None, 1:], own), key

    @cached_property
    def _single(self) -> bool:
        """One example of a linear layer: neighbours in memory are units, not examples."""
        moves = self._forward
        return moves.length == moves.rows == moves.parts == moves.pitch == moves.y_pitch == len(self.table.begins) == 1

    @cached_property
    def _vector_product(self) -> tuple[Any, ...]:
        """What :func:`over_outputs` takes for one example, up to the values."""
        table = self.table
        if self.in_blocks:
            return share_block_vector_product, table, self.work, self.pattern.begins, table.short_columns
        return share_vector_product, table, self.work, table.begins[0], table.ends[0], table.short_columns

    def _dots(self, g: Frame) -> tuple[tuple[Loops, ...], int]:
        """Loops of the weight gradient, and the rows to take at a time so that their input stays in the cache."""
        loops = forward_loops(self.window, self.x, g)
        room = max(1, CACHE // (self.pattern.inputs * self.itemsize))
        if loops.rows > 1:
            return (loops,), max(1, room // loops.xi)
        chunk = max(TILE, room // TILE * TILE)
        whole, rest = divmod(loops.length, chunk)
        if loops.parts > 1 or whole < 2:
            return (loops,), 1
        first = loops._replace(rows=whole, xi=chunk, yi=chunk, length=chunk)
        shift = whole * chunk
        last = loops._replace(x0=loops.x0 + shift, y0=loops.y0 + shift, length=rest)
        return ((first, last) if rest else (first,)), 1

    @cached_property
    def _gradient_loops(self) -> dict[Frame, tuple[tuple[tuple[Loops, ...], int], Loops]]:
        """For a gradient with and without a border: loops of the weights' and of the biases' gradient."""
        return {g: (self._dots(g), forward_loops(Window(), g, g)) for g in (self.y, self.g)}

    def computed(self, values: Tensor) -> Floats:
        """The values of ``pattern``, from those of the active weights."""
        return (values.detach() if self.cover is None else self.cover.spread(values)).numpy()

    def stored(self, parts: Tensor) -> Tensor:
        """The gradient of the active weights, from the parts of that of the values of ``pattern``: one a row."""
        gradient = sum_of(list(parts))
        return gradient if self.cover is None else self.cover.gathered(gradient)

    def gradients_of_values(self, copies: int) -> Tensor:
        """Room for ``(copies, values of pattern)``; for a cover it is no longer needed when :meth:`stored` is done."""
        count = copies * self.pattern.num_active
        room = torch.empty(count, dtype=self.dtype) if self.cover is None else self.memory.empty(count, self.dtype)
        return room.view(copies, -1)

    def forward(self, values: Tensor, bias: Tensor | None, x: Tensor, *, floor: float = NO_FLOOR) -> Tensor:
        """``max(floor, W x + b)``, from frame ``x`` to frame ``y``; a ``floor`` of 0 is a ReLU."""
        y = self.memory.empty(self.pattern.outputs * self.y.pitch, self.dtype)
        w, xs, ys = self.computed(values), x.numpy(), y.numpy()
        start = w[:0] if bias is None else bias.detach().numpy()
        table, loops = self.table, self._forward
        if self._single:
            over_outputs(*self._vector_product, w, start, xs, ys, floor)
        elif self.in_blocks:
            x0, pitch, y0, y_pitch, *moves = loops
            arguments = self.pattern.begins, table.columns, w, start, xs, x0, pitch, ys, y0, y_pitch, *moves, floor
            if self.by_rows:
                over_outputs(share_block_sums_by_rows, table, self.work, *arguments, self._x_band, self._forward_span)
            else:
                over_outputs(share_block_sums, table, self.work, *arguments)
        elif self.by_rows:
            x0, pitch, y0, y_pitch, *moves = loops
            over_outputs(
                share_sums_by_rows, table, self.work, table.begins[0], table.ends[0], table.columns, w, start, xs, x0,
                pitch, ys, y0, y_pitch, *moves, floor, self._x_band, self._forward_span,
            )  # fmt: skip
        else:
            arguments = table.begins, table.ends, table.columns, w, start, xs, ys, loops, floor
            over_outputs(share_sums, table, self.work, *arguments)
        return y

    @property
    def _forward_span(self) -> int:
        moves = self._forward
        return self._span(moves.parts, moves.length, self.pattern.inputs * self._x_band[3] + self.pattern.outputs)

    def gradients(self, values: Tensor, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """``W^T g`` in frame ``gx``, and the gradient of each active weight: both from one pass over ``g``."""
        both = self._scatter if self.in_blocks else self._gather
        gx, parts = both(self.computed(values), x.numpy(), g.numpy())
        return gx, self.stored(parts)

    def _scatter(self, w: Floats, x: Floats, g: Floats) -> tuple[Tensor, Tensor]:
        ((table, loops),) = self.backward
        gx = self.memory.empty(self.pattern.inputs * self.gx.pitch, self.dtype)
        if self.by_rows:
            return gx, self._scatter_by_rows(loops, w, x, g, gx.numpy())
        gxs, (*moves, length) = gx.numpy(), loops.moves
        bounds = halves(length, 2 * self.work)
        outs = self.gradients_of_values(len(bounds) - 1)
        count = len(gxs) if self.gx.pitch == self.x.batch < _LONG and threads_for(2 * self.work, len(outs)) > 1 else 0
        own = self.memory.empty(len(outs) * count, self.dtype).view(-1, count) if count else gx.zero_().view(1, -1)[:0]
        over_ranges(
            share_block_gradients, bounds, 2 * self.work, self.pattern.begins, table.columns, w, g, loops.g0,
            self.g.pitch, x, loops.x0, gxs, loops.y0, self.x.batch, outs.numpy(), table.outputs, own.numpy(),
            self.pattern.inputs, *moves,
        )  # fmt: skip
        return gx, outs

    @cached_property
    def _strip(self) -> tuple[int, Frame, Indices]:
        """Of the input's gradient: a strip's numbers, its frame of whole pixels, and the places of blocks in it."""
        ((_, loops),) = self.backward
        batch, rows, beside = self.x.batch, self._x_band[3], self._x_band[5]
        _, _, _, _, parts, _, xj, _, length = loops.moves
        span = self._span(parts, length, 2 * self.pattern.inputs * rows + self.pattern.outputs)
        width = -(-(min(span, length) + (parts - 1) * xj + beside) // batch)
        frame = Frame((rows, width), batch)
        return span, frame, columns_in(self.pattern, self.window, frame)

    def _scatter_by_rows(self, loops: GradientLoops, w: Floats, x: Floats, g: Floats, gx: Floats) -> Tensor:
        pattern, batch, (channels, key) = self.pattern, self.x.batch, self._channels
        span, strip, y_columns = self._strip
        outs, rows = self.gradients_of_values(1), np.arange(len(pattern.begins) - 1)
        out = outs.view(-1).numpy()
        count, gi, xi, _, parts, gj, xj, _, length = loops.moves
        (top, _), (left, _) = self.window.padding
        inside = (top, left * batch, self.gx.height, self.gx.width * batch)
        if not self._meets_all:
            gx[:] = 0

        # Taps reach into other parts of the image, but not into other channels.
        cuts = channels.cuts(threads_for(2 * self.work, channels.outputs))
        edges = np.searchsorted(key, rows * pattern.inputs + cuts[:, None]).astype(np.int32)
        room = self.memory.empty(pattern.inputs * strip.pitch, self.dtype)
        over_ranges(
            share_block_gradients_by_rows, cuts, 2 * self.work, pattern.begins, cuts, edges, self.table.columns,
            y_columns, w, g, loops.g0, self.g.pitch, x, loops.x0, gx, batch, out, len(rows), count, gi, xi,
            parts, gj, xj, length, self._x_band, span, room.numpy(), strip.pitch, strip.width * batch, inside,
        )  # fmt: skip
        return outs

    @cached_property
    def _meets_all(self) -> bool:
        """Whether each pixel of the input is in a window."""
        window = self.window
        return all(
            stride <= dilation * (kernel - 1) + 1
            and (self.x.size[axis] + sum(window.padding[axis]) - dilation * (kernel - 1) - 1) % stride == 0
            for axis, (kernel, stride, dilation) in enumerate(
                zip(window.kernel, window.stride, window.dilation, strict=True)
            )
        )

    def _gather(self, w: Floats, x: Floats, g: Floats) -> tuple[Tensor, Tensor]:
        gx = self.memory.empty(self.pattern.inputs * self.gx.pitch, self.dtype)
        # What no input meets has no phase, and a gradient of zero.
        all_meet = sum(len(table.columns) for table, _ in self.backward) == len(self.pattern.indices)
        out = self.copies_of_gradient(self.backward[0][0], zeros=not all_meet)
        gxs, outs = gx.numpy(), out.numpy()
        for table, loops in self.backward:
            cuts = table.cuts(len(outs))
            for block, (begins, ends) in enumerate(zip(table.begins, table.ends, strict=True)):
                arguments = (
                    begins, ends, table.columns, table.order, w, g, loops.g0, self.g.batch, x, loops.x0, self.x.pitch,
                    gxs, loops.y0, self.gx.pitch,
                )  # fmt: skip
                if self.by_rows:
                    met = self.pattern.outputs * self._g_band[3] + 2 * self.pattern.inputs
                    span = self._span(loops.moves[4], loops.moves[8], met)
                    more = outs[0], *loops.moves, self._g_band, span
                    over_outputs(share_column_gradients_by_rows, table, 2 * self.work, *arguments, *more)
                else:
                    over_outputs(
                        share_column_gradients, table, 2 * self.work, *arguments, outs, cuts, *loops.moves, block > 0,
                        False,
                    )  # fmt: skip
        return gx, out

    def copies_of_gradient(self, table: Table, *, zeros: bool = False) -> Tensor:
        """``(copies, nonzeros)``, one for each range of inputs that a thread takes, if they are small; else one.

        Their sum is the gradient: where a copy is not written it holds -0, which changes no bit.
        """
        count = self.pattern.num_active
        threads = threads_for(2 * self.work, table.outputs)
        if threads == 1 or self.by_rows or count * self.itemsize > CACHE:
            return (torch.zeros if zeros else torch.empty)(count, dtype=self.dtype).view(1, -1)
        return torch.empty(threads * count, dtype=self.dtype).fill_(-0.0).view(threads, -1)

    def weight_gradient(self, x: Tensor, g: Tensor, frame: Frame) -> Tensor:
        """The gradient of each active weight, ``(nonzeros,)``; ``frame`` is that of ``g``: ``y`` or ``g``."""
        out = torch.zeros(self.pattern.num_active, dtype=self.dtype)
        gs, xs, outs, table = g.numpy(), x.numpy(), out.numpy(), self.table
        loops, rows = self._gradient_loops[frame][0]
        if not self.in_blocks:
            arguments = table.begins, table.ends, table.columns, gs, xs, outs, loops, rows
            over_outputs(share_dots, table, self.work, *arguments)
            return out
        for x0, pitch, g0, g_pitch, ni, xi, gi, nj, xj, gj, length in loops:
            over_outputs(
                share_block_dots, table, self.work, self.pattern.begins, table.columns, gs, g0, g_pitch, xs, x0, pitch,
                outs, ni, gi, xi, nj, gj, xj, length, True,
            )  # fmt: skip
        return self.stored(out.view(1, -1))

    def bias_gradient(self, g: Tensor, frame: Frame) -> Tensor:
        """The sum of the gradient over pixels and examples, ``(outputs,)``; arguments as :meth:`weight_gradient`."""
        out = torch.zeros(self.pattern.outputs, dtype=g.dtype)
        loops = self._gradient_loops[frame][1]
        over_ranges(
            share_row_sums, evenly(len(out), len(g)), len(g), g.numpy(), loops.x0, frame.pitch, out.numpy(),
            loops.rows, loops.xi, loops.parts, loops.xj, loops.length,
        )  # fmt: skip
        return out

    def gate_(self, g: Tensor, y: Tensor, frame: Frame) -> Tensor:
        """Make ``g`` zero where the output ``y`` of a ReLU is, and return the :meth:`bias_gradient` of what remains."""
        out = torch.zeros(self.pattern.outputs, dtype=g.dtype)
        loops = forward_loops(Window(), self.y, frame)
        over_ranges(
            share_gated_sums, evenly(len(out), len(g)), len(g), y.numpy(), loops.x0, self.y.pitch, loops.xi, g.numpy(),
            loops.y0, frame.pitch, loops.yi, out.numpy(), loops.rows, loops.length,
        )  # fmt: skip
        return out


def sum_of(parts: list[Tensor]) -> Tensor:
    """The sum of tensors in their order, in the first of them."""
    for part in parts[1:]:
        parts[0] += part
    return parts[0]


@cache
def warm_up(dtype: torch.dtype, block: int) -> None:
    """Compile the kernels of a layer whose pattern has this ``block``, or read them from disk."""
    pattern = Pattern.of(torch.ones(block, 1, dtype=torch.bool))
    for batch in (1, 2):
        product = Product(pattern, Window(), (1, 1), batch, dtype.itemsize)
        values, x, g = (torch.ones(size, dtype=dtype) for size in (block, batch, block * batch))
        y = product.forward(values, values, x)
        product.gradients(values, x, g)
        product.weight_gradient(x, g, product.y)
        product.bias_gradient(g, product.y)
        product.gate_(g, y, product.y)
