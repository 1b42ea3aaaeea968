"""Dense gradients for growth: copies made before gradients are masked, and running means."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparseflow.sharded import local, num_true
from sparseflow.sparsifier.stored import StoredWeight, row_parts
from sparseflow.types import Masks

#: Name -> the gradient tensor that was copied, and the copy.
Kept = Mapping[str, tuple[Tensor, Tensor]]


def keep_dense(parameters: Mapping[str, nn.Parameter], masks: Masks, before: Kept) -> dict[str, tuple[Tensor, Tensor]]:
    """Copy the gradients before they are masked; a copy of an older backward pass is replaced.

    Args:
        parameters: Name -> weight with zeros.
        masks: Name -> its mask.
        before: The copies kept so far.

    Returns: name -> the gradient tensor that was copied, and the copy.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> weight.grad, mask = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    >>> kept = keep_dense({"w": weight}, {"w": mask}, {})
    >>> _ = weight.grad.mul_(mask)
    >>> keep_dense({"w": weight}, {"w": mask}, kept)["w"]
    (tensor([1., 0.]), tensor([1., 2.]))
    """
    kept = {}
    for name, parameter in parameters.items():
        if parameter.grad is None:
            continue
        source, dense = before.get(name, (None, None))
        # Masked already, and not written to off the mask since: the copy is of this very gradient.
        if dense is None or source is not parameter.grad or num_true((parameter.grad != 0) & ~masks[name]):
            dense = parameter.grad.clone()
        kept[name] = (parameter.grad, dense)
    return kept


def observe_(
    means: dict[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    kept: Kept,
    stored: Mapping[str, StoredWeight],
    *,
    decay: float,
    scale: Tensor | None = None,
) -> None:
    r"""Update the running means of the dense gradients in place.

    .. math:: m \leftarrow \beta m + (1 - \beta) g

    Args:
        means: Name -> :math:`m`; starts at zero.
        parameters: Weights that are stored whole; their gradient is ``grad``.
        kept: Or the copy of it, where it has been masked since.
        stored: Weights of which only the active values are stored; they make their dense gradient a few rows at a time.
        decay: :math:`\beta`.
        scale: By which a ``GradScaler`` multiplied the gradients, if the optimizer divides by it itself.

    >>> weight, means = nn.Parameter(torch.ones(1)), {}
    >>> weight.grad = torch.ones(1)
    >>> observe_(means, {"w": weight}, {}, {}, decay=0.75)
    >>> means
    {'w': tensor([0.2500])}
    """
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            mean = local(means.setdefault(name, torch.zeros_like(parameter.grad)))
            gradient = local(kept[name][1] if name in kept else parameter.grad)
            gradient = gradient if scale is None else gradient / scale
            mean.mul_(decay).add_(gradient, alpha=1 - decay)
    for name, weight in stored.items():
        if (rows := weight.gradient_rows()) is not None:
            shape = weight.weight_shape
            mean = means.setdefault(name, torch.zeros(shape, dtype=weight.values.dtype))
            for first, last in row_parts(shape):
                gradient = rows(first, last) if scale is None else rows(first, last) / scale
                mean[first:last].mul_(decay).add_(gradient, alpha=1 - decay)
