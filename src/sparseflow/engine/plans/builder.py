"""What a program consists of while it is built: images in a workspace, operations, and the tables they read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.block_simd import HEIGHT
from sparseflow.engine.layers.geometry import Frame, Loops, Window, block_table, forward_table
from sparseflow.engine.layers.pattern import Indices, Pattern, Table
from sparseflow.engine.plans import interpreter as op
from sparseflow.engine.plans.stages import Stage

Border = tuple[tuple[int, int], tuple[int, int]]
NO_BORDER: Border = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Image:
    """An activation or a gradient in the workspace."""

    channels: int
    frame: Frame
    begin: int

    @property
    def corner(self) -> int:
        """Place of pixel (0, 0) of channel 0 in the workspace."""
        return self.begin + self.frame.place(0, 0)

    @property
    def place(self) -> tuple[int, int, int]:
        """Corner, distance of channels and distance of rows, in the order of the pooling kernels' arguments."""
        return self.corner, self.frame.pitch, self.frame.width * self.frame.batch


@dataclass(frozen=True)
class Program:
    """The arguments of :func:`sparseflow.engine.plans.interpreter.run` for one size of slice."""

    operations: NDArray[np.int64]
    tables: Indices
    workspace: int
    """Size of the workspace, in numbers."""
    positions: int
    """Number of positions of maxima."""
    classes: int

    @cached_property
    def counts(self) -> dict[int, int]:
        """Where a norm's numbers begin -> the numbers of a channel."""
        norms = self.operations[self.operations[:, 0] == op.NORM]
        return {int(o[16]): int(o[11] * o[12]) for o in norms}

    @cached_property
    def work(self) -> int:
        """Multiply-adds of the forward pass."""
        total = 0
        for o in self.operations[self.operations[:, 0] == op.FORWARD]:
            begins, ends = (self.tables[at : at + o[11]] for at in o[1:3])
            total += int((ends - begins).sum() * o[12] * o[15] * o[18])
        for o in self.operations[self.operations[:, 0] == op.BLOCK_FORWARD]:
            total += HEIGHT * int(self.tables[o[1] + o[10]] * o[11] * o[14] * o[17])
        return total


@dataclass
class Step:
    """A stage with its inputs, its output and the tables that its backward pass uses again."""

    stage: Stage
    inputs: tuple[int, ...]
    """The steps that they are outputs of; -1 is the network's input."""
    xs: tuple[Image, ...]
    y: Image
    places: tuple[list[tuple[int, int]], int] = ((), 0)  # type: ignore[assignment]
    """Of its table in the program's: begins and ends of each block of columns, and the columns."""
    where: int = 0

    @property
    def x(self) -> Image:
        """The first input."""
        return self.xs[0]


@dataclass
class Builder:
    """Collects the operations, tables and images of a program for one size of slice."""

    batch: int
    itemsize: int
    operations: list[list[int]] = field(default_factory=list)
    parts: list[NDArray[Any]] = field(default_factory=list)
    table_size: int = 0
    workspace: int = 0
    positions: int = 0

    def add(self, code: int, *arguments: int) -> None:
        """Add an operation."""
        row = [code, *(int(argument) for argument in arguments)]
        self.operations.append(row + [0] * (op.ROW - len(row)))

    def image(self, channels: int, size: tuple[int, int], border: Border = NO_BORDER) -> Image:
        """Room for an image."""
        frame = Frame(size, self.batch, border)
        image = Image(channels, frame, self.workspace)
        # Whole cache lines, so that vectors do not straddle two.
        self.workspace += -(-channels * frame.pitch // 16) * 16
        return image

    def table(self, pattern: Pattern, window: Window, x: Frame) -> tuple[list[tuple[int, int]], int]:
        """Keep the table of a forward pass; its places as in :class:`Step`."""
        if pattern.block == 1:
            return self.keep_table(forward_table(pattern, window, x, self.itemsize))
        begins = self.keep(pattern.begins)
        return [(begins, begins + 1)], self.keep(block_table(pattern, window, x).columns)

    def keep_table(self, table: Table) -> tuple[list[tuple[int, int]], int]:
        """Places of the begins and ends of each block, and of the columns."""
        blocks = [(self.keep(b), self.keep(e)) for b, e in zip(table.begins, table.ends, strict=True)]
        return blocks, self.keep(table.columns)

    def keep(self, part: NDArray[Any]) -> int:
        """Keep an array among the tables; its place."""
        self.parts.append(part)
        self.table_size += len(part)
        return self.table_size - len(part)

    def finished(self) -> tuple[NDArray[np.int64], Indices]:
        """The arrays that the interpreter takes: operations and tables."""
        return (
            np.array(self.operations, np.int64),
            np.concatenate([*self.parts, np.zeros(1, np.int32)]).astype(np.int32, copy=False),
        )


def moves_of(loops: Loops) -> tuple[int, ...]:
    """The loops and what each step adds to the two places."""
    return loops.rows, loops.xi, loops.yi, loops.parts, loops.xj, loops.yj, loops.length


def rows_of(*images: Image) -> tuple[int, int, int]:
    """Channels, rows and length for a kernel that goes over all numbers."""
    return images[0].channels, *rows_of_channel(*images)


def rows_of_channel(*images: Image) -> tuple[int, int]:
    """Rows and length of one channel for a kernel that goes over its numbers; one row where there are no borders."""
    frame = images[0].frame
    if all(image.frame.border == NO_BORDER for image in images):
        return 1, frame.pitch
    return frame.size[0], frame.size[1] * frame.batch


def widest(*borders: Border) -> Border:
    """The border that has room for all of these.

    >>> widest(((0, 1), (2, 0)), NO_BORDER, ((1, 0), (0, 3)))
    ((1, 1), (2, 3))
    """
    (a, b), (c, d) = (tuple(map(max, *sides)) for sides in zip(NO_BORDER, NO_BORDER, *borders, strict=True))
    return (a, b), (c, d)


def copy(builder: Builder, source: Image, target: Image) -> None:
    """Add the copy of an image to one with another border."""
    # A mean over single pixels.
    height, width = source.frame.size
    builder.add(
        op.AVERAGE_POOL, *source.place, height, width, *target.place, source.channels, height, width,
        1, 1, 1, 1, 0, 0, builder.batch, 1,
    )  # fmt: skip
