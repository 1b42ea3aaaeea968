"""Whether the inputs of a stage fit it."""

from __future__ import annotations

from collections.abc import Sequence

from sparseflow.engine.layers.geometry import MOST_TAPS
from sparseflow.engine.plans.builder import Image
from sparseflow.engine.plans.stages import AveragePool, Flatten, MaxPool, Norm, Stage, Weighted


def check_inputs(stage: Stage, xs: Sequence[Image], axes: Sequence[int]) -> int:
    """Number of axes of the output besides batch and channels.

    Args:
        axes: Of each input.

    Raises:
        ValueError: if an input does not fit.
    """
    x = xs[0]
    if isinstance(stage, Flatten):
        return 0
    _check_axes(stage, axes[0])
    if len(xs) > 1:
        one, two = ((image.channels, *image.frame.size)[: 1 + n] for image, n in zip(xs, axes, strict=True))
        if one != two or axes[0] != axes[1]:
            raise ValueError(f"the sum at {stage.name!r} needs two images of one shape, got {one} and {two}.")
    needed = stage.pattern.inputs if isinstance(stage, Weighted) else x.channels
    if isinstance(stage, Norm):
        needed = stage.channels
        if stage.measures and x.frame.size[0] * x.frame.size[1] * x.frame.batch == 1:
            raise ValueError(f"layer {stage.name!r} needs more than 1 value per channel in train mode, got 1.")
    if needed != x.channels:
        raise ValueError(f"layer {stage.name!r} needs {needed} channels or features, got {x.channels}.")
    if isinstance(stage, Weighted | MaxPool | AveragePool) and min(stage.window.outputs(x.frame.size)) < 1:
        raise ValueError(f"layer {stage.name!r} is larger than its input of {x.frame.size}.")
    if isinstance(stage, MaxPool) and stage.window.kernel[0] * stage.window.kernel[1] > MOST_TAPS:
        raise ValueError(
            f"layer {stage.name!r} has windows of more than {MOST_TAPS} pixels, too large for a plan. "
            "Use the modules: sparseflow.engine.convert(model, masks)."
        )
    return axes[0]


def _check_axes(stage: Stage, axes: int) -> None:
    match stage:
        case Weighted():
            needed: tuple[int, ...] = (stage.spatial,)
        case Norm():
            needed = stage.spatial
        case MaxPool() | AveragePool():
            needed = (2,)
        case _:
            return
    if axes not in needed:
        raise ValueError(
            f"layer {stage.name!r} needs inputs with {' or '.join(map(str, needed))} axes besides batch and channels, "
            f"got {axes}. Put nn.Flatten() before a linear layer, and give images as (batch, channels, height, width)."
        )
