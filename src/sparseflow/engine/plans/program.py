"""The table that the interpreter runs, built from a chain of stages and a batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.layers.geometry import (
    CACHE,
    MOST_TAPS,
    Frame,
    Loops,
    Window,
    backward,
    forward_loops,
    forward_table,
)
from sparseflow.engine.layers.pattern import Indices, Table
from sparseflow.engine.plans import interpreter as op
from sparseflow.engine.plans.stages import AveragePool, Flatten, MaxPool, Rectify, Stage, Weighted

Border = tuple[tuple[int, int], tuple[int, int]]
_NONE: Border = ((0, 0), (0, 0))


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
    order: Indices
    """``transposed[k]`` is ``values[order[k]]``."""
    workspace: int
    """Size of the workspace, in numbers."""
    positions: int
    """Number of positions of maxima."""
    classes: int

    @cached_property
    def work(self) -> int:
        """Multiply-adds of the forward pass."""
        total = 0
        for o in self.operations[self.operations[:, 0] == op.FORWARD]:
            begins, ends = (self.tables[at : at + o[11]] for at in o[1:3])
            total += int((ends - begins).sum() * o[12] * o[15] * o[18])
        return total


@dataclass
class _Step:
    """A stage with its input, its output and the tables that its backward pass uses again."""

    stage: Stage
    x: Image
    y: Image
    tables: tuple[list[tuple[int, int]], int] = ((), 0)  # type: ignore[assignment]
    where: int = 0


@dataclass
class _Builder:
    batch: int
    itemsize: int
    operations: list[list[int]] = field(default_factory=list)
    parts: list[NDArray[Any]] = field(default_factory=list)
    orders: list[NDArray[Any]] = field(default_factory=list)
    table_size: int = 0
    order_size: int = 0
    workspace: int = 0
    positions: int = 0

    def add(self, code: int, *arguments: int) -> None:
        row = [code, *(int(argument) for argument in arguments)]
        self.operations.append(row + [0] * (op.ROW - len(row)))

    def image(self, channels: int, size: tuple[int, int], border: Border = _NONE) -> Image:
        frame = Frame(size, self.batch, border)
        image = Image(channels, frame, self.workspace)
        # Whole cache lines, so that vectors do not straddle two.
        self.workspace += -(-channels * frame.pitch // 16) * 16
        return image

    def table(self, table: Table) -> tuple[list[tuple[int, int]], int]:
        """Places of the begins and ends of each block, and of the columns."""
        blocks = [(self._keep(b), self._keep(e)) for b, e in zip(table.begins, table.ends, strict=True)]
        return blocks, self._keep(table.columns)

    def _keep(self, part: NDArray[Any]) -> int:
        self.parts.append(part)
        self.table_size += len(part)
        return self.table_size - len(part)

    def finished(self) -> tuple[NDArray[np.int64], Indices, Indices]:
        """The arrays that the interpreter takes: operations, tables, and the order of the transposed values."""
        return (
            np.array(self.operations, np.int64),
            np.concatenate([*self.parts, np.zeros(1, np.int32)]).astype(np.int32, copy=False),
            np.concatenate([*self.orders, np.zeros(0, np.int32)]).astype(np.int32, copy=False),
        )

    def transposed(self, table: Table, first_value: int) -> int:
        """The place of the values of a transposed table."""
        assert table.order is not None
        self.orders.append(table.order + np.int32(first_value))
        self.order_size += len(table.order)
        return self.order_size - len(table.order)


def build_program(
    stages: Sequence[Stage], begins: Sequence[int], shape: tuple[int, ...], *, batch: int, itemsize: int, training: bool
) -> Program:
    """The table of a chain at one batch size.

    Args:
        stages: Of the chain.
        begins: Where the values of each weighted stage begin; its biases follow them.
        shape: Of one example, without the batch: ``(features,)``, ``(channels, length)`` or
            ``(channels, height, width)``.
        batch: Examples of a slice.
        itemsize: Bytes of a number.
        training: With loss and gradients; else it ends with the logits.

    Raises:
        ValueError: if the shape does not fit the chain.
    """
    builder = _Builder(batch, itemsize)
    values = dict(zip((i for i, stage in enumerate(stages) if isinstance(stage, Weighted)), begins, strict=True))
    steps, last = _forward(builder, stages, values, shape)
    if last.frame.size != (1, 1):
        raise ValueError(
            f"the chain must end with logits (batch, classes), it ends with {last.channels} channels of "
            f"{last.frame.size}. Add nn.Flatten() and nn.Linear."
        )
    if training:
        _backward(builder, steps, values, last)
    else:
        builder.add(op.GIVE_LOGITS, last.corner, last.channels)
    return Program(*builder.finished(), builder.workspace, builder.positions, last.channels)


def build_halves(
    stages: Sequence[Stage], begins: Sequence[int], shape: tuple[int, ...], *, batch: int, itemsize: int,
    inner: bool, input_gradient: bool,
) -> tuple[Program, Program, Image]:  # fmt: skip
    """Forward and backward pass of a chain as two programs on one workspace, for autograd.

    Args:
        inner: Whether the input has the batch innermost; else it is transposed on the way in.
        input_gradient: Whether the backward pass ends with the gradient of the input.

    The others as :func:`build_program`.

    Returns: both programs, and the output, which has the batch innermost as all gradients have.
    """
    builder = _Builder(batch, itemsize)
    values = dict(zip((i for i, stage in enumerate(stages) if isinstance(stage, Weighted)), begins, strict=True))
    steps, last = _forward(builder, stages, values, shape, inner=inner)
    builder.add(op.GIVE, *last.place, last.channels, *last.frame.size)
    split = len(builder.operations)
    _backward(builder, steps, values, last, halves=True, input_gradient=input_gradient)
    operations, tables, order = builder.finished()
    sizes = (builder.workspace, builder.positions, last.channels)
    forward = Program(operations[:split], tables, order[:0], *sizes)
    return forward, Program(operations[split:], tables, order, *sizes), last


def _forward(
    builder: _Builder, stages: Sequence[Stage], values: dict[int, int], shape: tuple[int, ...], *, inner: bool = False
) -> tuple[list[_Step], Image]:
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"one example must have 1 to 3 axes, got shape {shape}.")
    size = (*(1,) * (3 - len(shape)), *shape[1:])
    x = builder.image(shape[0], (size[-2], size[-1]), _border(stages, 0))
    head = (op.TAKE,) if inner else (op.TAKE_IMAGES, int(np.prod(shape)))
    builder.add(*head, *x.place, x.channels, *x.frame.size, builder.batch)
    axes = len(shape) - 1
    steps = []
    for i, stage in enumerate(stages):
        axes = _check_shape(stage, x, axes)
        step = _Step(stage, x, x)
        border = _border(stages, i + 1)
        match stage:
            case Weighted():
                table = forward_table(stage.pattern, stage.window, x.frame, builder.itemsize)
                step.y = builder.image(stage.pattern.outputs, stage.window.outputs(x.frame.size), border)
                step.tables = builder.table(table)
                bias = (values[i] + stage.pattern.num_active, stage.pattern.outputs if stage.bias else 0)
                _sums(builder, op.FORWARD, stage.window, step, values[i], bias, relu=stage.relu)
            case MaxPool() | AveragePool():
                step.y = builder.image(x.channels, stage.window.outputs(x.frame.size), border)
                step.where = builder.positions
                _pool(builder, step)
            case Rectify():
                step.y = builder.image(x.channels, x.frame.size, border)
                builder.add(op.RELU, *x.place, *step.y.place, *_rows(x, step.y))
            case Flatten():
                step.y = _flat(x)
        steps.append(step)
        x = step.y
    return steps, x


def _border(stages: Sequence[Stage], consumer: int) -> Border:
    stage = stages[consumer] if consumer < len(stages) else None
    return stage.window.padding if isinstance(stage, Weighted) else _NONE


def _flat(image: Image) -> Image:
    height, width = image.frame.size
    return Image(image.channels * height * width, Frame((1, 1), image.frame.batch), image.begin)


def _check_shape(stage: Stage, x: Image, axes: int) -> int:
    """Number of axes of the output besides batch and channels; raises ``ValueError`` if the input does not fit."""
    if isinstance(stage, Flatten):
        return 0
    needed = stage.spatial if isinstance(stage, Weighted) else 2 if isinstance(stage, MaxPool | AveragePool) else axes
    if axes != needed:
        raise ValueError(
            f"layer {stage.name!r} needs inputs with {needed} axes besides batch and channels, got {axes}. "
            "Put nn.Flatten() before a linear layer, and give images as (batch, channels, height, width)."
        )
    if isinstance(stage, Weighted) and stage.pattern.inputs != x.channels:
        raise ValueError(f"layer {stage.name!r} needs {stage.pattern.inputs} channels or features, got {x.channels}.")
    if isinstance(stage, Weighted | MaxPool | AveragePool) and min(stage.window.outputs(x.frame.size)) < 1:
        raise ValueError(f"layer {stage.name!r} is larger than its input of {x.frame.size}.")
    if isinstance(stage, MaxPool) and stage.window.kernel[0] * stage.window.kernel[1] > MOST_TAPS:
        raise ValueError(
            f"layer {stage.name!r} has windows of more than {MOST_TAPS} pixels, too large for a plan. "
            "Use the modules: sparseflow.engine.convert(model, masks)."
        )
    return axes


def _moves(loops: Loops) -> tuple[int, ...]:
    return loops.rows, loops.xi, loops.yi, loops.parts, loops.xj, loops.yj, loops.length


def _sums(
    builder: _Builder, code: int, window: Window, step: _Step, values: int, bias: tuple[int, int], *, relu: bool
) -> None:
    loops = forward_loops(window, step.x.frame, step.y.frame)
    blocks, columns = step.tables
    for k, (begins, ends) in enumerate(blocks):
        builder.add(
            code, begins, ends, columns, values, *bias, step.x.begin + loops.x0, builder.batch,
            step.y.begin + loops.y0, step.y.frame.pitch, step.y.channels, *_moves(loops), k > 0,
            relu and k == len(blocks) - 1,
        )  # fmt: skip


def _pool(builder: _Builder, step: _Step) -> None:
    stage, x, y = step.stage, step.x, step.y
    assert isinstance(stage, MaxPool | AveragePool)
    window, pads = stage.window, (stage.window.padding[0][0], stage.window.padding[1][0])
    if isinstance(stage, MaxPool):
        builder.positions += y.channels * y.frame.size[0] * y.frame.size[1] * builder.batch
        builder.add(
            op.MAX_POOL, *x.place, *x.frame.size, *y.place, step.where, 0, x.channels, *y.frame.size, *window.kernel,
            *window.stride, *window.dilation, *pads, builder.batch, stage.relu,
        )  # fmt: skip
    else:
        builder.add(
            op.AVERAGE_POOL, *x.place, *x.frame.size, *y.place, 0, x.channels, *y.frame.size, *window.kernel,
            *window.stride, *pads, builder.batch, stage.divisor,
        )  # fmt: skip


def _backward(
    builder: _Builder, steps: list[_Step], values: dict[int, int], last: Image, *,
    halves: bool = False, input_gradient: bool = False,
) -> None:  # fmt: skip
    # Before the first weights nothing needs a gradient, unless the input does.
    first = -1 if input_gradient else min(values, default=len(steps))
    g = _gradient(builder, steps, len(steps) - 1, first)
    if halves:
        builder.add(op.TAKE, *g.place, g.channels, *g.frame.size, builder.batch)
    else:
        logits = g if g.frame.border == _NONE else builder.image(g.channels, g.frame.size)
        builder.add(op.CROSS_ENTROPY, last.corner, last.channels, logits.corner)
        if logits is not g:
            _copy(builder, logits, g)
    for i in range(len(steps) - 1, max(first, 0) - 1, -1):
        step = steps[i]
        stage, x, y = step.stage, step.x, step.y
        if isinstance(stage, Weighted):
            _weight_gradients(builder, step, g, values[i])
        if i == first:
            return
        if isinstance(stage, Flatten) and _gradient_border(steps, i - 1, first) == _NONE:
            g = Image(x.channels, Frame(x.frame.size, builder.batch), g.begin)
            continue
        gx = _gradient(builder, steps, i - 1, first)
        window = Window() if isinstance(stage, Rectify | Flatten) else stage.window
        pads = (window.padding[0][0], window.padding[1][0])
        match stage:
            case Weighted():
                for table, loops in backward(stage.pattern, window, gx.frame, g.frame, builder.itemsize):
                    transposed = builder.transposed(table, values[i])
                    blocks, columns = builder.table(table)
                    for k, (begins, ends) in enumerate(blocks):
                        builder.add(
                            op.INPUT_GRADIENT, begins, ends, columns, transposed, 0, 0, g.begin + loops.x0,
                            builder.batch, gx.begin + loops.y0, gx.frame.pitch, x.channels, *_moves(loops), k > 0, 0,
                        )  # fmt: skip
            case MaxPool():
                builder.add(
                    op.MAX_POOL_BACKWARD, *g.place, step.where, *gx.place, *x.frame.size, 0, x.channels, *y.frame.size,
                    *window.kernel, *window.stride, *window.dilation, *pads, builder.batch,
                )  # fmt: skip
            case AveragePool():
                builder.add(
                    op.AVERAGE_POOL_BACKWARD, *g.place, *gx.place, *x.frame.size, 0, x.channels, *y.frame.size,
                    *window.kernel, *window.stride, *pads, builder.batch, stage.divisor,
                )  # fmt: skip
            case Rectify():
                builder.add(op.RELU_BACKWARD, *g.place, *y.place, *gx.place, *_rows(g, y, gx))
            case Flatten():
                _copy(builder, Image(x.channels, Frame(x.frame.size, builder.batch), g.begin), gx)
        g = gx
    if input_gradient:
        builder.add(op.GIVE, *g.place, g.channels, *g.frame.size)


def _gradient(builder: _Builder, steps: list[_Step], i: int, first: int) -> Image:
    """The gradient of a stage's output, in the border that the stage's own backward pass needs; -1 is the input."""
    y = steps[i].y if i >= 0 else steps[0].x
    return builder.image(y.channels, y.frame.size, _gradient_border(steps, i, first))


def _gradient_border(steps: list[_Step], i: int, first: int) -> Border:
    if i < 0:
        return _NONE
    stage = steps[i].stage
    return stage.window.gradient_border(steps[i].x.frame.size) if isinstance(stage, Weighted) and i > first else _NONE


def _rows(*images: Image) -> tuple[int, int, int]:
    """Channels, rows and length for a kernel that goes over all numbers; one long row where there are no borders."""
    channels, frame = images[0].channels, images[0].frame
    if all(image.frame.border == _NONE for image in images):
        return 1, 1, channels * frame.pitch
    return channels, frame.size[0], frame.size[1] * frame.batch


def _copy(builder: _Builder, source: Image, target: Image) -> None:
    # A mean over single pixels.
    height, width = source.frame.size
    builder.add(
        op.AVERAGE_POOL, *source.place, height, width, *target.place, 0, source.channels, height, width,
        1, 1, 1, 1, 0, 0, builder.batch, 1,
    )  # fmt: skip


def _weight_gradients(builder: _Builder, step: _Step, g: Image, first_value: int) -> None:
    stage, x, y = step.stage, step.x, step.y
    assert isinstance(stage, Weighted)
    if stage.relu:
        builder.add(op.RELU_GATE, *y.place, *g.place, *_rows(g, y))
    if stage.bias:
        loops = forward_loops(Window(), g.frame, g.frame)
        builder.add(
            op.BIAS_GRADIENT, g.begin + loops.x0, g.frame.pitch, first_value + stage.pattern.num_active, g.channels,
            loops.rows, loops.xi, loops.parts, loops.xj, loops.length,
        )  # fmt: skip
    loops = forward_loops(stage.window, x.frame, g.frame)
    room = max(1, CACHE // (stage.pattern.inputs * builder.itemsize))
    block = max(1, room // loops.xi) if loops.rows > 1 else 1
    blocks, columns = step.tables
    for begins, ends in blocks:
        builder.add(
            op.WEIGHT_GRADIENT, begins, ends, columns, g.begin + loops.y0, g.frame.pitch, x.begin + loops.x0,
            builder.batch, first_value, g.channels, *_moves(loops), block,
        )  # fmt: skip
