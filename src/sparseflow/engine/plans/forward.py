"""The forward pass of a tape as operations."""

from __future__ import annotations

from collections.abc import Sequence

from sparseflow.engine.layers.geometry import Frame, forward_loops
from sparseflow.engine.plans import interpreter as op
from sparseflow.engine.plans.builder import (
    NO_BORDER,
    Border,
    Builder,
    Image,
    Step,
    copy,
    moves_of,
    rows_of,
    rows_of_channel,
    widest,
)
from sparseflow.engine.plans.fitting import check_inputs
from sparseflow.engine.plans.stages import (
    AveragePool,
    Flatten,
    MaxPool,
    Norm,
    Rectify,
    Sum,
    Tape,
    Weighted,
    of_fixed_window,
    readers,
)


def forward(builder: Builder, tape: Tape, values: dict[int, int], shape: tuple[int, ...]) -> tuple[list[Step], Image]:
    """Add the operations of a forward pass.

    Args:
        values: Node -> where its values begin.
        shape: Of one example.

    Returns: a step for each node, and the network's input.
    """
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"one example must have 1 to 3 axes, got shape {shape}.")
    size = (*(1,) * (3 - len(shape)), *shape[1:])
    borders = [_border(tape, found) for found in readers(tape)]
    x = builder.image(shape[0], (size[-2], size[-1]), borders[-1])
    builder.add(op.TAKE, builder.batch, *x.place, x.channels, *x.frame.size)
    steps: list[Step] = []
    axes: list[int] = []
    for i, (given, inputs) in enumerate(tape):
        xs = tuple(x if j < 0 else steps[j].y for j in inputs)
        stage = of_fixed_window(given, xs[0].frame.size)
        step = Step(stage, inputs, xs, xs[0])
        axes.append(check_inputs(stage, xs, [len(shape) - 1 if j < 0 else axes[j] for j in inputs]))
        _add(builder, step, borders[i], values.get(i, 0))
        steps.append(step)
    return steps, x


def _add(builder: Builder, step: Step, border: Border, values: int) -> None:
    """Add the operations of a stage and set its output."""
    stage, x = step.stage, step.x
    match stage:
        case Weighted():
            step.y = builder.image(stage.pattern.outputs, stage.window.outputs(x.frame.size), border)
            step.places = builder.table(stage.pattern, stage.window, x.frame)
            _sums(builder, stage, step, values)
        case MaxPool() | AveragePool():
            step.y = builder.image(x.channels, stage.window.outputs(x.frame.size), border)
            step.where = builder.positions
            _pool(builder, step)
        case Norm():
            step.y = builder.image(x.channels, x.frame.size, border)
            builder.add(
                op.NORM, *x.place, *step.xs[-1].place, len(step.xs) > 1, *step.y.place,
                *rows_of_channel(*step.xs, step.y), *parameters_of(stage, values), stage.measures, stage.relu,
            )  # fmt: skip
        case Sum():
            step.y = builder.image(x.channels, x.frame.size, border)
            a, b = step.xs
            builder.add(op.SUM, *a.place, *b.place, *step.y.place, *rows_of(a, b, step.y), stage.relu)
        case Rectify():
            step.y = builder.image(x.channels, x.frame.size, border)
            builder.add(op.RELU, *x.place, *step.y.place, *rows_of(x, step.y))
        case Flatten():
            step.y = _flat(builder, x)


def parameters_of(norm: Norm, values: int) -> tuple[int, ...]:
    """Where a norm's values begin, how many weights and biases there are, where its numbers begin, and its channels."""
    return values, norm.weight * norm.channels, norm.bias * norm.channels, norm.begin, norm.channels


def _border(tape: Tape, reading: Sequence[int]) -> Border:
    """Zeros around an output: the padding of the convolutions that read it."""
    stages = [tape[i].stage for i in reading]
    return widest(*(stage.window.padding for stage in stages if isinstance(stage, Weighted)))


def _flat(builder: Builder, image: Image) -> Image:
    if image.frame.border != NO_BORDER:  # others read it with their padding
        plain = builder.image(image.channels, image.frame.size)
        copy(builder, image, plain)
        image = plain
    height, width = image.frame.size
    return Image(image.channels * height * width, Frame((1, 1), image.frame.batch), image.begin)


def _sums(builder: Builder, stage: Weighted, step: Step, values: int) -> None:
    x, y = step.x, step.y
    loops = forward_loops(stage.window, x.frame, y.frame)
    bias = (values + stage.pattern.num_active, stage.pattern.outputs if stage.bias else 0)
    places = (x.begin + loops.x0, builder.batch, y.begin + loops.y0, y.frame.pitch)
    blocks, columns = step.places
    if stage.pattern.block > 1:
        (begins, _), *_ = blocks
        rows = y.channels // stage.pattern.block
        builder.add(op.BLOCK_FORWARD, begins, columns, values, *bias, *places, rows, *moves_of(loops), stage.relu)
        return
    for k, (begins, ends) in enumerate(blocks):
        last = k == len(blocks) - 1
        builder.add(
            op.FORWARD, begins, ends, columns, values, *bias, *places, y.channels, *moves_of(loops), k > 0,
            stage.relu and last,
        )  # fmt: skip


def _pool(builder: Builder, step: Step) -> None:
    stage, x, y = step.stage, step.x, step.y
    assert isinstance(stage, MaxPool | AveragePool)
    window, pads = stage.window, (stage.window.padding[0][0], stage.window.padding[1][0])
    if isinstance(stage, MaxPool):
        builder.positions += y.channels * y.frame.size[0] * y.frame.size[1] * builder.batch
        builder.add(
            op.MAX_POOL, *x.place, *x.frame.size, *y.place, step.where, x.channels, *y.frame.size, *window.kernel,
            *window.stride, *window.dilation, *pads, builder.batch, stage.relu,
        )  # fmt: skip
    else:
        builder.add(
            op.AVERAGE_POOL, *x.place, *x.frame.size, *y.place, x.channels, *y.frame.size, *window.kernel,
            *window.stride, *pads, builder.batch, stage.divisor,
        )  # fmt: skip
