"""Stages taken together where one kernel computes both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparseflow.engine.plans.stages import MaxPool, Node, Norm, Rectify, Sum, Tape, Weighted, readers

Rule = Callable[[Node, Node, int], Node | None]


def fused(tape: Tape) -> Tape:
    """Take each ReLU into the pool behind it or the stage before it, and each sum into a norm before it.

    Only where nothing else reads what is between the two.

    >>> from sparseflow.engine.layers.geometry import Window
    >>> from sparseflow.engine.plans.stages import in_line
    >>> pool, relu = MaxPool("pool", Window((2, 2), (2, 2))), Rectify("relu")
    >>> [node.stage.relu for node in fused(in_line([pool, relu, relu]))]
    [True]
    """
    for rule in (_pooled, _summed, _rectified):
        while (pair := _first_pair(tape, rule)) is not None:
            tape = _joined(tape, *pair)
    return tape


def _pooled(first: Node, second: Node, i: int) -> Node | None:
    # The largest of rectified numbers is the rectified largest.
    if isinstance(first.stage, Rectify) and isinstance(second.stage, MaxPool):
        return Node(replace(second.stage, relu=True), first.inputs)
    return None


def _summed(first: Node, second: Node, i: int) -> Node | None:
    if isinstance(first.stage, Norm) and isinstance(second.stage, Sum):
        a, b = second.inputs
        return Node(first.stage, (*first.inputs, b if a == i else a))
    return None


def _rectified(first: Node, second: Node, i: int) -> Node | None:
    if isinstance(first.stage, Weighted | Norm | Sum | MaxPool) and isinstance(second.stage, Rectify):
        return Node(replace(first.stage, relu=True), first.inputs)
    return None


def _first_pair(tape: Tape, rule: Rule) -> tuple[int, int, Node] | None:
    reading = readers(tape)
    for j, second in enumerate(tape):
        for i in second.inputs:
            if i >= 0 and reading[i] == [j] and (both := rule(tape[i], second, i)) is not None:
                return i, j, both
    return None


def _joined(tape: Tape, i: int, j: int, both: Node) -> Tape:
    """The tape without node ``i``, which ``both`` at ``j`` computes too."""
    rest = [both if k == j else node for k, node in enumerate(tape) if k != i]
    return [Node(stage, tuple(k - (k > i) for k in inputs)) for stage, inputs in rest]
