"""What a mask update shows a method of a model, and the masks that the method proposes; nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow._fast.bits import PackedMask, unpacked
from sparseflow.methods.active import ActiveLayer
from sparseflow.methods.base import ActiveUpdater, LayerState, MaskUpdater, as_dense
from sparseflow.sharded import full, is_sharded
from sparseflow.sparsifier.stored import ActiveWeight
from sparseflow.types import Masks


@dataclass(frozen=True, kw_only=True)
class View:
    """A model at a mask update."""

    masks: Masks
    """Of all weights, in the order of updates and draws."""
    parameters: Mapping[str, nn.Parameter]
    """Weights that are stored whole, with zeros."""
    stored: Mapping[str, ActiveWeight]
    """Weights of which only the active values are stored."""
    counts: Mapping[str, int]
    """Active weights."""
    gradients: Mapping[str, Tensor]
    """What growth looks at, dense, as far as it exists."""
    learning_rate_ratios: Mapping[int, float]
    """``id`` of a parameter -> the learning rate of its group over the initial one; 1 where there is none."""


def proposals(
    updater: MaskUpdater, view: View, *, step: int, generator: torch.Generator
) -> Iterator[tuple[str, Tensor | PackedMask]]:
    """Each weight's new mask, bool or in bits; of those stored as active values, their new positions, int64, ascending.

    A frozen weight, and one without the gradient that growth needs, sits the update out.

    Args:
        updater: The method.
        view: What it may look at.
        step: Optimizer steps taken.
        generator: For random scores.

    Raises:
        ValueError: what the updater raises.

    >>> import sparseflow as sf
    >>> weight = nn.Parameter(torch.tensor([3.0, 1.0, 0.0]))
    >>> view = View(masks={"w": weight != 0}, parameters={"w": weight}, stored={}, counts={"w": 2},
    ...     gradients={"w": torch.tensor([0.0, 0.1, -0.2])}, learning_rate_ratios={})
    >>> list(proposals(sf.RigL(drop_fraction=0.5), view, step=100, generator=torch.Generator()))
    [('w', tensor([ True, False,  True]))]
    """
    if not view.stored and not any(map(is_sharded, view.parameters.values())):
        yield from updater.update(_layers(updater, view, view.masks), step=step, generator=generator)
    elif isinstance(updater, ActiveUpdater):
        for name in view.masks:
            # Of a sharded model one layer at a time is gathered.
            if name in view.stored:
                yield from updater.update_active(_active_layer(updater, view, name), step=step, generator=generator)
            else:
                yield from updater.update(_layers(updater, view, [name]), step=step, generator=generator)
    else:
        for name, mask in updater.update(_layers(updater, view, view.masks), step=step, generator=generator):
            yield name, unpacked(mask).view(-1).nonzero().squeeze(1) if name in view.stored else mask


def _layers(updater: MaskUpdater, view: View, names: Iterable[str]) -> Iterator[LayerState]:
    for name in names:
        if name in view.stored:
            yield from (as_dense(layer) for layer in _active_layer(updater, view, name))
            continue
        parameter, gradient = view.parameters[name], view.gradients.get(name)
        if parameter.requires_grad and not (updater.needs_gradient and gradient is None):
            ratio = view.learning_rate_ratios.get(id(parameter), 1.0)
            gradient = None if gradient is None else full(gradient)
            yield LayerState(name, full(parameter.detach()), full(view.masks[name]), gradient, ratio, view.counts[name])


def _active_layer(updater: MaskUpdater, view: View, name: str) -> Iterator[ActiveLayer]:
    """The layer, unless it sits the update out."""
    weight = view.stored[name]
    values = weight.values
    rows: Callable[[int, int], Tensor] | None = None
    if updater.needs_gradient:
        given = view.gradients.get(name)
        rows = weight.gradient_rows() if given is None else (lambda first, last: given[first:last])
    if values.requires_grad and not (updater.needs_gradient and rows is None):
        ratio = view.learning_rate_ratios.get(id(values), 1.0)
        yield ActiveLayer(name, weight.weight_shape, weight.positions(), values.detach(), values.grad, rows, ratio)
