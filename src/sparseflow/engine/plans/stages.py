"""The stages that a plan can compute, and tapes of them: which stage reads the output of which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.layers.pattern import Pattern

Size = tuple[int, int]


@dataclass(frozen=True)
class Weighted:
    """A linear layer or convolution, with the ReLU that follows it."""

    name: str
    pattern: Pattern
    window: Window
    spatial: int
    """Axes of an image besides batch and channels: 0 for a linear layer."""
    bias: bool
    relu: bool = False


@dataclass(frozen=True)
class Norm:
    """Batch normalisation, with the addition of a second input and the ReLU that follow it."""

    name: str
    channels: int
    spatial: tuple[int, ...]
    """Axes of an image besides batch and channels that it takes."""
    weight: bool
    bias: bool
    begin: int = 0
    """Where its numbers begin, see :class:`sparseflow.engine.plans.statistics.Statistics`."""
    measures: bool = True
    """Whether it normalises by the batch's mean and variance."""
    relu: bool = False


@dataclass(frozen=True)
class MaxPool:
    """Max-pooling, with the ReLU before or after it; with ``ceil`` the last window may hang over the edge."""

    name: str
    window: Window
    ceil: bool = False
    relu: bool = False


@dataclass(frozen=True)
class AveragePool:
    """Average pooling; ``divisor`` as in :func:`sparseflow.engine.kernels.pooling.average_pool`."""

    name: str
    window: Window
    divisor: int


@dataclass(frozen=True)
class AdaptivePool:
    """Average pooling to a given size: 1 x 1 is the mean of each map."""

    name: str
    outputs: tuple[int | None, int | None]


@dataclass(frozen=True)
class Rectify:
    """A ReLU that is computed by itself."""

    name: str


@dataclass(frozen=True)
class Sum:
    """The sum of two images of one shape, with the ReLU that follows it."""

    name: str
    relu: bool = False


@dataclass(frozen=True)
class Flatten:
    """Images become features; nothing moves in memory."""

    name: str


Stage = Weighted | Norm | MaxPool | AveragePool | AdaptivePool | Rectify | Sum | Flatten


class Node(NamedTuple):
    """A stage, and the nodes of a tape whose outputs it reads: their numbers, or -1 for the network's input."""

    stage: Stage
    inputs: tuple[int, ...]


#: Nodes in an order in which they can be computed; the last one's output is the network's.
Tape = list[Node]


def in_line(stages: Iterable[Stage]) -> Tape:
    """The tape of a chain: each stage reads the one before.

    >>> [node.inputs for node in in_line([Rectify("a"), Flatten("b")])]
    [(-1,), (0,)]
    """
    return [Node(stage, (i - 1,)) for i, stage in enumerate(stages)]


def readers(tape: Tape) -> list[list[int]]:
    """The nodes that read each node's output; those that read the network's input come last, at -1.

    >>> readers([Node(Rectify("a"), (-1,)), Node(Sum("b"), (-1, 0))])
    [[1], [], [0, 1]]
    """
    found: list[list[int]] = [[] for _ in range(len(tape) + 1)]
    for i, node in enumerate(tape):
        for j in node.inputs:
            found[j].append(i)
    return found


def has_parameters(stage: Stage) -> bool:
    """Whether a stage has weights or biases."""
    return isinstance(stage, Weighted) or (isinstance(stage, Norm) and (stage.weight or stage.bias))


def of_fixed_window(stage: Stage, size: Size) -> Stage:
    """A pool whose window depends on its input as one whose window does not; other stages as they are.

    Raises:
        ValueError: if the windows of an adaptive pool would differ.

    >>> of_fixed_window(AdaptivePool("pool", (1, 1)), (4, 6)).window.kernel
    (4, 6)
    """
    if isinstance(stage, AdaptivePool):
        outputs = [n if wanted is None else wanted for wanted, n in zip(stage.outputs, size, strict=True)]
        if any(n % wanted for n, wanted in zip(size, outputs, strict=True)):
            raise ValueError(
                f"layer {stage.name!r} pools {size} to {tuple(outputs)}, which does not divide it, so its windows "
                "differ, which a plan cannot do. Use the modules: sparseflow.engine.convert(model, masks)."
            )
        kernel = (size[0] // outputs[0], size[1] // outputs[1])
        return AveragePool(stage.name, Window(kernel, kernel), kernel[0] * kernel[1])
    if isinstance(stage, MaxPool) and stage.ceil:
        return MaxPool(stage.name, _hanging(stage.window, size), relu=stage.relu)
    return stage


def _hanging(window: Window, size: Size) -> Window:
    """Padding behind the image, so that windows that begin inside it or its front padding are whole."""
    padding = []
    for axis in (0, 1):
        front, back = window.padding[axis]
        reach, stride = window.dilation[axis] * (window.kernel[axis] - 1), window.stride[axis]
        steps = -(-(size[axis] + front + back - reach - 1) // stride)
        if steps * stride >= size[axis] + front:
            steps -= 1
        padding.append((front, max(back, steps * stride + reach + 1 - size[axis] - front)))
    return Window(window.kernel, window.stride, window.dilation, (padding[0], padding[1]))
