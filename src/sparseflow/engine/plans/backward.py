"""The backward pass of a chain as operations."""

from __future__ import annotations

from sparseflow.engine.layers.geometry import CACHE, Frame, Window, block_table, forward_loops
from sparseflow.engine.layers.gradient_geometry import block_gradient_loops, gradient_passes
from sparseflow.engine.plans import interpreter as op
from sparseflow.engine.plans.builder import NO_BORDER, Border, Builder, Image, Step, copy, moves_of, rows_of
from sparseflow.engine.plans.stages import AveragePool, Flatten, MaxPool, Rectify, Weighted


def backward(
    builder: Builder, steps: list[Step], values: dict[int, int], last: Image, *,
    halves: bool = False, input_gradient: bool = False,
) -> None:  # fmt: skip
    """Add the operations of a backward pass; arguments as :func:`forward` and :func:`build_halves`."""
    # Before the first weights nothing needs a gradient, unless the input does.
    first = -1 if input_gradient else min(values, default=len(steps))
    g = _gradient(builder, steps, len(steps) - 1, first)
    if halves:
        builder.add(op.TAKE, *g.place, g.channels, *g.frame.size, builder.batch)
    else:
        logits = g if g.frame.border == NO_BORDER else builder.image(g.channels, g.frame.size)
        builder.add(op.CROSS_ENTROPY, last.corner, last.channels, logits.corner)
        if logits is not g:
            copy(builder, logits, g)
    for i in range(len(steps) - 1, max(first, 0) - 1, -1):
        step = steps[i]
        stage, x, y = step.stage, step.x, step.y
        if isinstance(stage, Weighted):
            _bias_gradient(builder, step, g, values[i])
            if i == first:
                _weight_gradients(builder, step, g, values[i])
        if i == first:
            return
        if isinstance(stage, Flatten) and _gradient_border(steps, i - 1, first) == NO_BORDER:
            g = Image(x.channels, Frame(x.frame.size, builder.batch), g.begin)
            continue
        gx = _gradient(builder, steps, i - 1, first)
        window = Window() if isinstance(stage, Rectify | Flatten) else stage.window
        pads = (window.padding[0][0], window.padding[1][0])
        match stage:
            case Weighted():
                _gradients(builder, step, g, gx, values[i])
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
                builder.add(op.RELU_BACKWARD, *g.place, *y.place, *gx.place, *rows_of(g, y, gx))
            case Flatten():
                copy(builder, Image(x.channels, Frame(x.frame.size, builder.batch), g.begin), gx)
        g = gx
    if input_gradient:
        builder.add(op.GIVE, *g.place, g.channels, *g.frame.size)


def _gradient(builder: Builder, steps: list[Step], i: int, first: int) -> Image:
    """The gradient of a stage's output, in the border that the stage's own backward pass needs; -1 is the input."""
    y = steps[i].y if i >= 0 else steps[0].x
    return builder.image(y.channels, y.frame.size, _gradient_border(steps, i, first))


def _gradient_border(steps: list[Step], i: int, first: int) -> Border:
    """Zeros that the stage's inputs look for outputs in, and room into which the next stage adds for its padding."""
    own, room = NO_BORDER, NO_BORDER
    stage = steps[i].stage if i >= 0 else None
    if isinstance(stage, Weighted) and i > first and stage.pattern.block == 1:
        own = stage.window.gradient_border(steps[i].x.frame.size)
    after = steps[i + 1].stage if i + 1 < len(steps) else None
    if isinstance(after, Weighted) and after.pattern.block > 1:
        room = after.window.padding
    (a, b), (c, d) = (tuple(map(max, x, y)) for x, y in zip(own, room, strict=True))
    return (a, b), (c, d)


def _bias_gradient(builder: Builder, step: Step, g: Image, first_value: int) -> None:
    stage, y = step.stage, step.y
    assert isinstance(stage, Weighted)
    bias = first_value + stage.pattern.num_active
    if stage.relu and stage.bias:
        whole = g.frame.border == y.frame.border == NO_BORDER
        rows = (1, g.frame.pitch) if whole else (g.frame.size[0], g.frame.size[1] * builder.batch)
        builder.add(op.GATED_BIAS_GRADIENT, *y.place, *g.place, bias, g.channels, *rows)
    elif stage.relu:
        builder.add(op.RELU_GATE, *y.place, *g.place, *rows_of(g, y))
    elif stage.bias:
        loops = forward_loops(Window(), g.frame, g.frame)
        builder.add(
            op.BIAS_GRADIENT, g.begin + loops.x0, g.frame.pitch, bias, g.channels,
            loops.rows, loops.xi, loops.parts, loops.xj, loops.length,
        )  # fmt: skip


def _weight_gradients(builder: Builder, step: Step, g: Image, first_value: int) -> None:
    stage, x = step.stage, step.x
    assert isinstance(stage, Weighted)
    loops = forward_loops(stage.window, x.frame, g.frame)
    blocks, columns = step.places
    places = (g.begin + loops.y0, g.frame.pitch, x.begin + loops.x0, builder.batch, first_value)
    if stage.pattern.block > 1:
        (begins, _), *_ = blocks
        moves = (loops.rows, loops.yi, loops.xi, loops.parts, loops.yj, loops.xj, loops.length)
        builder.add(op.BLOCK_WEIGHT_GRADIENT, begins, columns, *places, g.channels // stage.pattern.block, *moves)
        return
    room = max(1, CACHE // (stage.pattern.inputs * builder.itemsize))
    at_a_time = max(1, room // loops.xi) if loops.rows > 1 else 1
    for begins, ends in blocks:
        builder.add(op.WEIGHT_GRADIENT, begins, ends, columns, *places, g.channels, *moves_of(loops), at_a_time)


def _gradients(builder: Builder, step: Step, g: Image, gx: Image, first_value: int) -> None:
    """Of the inputs and of the weights, in one pass over the gradient of the outputs."""
    stage, x = step.stage, step.x
    assert isinstance(stage, Weighted)
    pattern, window = stage.pattern, stage.window
    if pattern.block > 1:
        loops = block_gradient_loops(window, x.frame, gx.frame, g.frame)
        ((begins, _),), columns = step.places
        same = x.frame == gx.frame
        y_columns = columns if same else builder.keep(block_table(pattern, window, gx.frame).columns)
        builder.add(op.ZERO, gx.begin, gx.channels * gx.frame.pitch)
        builder.add(
            op.BLOCK_GRADIENTS, begins, columns, y_columns, first_value, g.begin + loops.g0, g.frame.pitch,
            x.begin + loops.x0, gx.begin + loops.y0, builder.batch, g.channels // pattern.block, *loops.moves,
        )  # fmt: skip
        return
    for table, loops in gradient_passes(pattern, window, x.frame, gx.frame, g.frame, builder.itemsize):
        assert table.order is not None
        order = builder.keep(table.order)
        blocks, columns = builder.keep_table(table)
        for k, (begins, ends) in enumerate(blocks):
            builder.add(
                op.GRADIENTS, begins, ends, columns, order, first_value, g.begin + loops.g0, builder.batch,
                x.begin + loops.x0, x.frame.pitch, gx.begin + loops.y0, gx.frame.pitch, x.channels, *loops.moves, k > 0,
            )  # fmt: skip
