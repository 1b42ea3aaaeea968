"""Layouts and loops: every layer as the same loops over neighbouring numbers.

An image is stored as ``(channels, height, width, batch)`` in a border of zeros, so a tap of a kernel is a fixed
distance away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import nn

from sparseflow.engine.layers.pattern import Indices, Pattern, Table, in_blocks

#: Bytes of input that the rows of one block of columns should fill: half of a second-level cache.
CACHE = 1 << 19
#: Examples that a register tile covers.
TILE = 128
#: Pixels of a max-pool's window, at most: the place of the maximum is kept as int8.
MOST_TAPS = 128


class Loops(NamedTuple):
    """The strides of a kernel over two images: see :func:`sparseflow.engine.kernels.sums.weighted_sums`."""

    x0: int
    pitch: int
    y0: int
    y_pitch: int
    rows: int
    xi: int
    yi: int
    parts: int
    xj: int
    yj: int
    length: int

    def by_rows(self, rows: int) -> Loops:
        """The same loops with this many rows of pixels, where neighbouring ones were joined."""
        if self.rows > 1:
            return self
        length = self.length // rows
        return self._replace(rows=rows, xi=length, yi=length, length=length)


@dataclass(frozen=True)
class Window:
    """Kernel size, stride, dilation and padding (before, after) of a convolution or pool, for height and width."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    def outputs(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output.

        >>> Window((5, 5), stride=(2, 2), padding=((2, 2), (2, 2))).outputs((28, 28))
        (14, 14)
        """
        return self._output(size, 0), self._output(size, 1)

    def _output(self, size: tuple[int, int], axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return (size[axis] + sum(self.padding[axis]) - reach - 1) // self.stride[axis] + 1

    def gradient_border(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """The border of zeros around the output's gradient in which every input finds each of its outputs."""
        axes = []
        for axis in (0, 1):
            reach = self.dilation[axis] * (self.kernel[axis] - 1)
            pad, stride = self.padding[axis][0], self.stride[axis]
            lowest = -((reach - pad) // stride) if reach > pad else 0
            highest = (size[axis] - 1 + pad) // stride
            axes.append((-lowest, max(0, highest - self._output(size, axis) + 1)))
        return axes[0], axes[1]


def convolution_window(layer: nn.Conv1d | nn.Conv2d) -> Window:
    """Kernel, stride, dilation and padding of a convolution; one axis is an image of height 1.

    Raises:
        ValueError: if it pads with anything but zeros.
    """
    if layer.padding_mode != "zeros":
        raise ValueError(
            f"the sparse engine pads with zeros, got padding_mode={layer.padding_mode!r}; keep the layer masked."
        )
    if layer.padding == "valid":
        sides = [(0, 0) for _ in layer.kernel_size]
    elif layer.padding == "same":  # the odd one after, as torch does
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in reach]
    else:
        sides = [(int(p), int(p)) for p in layer.padding]
    padding = (sides[0] if len(sides) == 2 else (0, 0), sides[-1])
    return Window(_two(layer.kernel_size), _two(layer.stride), _two(layer.dilation), padding)


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    return (1 if len(numbers) == 1 else numbers[0], numbers[-1])


def pool_window(pool: nn.MaxPool2d | nn.AvgPool2d) -> Window:
    """Kernel, stride, dilation and padding of a pool."""
    dilation = pair(pool.dilation) if isinstance(pool, nn.MaxPool2d) else (1, 1)
    top, left = pair(pool.padding)
    return Window(pair(pool.kernel_size), pair(pool.stride), dilation, ((top, top), (left, left)))


def pool_divisor(pool: nn.AvgPool2d) -> int:
    """The divisor of an average pool, see :func:`sparseflow.engine.kernels.pooling.average_pool`."""
    return pool.divisor_override or (math.prod(pair(pool.kernel_size)) if pool.count_include_pad else 0)


def pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """Down and across, from one number for both or from two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@dataclass(frozen=True)
class Frame:
    """An image in a border of zeros, the batch innermost: ``(channels, height + border, width + border, batch)``."""

    size: tuple[int, int]
    batch: int
    border: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @property
    def height(self) -> int:
        """Rows of pixels, with the border."""
        return self.size[0] + sum(self.border[0])

    @property
    def width(self) -> int:
        """Pixels of a row, with the border."""
        return self.size[1] + sum(self.border[1])

    @property
    def pitch(self) -> int:
        """Numbers from one channel to the next."""
        return self.height * self.width * self.batch

    def place(self, y: int, x: int) -> int:
        """Where pixel (y, x) of a channel begins; negative coordinates are in the border."""
        return ((y + self.border[0][0]) * self.width + x + self.border[1][0]) * self.batch


def _loops(
    x: Frame, y: Frame, x0: int, y0: int, counts: tuple[int, int], xs: tuple[int, int], ys: tuple[int, int]
) -> Loops:
    """Loops over ``counts`` pixels, ``xs`` and ``ys`` pixels apart; neighbouring ones are joined into longer rows."""
    n = x.batch
    rows, xi, yi = counts[0], xs[0] * x.width * n, ys[0] * y.width * n
    parts, xj, yj, length = counts[1], xs[1] * n, ys[1] * n, n
    if xj == yj == length or parts == 1:
        parts, length = 1, length * parts
    if parts == 1 and (xi == yi == length or rows == 1):
        rows, length = 1, length * rows
    return Loops(x0, n, y0, y.pitch, rows, xi, yi, parts, xj, yj, length)


def forward_loops(window: Window, x: Frame, y: Frame) -> Loops:
    """Loops from each output pixel in ``y`` to the first tap of its window in ``x``, whose border holds the padding."""
    corner = x.place(-window.padding[0][0], -window.padding[1][0])
    return _loops(x, y, corner, y.place(0, 0), y.size, window.stride, (1, 1))


def forward_table(pattern: Pattern, window: Window, x: Frame, itemsize: int = 4) -> Table:
    """The places in ``x`` of the taps of each output channel, one by one.

    Raises:
        ValueError: if the image is too large for int32.
    """
    pattern = pattern.one_by_one()
    columns = columns_in(pattern, window, x)
    block = max(TILE, CACHE // (min(TILE, x.batch) * itemsize))
    if math.prod(window.kernel) * x.height * x.width > 1:
        block = pattern.inputs  # neighbouring pixels are read too: columns are not cut
    return in_blocks(pattern.begins, columns, None, num_columns=pattern.inputs, block=block)


def block_table(pattern: Pattern, window: Window, x: Frame) -> Table:
    """The places in ``x`` of the taps of each row of blocks; arguments and errors as :func:`forward_table`."""
    return Table(pattern.begins[None, :-1], pattern.begins[None, 1:], columns_in(pattern, window, x))


def columns_in(pattern: Pattern, window: Window, x: Frame) -> Indices:
    """The place in ``x`` of each index's tap, over the batch: the indices themselves where an image is one pixel.

    Raises:
        ValueError: if the image is too large for int32.
    """
    check_reach(pattern.inputs * x.height * x.width)
    kernel_size = math.prod(window.kernel)
    own = input_channels(pattern, kernel_size)
    if kernel_size == 1:
        return own if x.height * x.width == 1 else own * (x.height * x.width)
    tap = pattern.indices % kernel_size
    dy, dx = tap // window.kernel[1] * window.dilation[0], tap % window.kernel[1] * window.dilation[1]
    return ((own * x.height + dy) * x.width + dx).astype(np.int32, copy=False)


def input_channels(pattern: Pattern, kernel_size: int) -> Indices:
    """The input channel of each index."""
    own = pattern.indices if kernel_size == 1 else pattern.indices // kernel_size
    if pattern.groups > 1:
        own = own + pattern.block_rows // (pattern.outputs // pattern.block // pattern.groups) * pattern.shape[1]
    return own


def check_reach(places: int) -> None:
    """Raise ``ValueError`` if int32 columns cannot count the places of an image."""
    if places >= 2**31:
        raise ValueError(f"an image of {places} places is more than the engine's int32 columns can reach; use masks.")
