"""Dense gradients for growth: copies from before gradients are masked, running means, and a user's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from sparseflow.sharded import local, num_true
from sparseflow.sparsifier.part import Part
from sparseflow.sparsifier.stored import StoredWeight, row_parts
from sparseflow.sparsifier.weights import MaskedWeights
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


def given_gradients(gradient_fn: Callable[[], Mapping[str, Tensor]], names: Iterable[str]) -> dict[str, Tensor]:
    """What a user's function gives for these weights.

    Raises:
        TypeError: if it gives something else than gradients.
        ValueError: if it names none of the weights.

    >>> given_gradients(lambda: {"w": torch.ones(1), "bias": torch.ones(1)}, ["w"])
    {'w': tensor([1.])}
    """
    with torch.enable_grad():
        given = gradient_fn()
    if not isinstance(given, Mapping) or not all(isinstance(each, Tensor) for each in given.values()):
        raise TypeError(
            f"gradient_fn must return a mapping of parameter names to gradients, got {type(given).__name__}. "
            "Leave out the weights that have none."
        )
    needed = list(names)
    if not given.keys() & set(needed):
        raise ValueError(f"gradient_fn names no masked weight. Needed: {', '.join(needed)}; got: {', '.join(given)}.")
    return {name: given[name].detach() for name in needed if name in given}


class KeptGradients:
    """Dense gradients that are kept from before they are masked, and their running means.

    Args:
        weights: Their gradients are kept.
        decay: Of the running means; 0 where growth does not look at them.
        keeps_active: Whether gradients of the active values of weights that are stored alone are copied too.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(layer.parameters())
    >>> weights = MaskedWeights(layer, [optimizer], {"weight": torch.tensor([[True, False]])})
    >>> kept = KeptGradients(weights, decay=0.0, keeps_active=False)
    >>> layer.weight.grad = torch.tensor([[1.0, 2.0]])
    >>> kept.keep(Part(optimizer, {"weight": layer.weight}, elementwise=True))
    >>> weights.clear_gradients_(["weight"])
    >>> layer.weight.grad, kept.copies["weight"][1]
    (tensor([[1., 0.]]), tensor([[1., 2.]]))
    """

    def __init__(self, weights: MaskedWeights, *, decay: float, keeps_active: bool) -> None:
        self.copies: dict[str, tuple[Tensor, Tensor]] = {}
        """Name -> the gradient tensor that was copied, and the copy."""
        self.mean: dict[str, Tensor] = {}
        """Name -> running mean."""
        self._weights, self._decay, self._keeps_active = weights, decay, keeps_active

    def keep(self, part: Part) -> None:
        """Copy the gradients of an optimizer's weights before they are masked."""
        kept = keep_dense(part.weights, self._weights.dense, self.copies)
        self.forget(part)
        self.copies |= kept
        if self._keeps_active:
            values = {name: weight.values for name, weight in self._weights.stored_of(part.optimizer).items()}
            copied = {name: (each.grad, each.grad.clone()) for name, each in values.items() if each.grad is not None}
            self.copies |= copied
            if (scale := getattr(part.optimizer, "grad_scale", None)) is not None:
                for _, copy in (kept | copied).values():
                    copy.div_(scale)  # its score adds gradients to weights

    def forget(self, part: Part) -> None:
        """Forget the copies of an optimizer's weights: another backward pass has taken their place."""
        for name in part.weights:
            self.copies.pop(name, None)

    def missing(self, part: Part) -> list[tuple[nn.Parameter, Tensor]]:
        """Weights of an optimizer with gradients of which there is no copy."""
        return [
            (weight, weight.grad)
            for name, weight in part.weights.items()
            if weight.grad is not None and self.copies.get(name, (None, None))[0] is not weight.grad
        ]

    def observe(self, part: Part) -> None:
        """Update the running means of an optimizer's weights."""
        scale = getattr(part.optimizer, "grad_scale", None)
        stored = self._weights.stored_of(part.optimizer)
        observe_(self.mean, part.weights, self.copies, stored, decay=self._decay, scale=scale)

    def follow_(self, name: str) -> None:
        """Give a running mean the device and dtype of its weight, which may have moved."""
        if name in self.mean:
            weight = self._weights.parameters[name]
            self.mean[name] = self.mean[name].to(weight.device, weight.dtype)
