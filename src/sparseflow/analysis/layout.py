"""The layout of a parameter vector: active weights and all other trainable parameters, end to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks, check_values, check_zero_off_mask
from sparseflow.attached import check_current
from sparseflow.boundary import checked
from sparseflow.gradients import trainable
from sparseflow.masks.select import maskable
from sparseflow.types import Masks


@dataclass(frozen=True, eq=False)
class ActiveLayout:
    """The place of each parameter's active entries in a vector; made by :func:`active_parameters`."""

    shapes: Mapping[str, torch.Size]
    """Parameter name -> shape of the whole tensor, in the order of the vector."""
    positions: Mapping[str, Tensor | None]
    """Parameter name -> int64, ascending: active entries of the flattened tensor; ``None`` if all are active."""

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, in the order of the vector."""
        return tuple(self.shapes)

    @property
    def counts(self) -> dict[str, int]:
        """Parameter name -> number of its entries in the vector."""
        return {
            name: shape.numel() if (found := self.positions[name]) is None else len(found)
            for name, shape in self.shapes.items()
        }

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(self.counts.values())

    @property
    def slices(self) -> dict[str, slice]:
        """Parameter name -> its part of the vector."""
        found, end = {}, 0
        for name, count in self.counts.items():
            found[name] = slice(end, end + count)
            end += count
        return found

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The vector of the active entries, differentiable.

        Args:
            tensors: Parameter name -> tensor of the parameter's shape; others are ignored.

        Raises:
            ValueError: if a tensor is missing or has another shape.
        """
        for name, shape in self.shapes.items():
            if name not in tensors or tensors[name].shape != shape:
                found = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise ValueError(f"{name!r} needs a tensor of shape {tuple(shape)}, got {found}.")
        return torch.cat([_taken(tensors[name].reshape(-1), self.positions[name]) for name in self.shapes])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Parameter name -> whole tensor, zero where inactive, differentiable; undoes :meth:`flatten`.

        Raises:
            ValueError: if the vector has another shape.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"the vector has shape {tuple(vector.shape)}, it needs ({self.size},): ActiveLayout.size.")
        return {name: _put(vector[part], self.positions[name], self.shapes[name]) for name, part in self.slices.items()}


@checked()
def active_parameters(model: nn.Module, masks: Masks | None = None) -> ActiveLayout:
    """The order of gradients, Hessians and directions of a sparse network: trainable entries and nothing else.

    Parameters follow each other as in ``model.named_parameters()``: layer by layer, kernel before bias. Only
    the active entries of a masked weight count, row by row; biases, norms and weights without a mask count whole.

    Args:
        model: The network; frozen parameters are left out.
        masks: Parameter name -> mask; ``None`` counts every weight.

    Raises:
        TypeError, ValueError: if a mask does not fit or is not what the model's Sparsifier holds now, an inactive
            weight is not zero, or nothing is trainable.

    Reference: Evci et al. (2022), section 4.2; protocol H.

    >>> model = nn.Linear(2, 2)
    >>> model.weight.data = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    >>> layout = active_parameters(model, {"weight": model.weight != 0})
    >>> layout.size, layout.slices
    (5, {'weight': slice(0, 3, None), 'bias': slice(3, 5, None)})
    >>> layout.flatten({"weight": model.weight.detach(), "bias": torch.zeros(2)})
    tensor([1., 2., 3., 0., 0.])
    """
    parameters = trainable(model)
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient.")
    masks = masks or {}
    check_masked(model, masks)
    return ActiveLayout(
        shapes={name: parameter.shape for name, parameter in parameters.items()},
        positions={
            name: masks[name].to(parameter.device).flatten().nonzero().flatten() if name in masks else None
            for name, parameter in parameters.items()
        },
    )


def check_masked(model: nn.Module, masks: Masks) -> None:
    """Raise ``TypeError`` or ``ValueError`` if masks do not fit or are old, or weights have no values or are not 0."""
    weights = {name: weight.parameter for name, weight in maskable(model).items()} if masks else {}
    check_masks(masks, weights)
    check_current(masks, weights)
    check_values({name: weights[name] for name in masks})
    for name, mask in masks.items():
        check_zero_off_mask(name, weights[name], mask)


def _taken(flat: Tensor, positions: Tensor | None) -> Tensor:
    return flat if positions is None else flat.index_select(0, positions)


def _put(values: Tensor, positions: Tensor | None, shape: torch.Size) -> Tensor:
    if positions is None:
        return values.view(shape)
    return values.new_zeros(shape.numel()).index_copy(0, positions, values).view(shape)
