"""The backward pass of a tape as operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sparseflow.engine.layers.geometry import CACHE, Frame, Window, block_table, forward_loops
from sparseflow.engine.layers.gradient_geometry import block_gradient_loops, gradient_passes
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
from sparseflow.engine.plans.forward import parameters_of
from sparseflow.engine.plans.stages import AveragePool, Flatten, MaxPool, Norm, Rectify, Sum, Weighted, has_parameters


@dataclass
class _Gradients:
    """The gradients of the outputs of steps, added up over the steps that read them; -1 is the network's input."""

    builder: Builder
    steps: list[Step]
    x: Image
    input_gradient: bool
    images: dict[int, Image] = field(default_factory=dict)
    """Those that have been begun and are not done with."""
    _free: dict[tuple[int, Frame], list[Image]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wanted: list[bool] = []
        """Whether a step or one before it has parameters, so that its output's gradient is of use."""
        for step in self.steps:
            self.wanted.append(has_parameters(step.stage) or any(self.wants(j) for j in step.inputs))
        self._readers: list[list[Step]] = [[] for _ in range(len(self.steps) + 1)]
        for step in self.steps:
            for j in step.inputs:
                self._readers[j].append(step)

    def wants(self, i: int) -> bool:
        """Whether anybody needs the gradient of an output."""
        return self.wanted[i] if i >= 0 else self.input_gradient

    def output(self, i: int) -> Image:
        """The finished gradient of an output, in the border of zeros that its own step looks for outputs in."""
        own, image = self._own(i), self.images[i]
        if own != NO_BORDER and self._room(i) != NO_BORDER:  # readers have written into the border
            clean = self._image(image.channels, image.frame.size, own)
            copy(self.builder, image, clean)
            return clean
        return image

    def done(self, i: int) -> None:
        """Nobody needs the gradient of an output any more."""
        image = self.images.pop(i)
        # Those that have room for padding are no longer zero there; others may hold the gradient of another output too.
        if self._room(i) == NO_BORDER and all(other.begin != image.begin for other in self.images.values()):
            self._give_back(image)

    def begin(self, i: int) -> Image:
        """Room for the first part of the gradient of an output."""
        y = self.steps[i].y if i >= 0 else self.x
        self.images[i] = self._image(y.channels, y.frame.size, self._border(i))
        return self.images[i]

    def put(self, i: int, write: Callable[[Image], None]) -> None:
        """Let an operation write a part of the gradient of an output, which is added to what is there."""
        if i not in self.images:
            write(self.begin(i))
            return
        image = self.images[i]
        part = self._image(image.channels, image.frame.size)
        write(part)
        self._add(part, image)
        self._give_back(part)

    def pass_on(self, i: int, part: Image, *, keep: bool = False) -> None:
        """Add an image that nobody needs any more, unless it is to be kept, to the gradient of an output."""
        if i in self.images:
            self._add(part, self.images[i])
        elif not keep and part.frame.border == self._border(i) and not self._reads_border(i):
            self.images[i] = part
        else:
            copy(self.builder, part, self.begin(i))

    def _image(self, channels: int, size: tuple[int, int], border: Border = NO_BORDER) -> Image:
        """An image with a border of zeros, in the place of one that is done with where there is one of its kind."""
        free = self._free.get((channels, Frame(size, self.builder.batch, border)))
        return free.pop() if free else self.builder.image(channels, size, border)

    def _give_back(self, image: Image) -> None:
        self._free.setdefault((image.channels, image.frame), []).append(image)

    def _add(self, part: Image, image: Image) -> None:
        self.builder.add(op.ADD, *part.place, *image.place, *rows_of(part, image))

    def _own(self, i: int) -> Border:
        step = self.steps[i] if i >= 0 else None
        if step is None or not isinstance(step.stage, Weighted) or step.stage.pattern.block > 1:
            return NO_BORDER
        return step.stage.window.gradient_border(step.x.frame.size) if self.wants(step.inputs[0]) else NO_BORDER

    def _room(self, i: int) -> Border:
        """Into which the steps that read an output add for their padding."""
        stages = [step.stage for step in self._readers[i]]
        return widest(*(s.window.padding for s in stages if isinstance(s, Weighted) and s.pattern.block > 1))

    def _border(self, i: int) -> Border:
        room = self._room(i)
        return self._own(i) if room == NO_BORDER else room

    def _reads_border(self, i: int) -> bool:
        return self._own(i) != NO_BORDER and self._room(i) == NO_BORDER


def backward(
    builder: Builder, steps: list[Step], values: dict[int, int], x: Image, *,
    halves: bool = False, input_gradient: bool = False,
) -> None:  # fmt: skip
    """Add the operations of a backward pass.

    Args:
        x: The network's input.

    The others as :func:`forward` and :func:`build_halves`.
    """
    gradients = _Gradients(builder, steps, x, input_gradient)
    last = len(steps) - 1
    if halves:
        g = gradients.begin(last)
        builder.add(op.TAKE, builder.batch, *g.place, g.channels, *g.frame.size)
    else:
        logits = builder.image(steps[-1].y.channels, steps[-1].y.frame.size)
        builder.add(op.CROSS_ENTROPY, builder.batch, steps[-1].y.corner, logits.channels, logits.corner)
        gradients.pass_on(last, logits)
    for i in range(last, -1, -1):
        if gradients.wants(i):
            _step_back(gradients, steps[i], gradients.output(i), values.get(i, 0))
            gradients.done(i)
    if input_gradient:
        g = gradients.images[-1]
        builder.add(op.GIVE, builder.batch, *g.place, g.channels, *g.frame.size)


def _step_back(gradients: _Gradients, step: Step, g: Image, values: int) -> None:
    """The gradients of a step's parameters and inputs, from that of its output."""
    builder, stage, x, y = gradients.builder, step.stage, step.x, step.y
    source = step.inputs[0]
    match stage:
        case Weighted():
            _bias_gradient(builder, step, g, values)
            if not gradients.wants(source):
                _weight_gradients(builder, step, g, values)
                return
            adds = source in gradients.images
            gx = gradients.images[source] if adds else gradients.begin(source)
            _gradients(builder, step, g, gx, values, adds=adds)
        case Norm():
            _norm_back(gradients, step, g, values)
        case Sum():
            if stage.relu:
                builder.add(op.RELU_GATE, *y.place, *g.place, *rows_of(y, g))
            wanted = [j for j in step.inputs if gradients.wants(j)]
            for k, j in enumerate(wanted):
                gradients.pass_on(j, g, keep=k < len(wanted) - 1)
        case Flatten():
            gradients.pass_on(source, Image(x.channels, Frame(x.frame.size, builder.batch), g.begin))
        case Rectify():
            gradients.put(
                source, lambda gx: builder.add(op.RELU_BACKWARD, *g.place, *y.place, *gx.place, *rows_of(g, y, gx))
            )
        case MaxPool() | AveragePool():
            gradients.put(source, lambda gx: _pool_back(builder, step, g, gx))


def _pool_back(builder: Builder, step: Step, g: Image, gx: Image) -> None:
    stage, x, y = step.stage, step.x, step.y
    assert isinstance(stage, MaxPool | AveragePool)
    window, pads = stage.window, (stage.window.padding[0][0], stage.window.padding[1][0])
    if isinstance(stage, MaxPool):
        builder.add(
            op.MAX_POOL_BACKWARD, *g.place, step.where, *gx.place, *x.frame.size, x.channels, *y.frame.size,
            *window.kernel, *window.stride, *window.dilation, *pads, builder.batch,
        )  # fmt: skip
    else:
        builder.add(
            op.AVERAGE_POOL_BACKWARD, *g.place, *gx.place, *x.frame.size, x.channels, *y.frame.size,
            *window.kernel, *window.stride, *pads, builder.batch, stage.divisor,
        )  # fmt: skip


def _norm_back(gradients: _Gradients, step: Step, g: Image, values: int) -> None:
    builder, stage, x, y = gradients.builder, step.stage, step.x, step.y
    assert isinstance(stage, Norm)
    source, *others = step.inputs
    wants_x, wants_other = gradients.wants(source), any(gradients.wants(j) for j in others)

    def write(gx: Image, gated: Image, *, cuts: bool) -> None:
        images = [g, x, y] + [gx] * wants_x + [gated] * cuts
        builder.add(
            op.NORM_BACKWARD, *g.place, *x.place, *y.place, len(others) > 0, *gx.place, wants_x, *gated.place, cuts,
            *rows_of_channel(*images), *parameters_of(stage, values), stage.measures, stage.relu,
        )  # fmt: skip

    def write_x(gated: Image, *, cuts: bool) -> None:
        if wants_x:
            gradients.put(source, lambda gx: write(gx, gated, cuts=cuts))
        else:
            write(x, gated, cuts=cuts)

    if wants_other and stage.relu:
        gradients.put(others[0], lambda gated: write_x(gated, cuts=True))
    else:
        write_x(x, cuts=False)
        if wants_other:
            gradients.pass_on(others[0], g)


def _bias_gradient(builder: Builder, step: Step, g: Image, first_value: int) -> None:
    stage, y = step.stage, step.y
    assert isinstance(stage, Weighted)
    bias = first_value + stage.pattern.num_active
    if stage.relu and stage.bias:
        builder.add(op.GATED_BIAS_GRADIENT, *y.place, *g.place, bias, g.channels, *rows_of_channel(g, y))
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


def _gradients(builder: Builder, step: Step, g: Image, gx: Image, first_value: int, *, adds: bool) -> None:
    """Of the inputs and of the weights, in one pass over the gradient of the outputs.

    Args:
        adds: Whether ``gx`` already holds a part of its gradient.
    """
    stage, x = step.stage, step.x
    assert isinstance(stage, Weighted)
    pattern, window = stage.pattern, stage.window
    if pattern.block > 1:
        loops = block_gradient_loops(window, x.frame, gx.frame, g.frame)
        ((begins, _),), columns = step.places
        same = x.frame == gx.frame
        y_columns = columns if same else builder.keep(block_table(pattern, window, gx.frame).columns)
        if not adds:
            builder.add(op.ZERO, gx.begin, gx.channels * gx.frame.pitch)
        builder.add(
            op.BLOCK_GRADIENTS, begins, columns, y_columns, first_value, g.begin + loops.g0, g.frame.pitch,
            x.begin + loops.x0, gx.begin + loops.y0, builder.batch, g.channels // pattern.block, *loops.moves,
            x.frame.height * x.frame.width, x.channels,
        )  # fmt: skip
        return
    for table, loops in gradient_passes(pattern, window, x.frame, gx.frame, g.frame, builder.itemsize):
        assert table.order is not None
        order = builder.keep(table.order)
        blocks, columns = builder.keep_table(table)
        for k, (begins, ends) in enumerate(blocks):
            builder.add(
                op.GRADIENTS, begins, ends, columns, order, first_value, g.begin + loops.g0, builder.batch,
                x.begin + loops.x0, x.frame.pitch, gx.begin + loops.y0, gx.frame.pitch, x.channels, *loops.moves,
                adds or k > 0,
            )  # fmt: skip
