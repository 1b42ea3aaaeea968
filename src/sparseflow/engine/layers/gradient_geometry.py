"""Loops and tables of a backward pass: over the inputs' pixels for single weights, over the outputs' for blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sparseflow.engine.layers.geometry import TILE, Frame, Window, check_reach, input_channels
from sparseflow.engine.layers.pattern import Indices, Pattern, Table, sorted_by, transposed

Pair = tuple[int, int]
#: Bytes of the output's gradient that an input should meet at a time: they share a second-level cache with the weights,
#: their gradients, and the inputs and gradients that stream through.
MET = 1 << 17


class GradientLoops(NamedTuple):
    """Where the output's gradient, the input and the input's gradient begin, and what each step adds to the places.

    See :func:`sparseflow.engine.kernels.gradients.column_gradients`.
    """

    g0: int
    x0: int
    y0: int
    moves: tuple[int, int, int, int, int, int, int, int, int]
    """rows, gi, xi, yi, parts, gj, xj, yj, length"""

    def by_rows(self, rows: int) -> GradientLoops:
        """The same loops with this many rows of pixels, where neighbouring ones were joined."""
        joined, *_, whole = self.moves
        if joined > 1:
            return self
        length = whole // rows
        return self._replace(moves=(rows, length, length, length, *self.moves[4:8], length))


def _loops(counts: Pair, *walks: tuple[Frame, Pair, Pair]) -> GradientLoops:
    """Loops over ``counts`` pixels of three frames, each with its first pixel and the pixels from one to the next.

    Neighbouring pixels are joined into longer rows where they are neighbours in all frames.
    """
    length = walks[0][0].batch
    rows, downs = counts[0], [step[0] * frame.width * length for frame, _, step in walks]
    parts, rights = counts[1], [step[1] * length for _, _, step in walks]
    if parts == 1 or all(right == length for right in rights):
        parts, length = 1, length * parts
    if parts == 1 and (rows == 1 or all(down == length for down in downs)):
        rows, length = 1, length * rows
    g0, x0, y0 = (frame.place(*first) for frame, first, _ in walks)
    return GradientLoops(g0, x0, y0, (rows, *downs, parts, *rights, length))  # type: ignore[arg-type]


def block_gradient_loops(window: Window, x: Frame, gx: Frame, g: Frame) -> GradientLoops:
    """Loops over the outputs' pixels to the first tap of their windows; ``x`` and ``gx`` have room for the padding."""
    corner = (-window.padding[0][0], -window.padding[1][0])
    return _loops(g.size, (g, (0, 0), (1, 1)), (x, corner, window.stride), (gx, corner, window.stride))


def gradient_passes(
    pattern: Pattern, window: Window, x: Frame, gx: Frame, g: Frame, itemsize: int = 4
) -> list[tuple[Table, GradientLoops]]:
    """The output gradients that each input channel meets: one table for each phase of the stride.

    Input pixels whose padded position has the same remainder by the stride meet the same taps of the kernel, so within
    a phase the input gradient is a weighted sum like the forward pass, by the transposed pattern; and the gradient of a
    weight is a dot product over the same pixels.

    Args:
        x, gx, g: Frames of the input, of its gradient, and of the output's gradient, which has at least the border that
            :meth:`Window.gradient_border` gives.

    Raises:
        ValueError: if the image is too large for int32.
    """
    pattern = pattern.one_by_one()
    kernel_size = math.prod(window.kernel)
    own = input_channels(pattern, kernel_size)
    tap = pattern.indices % kernel_size
    check_reach(pattern.outputs * g.height * g.width)
    if kernel_size == 1 and window.stride == (1, 1) and x.size == (1, 1):
        block = max(TILE, MET // (min(TILE, x.batch) * itemsize))
        sizes = {"num_inputs": pattern.inputs, "num_rows": pattern.outputs, "block": block}
        table = transposed(pattern.rows, own, **sizes)
        pixel = ((0, 0), (1, 1))
        return [(table, _loops((1, 1), (g, *pixel), (x, *pixel), (gx, *pixel)))]
    taps = (tap // window.kernel[1] * window.dilation[0], tap % window.kernel[1] * window.dilation[1])
    phases = []
    for ry in range(window.stride[0]):
        for rx in range(window.stride[1]):
            meets = (taps[0] % window.stride[0] == ry) & (taps[1] % window.stride[1] == rx)
            which = None if bool(meets.all()) else np.flatnonzero(meets).astype(np.int32)
            phases.append(_phase(pattern, window, (x, gx, g), (ry, rx), own, taps, which))
    return [phase for phase in phases if phase is not None]


def _phase(
    pattern: Pattern, window: Window, frames: tuple[Frame, Frame, Frame], remainder: Pair,
    own: Indices, taps: tuple[Indices, Indices], which: Indices | None,
) -> tuple[Table, GradientLoops] | None:  # fmt: skip
    x, gx, g = frames
    first, counts, shifts = [0, 0], [0, 0], []
    for axis in (0, 1):
        pad, stride = window.padding[axis][0], window.stride[axis]
        first[axis] = (remainder[axis] - pad) % stride
        counts[axis] = max(0, -(-(x.size[axis] - first[axis]) // stride))
        shift = (first[axis] + pad - (taps[axis] if which is None else taps[axis][which])) // stride
        shifts.append(shift + g.border[axis][0])
    if 0 in counts:
        return None
    rows = pattern.rows if which is None else pattern.rows[which]
    begins, order = sorted_by((own if which is None else own[which]).astype(np.int32), pattern.inputs)
    columns = ((rows * g.height + shifts[0]) * g.width + shifts[1]).astype(np.int32)[order]
    table = Table(begins[None, :-1], begins[None, 1:], columns, order if which is None else which[order])
    begin, step = (first[0], first[1]), window.stride
    # The shifts hold where the gradient begins.
    corner = (-g.border[0][0], -g.border[1][0])
    return table, _loops((counts[0], counts[1]), (g, corner, (1, 1)), (x, begin, step), (gx, begin, step))
