"""The table that the interpreter runs, built from a tape of stages and a batch size."""

from __future__ import annotations

from collections.abc import Sequence

from sparseflow.engine.plans import interpreter as op
from sparseflow.engine.plans.backward import backward
from sparseflow.engine.plans.builder import Builder, Image, Program
from sparseflow.engine.plans.forward import forward
from sparseflow.engine.plans.stages import Tape, has_parameters

#: Bytes of workspace that a slice of the batch should need at most: its core's share of the third-level cache.
_CACHE = 1 << 22


def examples_that_fit(room: int, *, least: int, most: int) -> int:
    """Examples of a slice, a multiple of 16 in ``[least, most]``, each of which needs ``room`` bytes of workspace.

    >>> [examples_that_fit(room, least=16, most=128) for room in (1000, 60_000, 1_000_000)]
    [128, 64, 16]
    """
    return min(most, max(least, _CACHE // room // 16 * 16))


def build_program(
    tape: Tape, begins: Sequence[int], shape: tuple[int, ...], *, batch: int, itemsize: int, training: bool
) -> Program:
    """The table of a network at one batch size.

    Args:
        tape: Of the network.
        begins: Where the values of each stage with parameters begin; its biases follow its weights.
        shape: Of one example, without the batch: ``(features,)``, ``(channels, length)`` or
            ``(channels, height, width)``.
        batch: Examples of a slice.
        itemsize: Bytes of a number.
        training: With loss and gradients; else it ends with the logits.

    Raises:
        ValueError: if the shape does not fit the network.
    """
    builder = Builder(batch, itemsize)
    values = _values(tape, begins)
    steps, x = forward(builder, tape, values, shape)
    last = steps[-1].y
    if last.frame.size != (1, 1):
        raise ValueError(
            f"the network must end with logits (batch, classes), it ends with {last.channels} channels of "
            f"{last.frame.size}. Add nn.Flatten() and nn.Linear."
        )
    if training:
        backward(builder, steps, values, x)
    else:
        builder.add(op.GIVE, builder.batch, *last.place, last.channels, *last.frame.size)
    return Program(*builder.finished(), builder.workspace, builder.positions, last.channels)


def build_halves(
    tape: Tape, begins: Sequence[int], shape: tuple[int, ...], *, batch: int, itemsize: int,
    input_gradient: bool,
) -> tuple[Program, Program, Image]:  # fmt: skip
    """Forward and backward pass of a network as two programs on one workspace, for autograd.

    Args:
        input_gradient: Whether the backward pass ends with the gradient of the input.

    The others as :func:`build_program`.

    Returns: both programs, and the output.
    """
    builder = Builder(batch, itemsize)
    values = _values(tape, begins)
    steps, x = forward(builder, tape, values, shape)
    last = steps[-1].y
    builder.add(op.GIVE, builder.batch, *last.place, last.channels, *last.frame.size)
    split = len(builder.operations)
    backward(builder, steps, values, x, halves=True, input_gradient=input_gradient)
    operations, tables = builder.finished()
    sizes = (builder.workspace, builder.positions, last.channels)
    return Program(operations[:split], tables, *sizes), Program(operations[split:], tables, *sizes), last


def _values(tape: Tape, begins: Sequence[int]) -> dict[int, int]:
    """Where the values of each node begin that has some."""
    return dict(zip((i for i, node in enumerate(tape) if has_parameters(node.stage)), begins, strict=True))
