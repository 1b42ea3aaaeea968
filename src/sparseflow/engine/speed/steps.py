"""One step of a model as a function to be timed: a training step in train mode, or inference in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.batches import arguments


def in_mode_(model: nn.Module, *, training: bool) -> nn.Module:
    """Put a model into train or eval mode; one that is in it keeps the modes of its parts, such as frozen norms.

    >>> model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Linear(2, 1))
    >>> in_mode_(model, training=True)[0].training, in_mode_(model, training=False)[1].training
    (False, False)
    """
    return model if model.training == training else model.train(training)


def model_step(model: nn.Module, inputs: Any, *, training: bool, autocast: bool = False) -> Callable[[], None]:
    """A function that runs one step of a model in the mode that it is in.

    Args:
        model: To be run.
        inputs: See :mod:`sparseflow.batches`.
        training: Up to the gradient of every parameter; else a forward pass under ``no_grad``.
        autocast: Run it under bfloat16 autocast.
    """
    positional, named = arguments(model, inputs)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def run() -> None:
        with torch.set_grad_enabled(training), _casting(autocast):
            outputs = list(tensors_of(model(*positional, **named)))
        outputs = [output for output in outputs if output.requires_grad] if training else []
        if outputs:
            # In the ordinary layout, as a loss would give it.
            start = [torch.ones(output.shape, dtype=output.dtype, device=output.device) for output in outputs]
            torch.autograd.grad(outputs, parameters, start, allow_unused=True)

    return run


def outputs_of(model: nn.Module, inputs: Any, *, autocast: bool = False) -> list[Tensor]:
    """The tensors that a model returns, without gradients."""
    positional, named = arguments(model, inputs)
    with torch.no_grad(), _casting(autocast):
        return list(tensors_of(model(*positional, **named)))


def tensors_of(value: object) -> Iterator[Tensor]:
    """The tensors in what a model takes or returns, in order.

    >>> [int(tensor) for tensor in tensors_of({"a": (torch.tensor(1), "text"), "b": torch.tensor(2)})]
    [1, 2]
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)


def _casting(autocast: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
