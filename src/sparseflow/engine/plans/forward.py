"""The forward pass of a chain as operations."""

from __future__ import annotations

from collections.abc import Sequence

from sparseflow.engine.layers.geometry import MOST_TAPS, Frame, forward_loops
from sparseflow.engine.plans import interpreter as op
from sparseflow.engine.plans.builder import NO_BORDER, Border, Builder, Image, Step, moves_of, rows_of
from sparseflow.engine.plans.stages import AveragePool, Flatten, MaxPool, Rectify, Stage, Weighted


def forward(
    builder: Builder, stages: Sequence[Stage], values: dict[int, int], shape: tuple[int, ...]
) -> tuple[list[Step], Image]:
    """Add the operations of a forward pass.

    Args:
        values: Stage number -> where its values begin.
        shape: Of one example.

    Returns: the steps, and the output.
    """
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"one example must have 1 to 3 axes, got shape {shape}.")
    size = (*(1,) * (3 - len(shape)), *shape[1:])
    x = builder.image(shape[0], (size[-2], size[-1]), _border(stages, 0))
    builder.add(op.TAKE, *x.place, x.channels, *x.frame.size, builder.batch)
    axes = len(shape) - 1
    steps = []
    for i, stage in enumerate(stages):
        axes = _check_shape(stage, x, axes)
        step = Step(stage, x, x)
        border = _border(stages, i + 1)
        match stage:
            case Weighted():
                step.y = builder.image(stage.pattern.outputs, stage.window.outputs(x.frame.size), border)
                step.places = builder.table(stage.pattern, stage.window, x.frame)
                _sums(builder, stage, step, values[i])
            case MaxPool() | AveragePool():
                step.y = builder.image(x.channels, stage.window.outputs(x.frame.size), border)
                step.where = builder.positions
                _pool(builder, step)
            case Rectify():
                step.y = builder.image(x.channels, x.frame.size, border)
                builder.add(op.RELU, *x.place, *step.y.place, *rows_of(x, step.y))
            case Flatten():
                step.y = _flat(x)
        steps.append(step)
        x = step.y
    return steps, x


def _border(stages: Sequence[Stage], consumer: int) -> Border:
    stage = stages[consumer] if consumer < len(stages) else None
    return stage.window.padding if isinstance(stage, Weighted) else NO_BORDER


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
            op.MAX_POOL, *x.place, *x.frame.size, *y.place, step.where, 0, x.channels, *y.frame.size, *window.kernel,
            *window.stride, *window.dilation, *pads, builder.batch, stage.relu,
        )  # fmt: skip
    else:
        builder.add(
            op.AVERAGE_POOL, *x.place, *x.frame.size, *y.place, 0, x.channels, *y.frame.size, *window.kernel,
            *window.stride, *pads, builder.batch, stage.divisor,
        )  # fmt: skip
