"""Loss and accuracy of a model at other weights than its own, without side effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sparseflow.analysis.recalibrate import recalibrate_, running_norms
from sparseflow.batches import each, forward, loss_of, output_of
from sparseflow.gradients import trainable, undisturbed
from sparseflow.masks.select import unwrap
from sparseflow.types import Batches, LossFn

T = TypeVar("T")

#: Called with the points done and their number.
Progress = Callable[[int, int], None]

#: Training batches for the running statistics, ``None`` where there are none, ``False`` to keep the model's.
Recalibration = Batches | Literal[False] | None


class Measured(NamedTuple):
    """Loss and accuracy at one point of weight space."""

    loss: float
    accuracy: float
    """In [0, 1]; NaN where the targets are no classes, or the model returns its own loss."""


def weights_of(model: nn.Module, state: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """Copies of a state dict's entries for the model's parameters, on their devices; buffers are left out.

    Copies, because ``model.state_dict()`` is a view of the weights that a measurement is about to move.

    Args:
        state: A state dict, or parameter name -> tensor; frozen parameters may be missing.
        name: Of the state in error messages.

    Raises:
        ValueError: if a trainable parameter is missing, a name is unknown, or a shape differs.

    >>> layer = nn.Linear(2, 1)
    >>> copies = weights_of(layer, layer.state_dict(), name="start")
    >>> list(copies), copies["bias"].data_ptr() == layer.bias.data_ptr()
    (['weight', 'bias'], False)
    """
    parameters = dict(unwrap(model).named_parameters())
    known = unwrap(model).state_dict()
    unknown = [key for key in state if key not in known]
    missing = [key for key in trainable(model) if key not in state]
    if unknown or missing:
        reason = f"has {unknown[0]!r}, which the model has not" if unknown else f"lacks {missing[0]!r}"
        raise ValueError(
            f"{name} {reason}. Give a state dict of this model, saved without the prefix of a wrapper. Parameters: "
            f"{', '.join(parameters)}."
        )
    for key, parameter in parameters.items():
        if key in state and state[key].shape != parameter.shape:
            raise ValueError(
                f"{name}[{key!r}] has shape {tuple(state[key].shape)}, the model's {tuple(parameter.shape)}. Give a "
                "state dict of this model."
            )
    return {key: state[key].detach().to(p.device, copy=True) for key, p in parameters.items() if key in state}


def measure_at(
    model: nn.Module,
    weights_at: Callable[[T], Mapping[str, Tensor]],
    points: Sequence[T],
    batches: Batches,
    *,
    loss_fn: LossFn | None,
    recalibrate: Recalibration = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    progress: Progress | None = None,
) -> list[Measured]:
    """Mean loss and accuracy over all examples, in eval mode, with the weights of each point in turn.

    Args:
        model: It comes back bit for bit: weights, running statistics, modes, random state.
        weights_at: Point -> parameter name -> values, of any floating dtype.
        points: The points to measure at.

    The others as :func:`sparseflow.analysis.linear_path`.

    Raises:
        ValueError: if there are no batches, or the model has running statistics and ``recalibrate`` is ``None``.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> data = [(torch.ones(1, 1), torch.zeros(1))]
    >>> at = lambda w: {"weight": torch.tensor([[w]])}
    >>> [point.loss for point in measure_at(layer, at, [2.0, 3.0], data, loss_fn=lambda y, t: y.sum())]
    [2.0, 3.0]
    """
    norms = running_norms(unwrap(model))
    if norms and recalibrate is None:
        raise ValueError(
            f"{next(iter(norms))!r} normalises by running statistics, which belong to other weights than those "
            "measured here. Give recalibrate=[(inputs, targets), ...] of the training data, or recalibrate=False to "
            "keep the model's own."
        )
    batches = _again(batches)
    training = _again(recalibrate) if norms and recalibrate is not None and recalibrate is not False else None
    parameters = dict(unwrap(model).named_parameters())
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    found: list[Measured] = []
    with torch.no_grad(), undisturbed(model, training=False):
        try:
            for point in points:
                for name, value in weights_at(point).items():
                    parameters[name].copy_(value)
                if training is not None:
                    recalibrate_(model, training)
                measured = _measure(model, loss_fn, batches)
                if evaluate is not None:
                    with undisturbed(model):
                        measured = measured._replace(accuracy=float(evaluate(model)))
                found.append(measured)
                if progress is not None:
                    progress(len(found), len(points))
        finally:
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
    return found


def _again(batches: Batches) -> Batches:
    # A loader can be gone through again, and may be too large for a list.
    return list(batches) if isinstance(batches, Iterator) else batches


def _measure(model: nn.Module, loss_fn: LossFn | None, batches: Batches) -> Measured:
    total, loss_sum, correct, compared = 0, 0.0, 0, 0
    for inputs, targets, size in each(batches):
        output = forward(model, inputs)
        loss_sum += float(loss_of(loss_fn, output, targets)) * size
        total += size
        # A model that makes its own loss may shift its labels, as language models do.
        if loss_fn is not None and isinstance(targets, Tensor) and not targets.is_floating_point():
            logits = output_of(output)
            if logits.dim() == targets.dim() + 1:
                correct += int((logits.argmax(1) == targets).sum())
                compared += targets.numel()
    return Measured(loss_sum / total, correct / compared if compared else math.nan)
