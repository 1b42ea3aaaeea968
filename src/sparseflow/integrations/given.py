"""What a trainer's callback is given before there is a model or a number of steps: masks and a method, or functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sparseflow.methods.base import Method
from sparseflow.types import Masks

#: Parameter name -> mask, or a function that makes them of the model when training begins.
MasksLike = Masks | Callable[[nn.Module], Masks]
#: A method, or a function that makes it of the optimizer steps of the whole training.
MethodLike = Method | Callable[[int], Method]


def check_given(masks: Any, method: Any) -> None:
    """Check what a callback is made from.

    Raises:
        TypeError: if one is neither of the two.
    """
    if not isinstance(masks, Mapping) and not callable(masks):
        raise TypeError(
            f"masks must be a mapping of names or a function of the model, got {masks!r}. Write "
            "SparsifierCallback(lambda model: sparseflow.magnitude_masks(model, 0.9))."
        )
    if isinstance(method, type) or not (hasattr(method, "due") or callable(method)):
        raise TypeError(
            f"method must be a method or a function of the number of optimizer steps, got {method!r}. Write "
            "method=lambda total_steps: sparseflow.RigL(total_steps=total_steps)."
        )


def masks_for(masks: MasksLike, model: nn.Module) -> Masks:
    """The masks for a model.

    >>> import sparseflow as sf
    >>> masks_for(sf.dense_masks, nn.Linear(2, 1))
    {'weight': tensor([[True, True]])}
    """
    return masks if isinstance(masks, Mapping) else masks(model)


def method_for(method: MethodLike, total_steps: int) -> Method:
    """The method for a training.

    Args:
        method: See :data:`MethodLike`.
        total_steps: Optimizer steps of the whole training.

    >>> import sparseflow as sf
    >>> method_for(lambda total_steps: sf.RigL(total_steps=total_steps), 600).until
    450
    """
    return method(total_steps) if callable(method) and not hasattr(method, "due") else method  # type: ignore[return-value]
