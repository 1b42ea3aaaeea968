"""The tape that computes with covers where that is faster."""

from __future__ import annotations

from dataclasses import replace

from sparseflow.engine.layers.cover import LONG, Cover, cover_if_faster
from sparseflow.engine.plans.stages import Node, Tape, Weighted


def covered(tape: Tape, examples: int, itemsize: int) -> tuple[Tape, list[Cover | None]]:
    """The tape whose patterns are covers where that is faster, and the cover of each node.

    Args:
        examples: Of a slice of the batch.
        itemsize: Bytes of a number.

    >>> import torch
    >>> from sparseflow.engine.layers.geometry import Window
    >>> from sparseflow.engine.layers.pattern import Pattern
    >>> from sparseflow.engine.plans.stages import Rectify, in_line
    >>> mask = torch.ones(4, 8).bool()
    >>> mask[:, 5], mask[0, 0] = False, False
    >>> tape = in_line([Weighted("layer", Pattern.of(mask), Window(), spatial=0, bias=True), Rectify("relu")])
    >>> (layer, _), covers = covered(tape, 256, itemsize=4)
    >>> layer.stage.pattern.num_active, [cover is None for cover in covers]
    (28, [False, True])
    """
    nodes: Tape = []
    covers: list[Cover | None] = []
    for stage, inputs in tape:
        cover = None
        if isinstance(stage, Weighted):
            # Of images, rows of pixels of all examples lie side by side.
            length = examples if stage.spatial == 0 else LONG
            cover = cover_if_faster(stage.pattern, length, itemsize)
            stage = stage if cover is None else replace(stage, pattern=cover.pattern)
        nodes.append(Node(stage, inputs))
        covers.append(cover)
    return nodes, covers
