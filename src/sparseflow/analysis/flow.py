"""Gradient flow: the norm of the loss gradient at active weights, layer by layer, and the gain of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sparseflow._fast import zero_inactive_
from sparseflow.analysis.layout import check_masked
from sparseflow.batches import each, forward, loss_of
from sparseflow.boundary import checked
from sparseflow.gradients import loss_gradient, norm_of, trainable, undisturbed
from sparseflow.ranges import Range
from sparseflow.sharded import full, local, shard_like
from sparseflow.types import Batches, LossFn, Masks, MaskUpdate


@dataclass(frozen=True)
class GradientFlow:
    """The loss gradient over active weights, biases and norms at one moment."""

    loss: float
    """Mean loss over the examples, without L2 term, in the loss function's unit."""
    per_layer: Mapping[str, float]
    r"""Parameter name -> :math:`\|g_l\|_2`."""

    @property
    def squared_norm(self) -> float:
        r""":math:`g^\top g`, called gradient flow in the paper's text."""
        return sum(norm**2 for norm in self.per_layer.values())

    @property
    def norm(self) -> float:
        r""":math:`\|g\|_2`, shown in the paper's figures."""
        return math.sqrt(self.squared_norm)


@checked()
def gradient_flow(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Batches,
    masks: Masks | None = None,
    *,
    training: bool | None = None,
) -> GradientFlow:
    r"""Norm of the loss gradient over active weights and all other trainable parameters, without side effects.

    .. math:: g = \nabla_{w \odot m} \frac{1}{N} \sum_{n} \ell(x_n), \qquad \text{flow} = g^\top g

    Model, gradients, batch-norm statistics and random state stay as they were, bit for bit.

    Args:
        model: The network.
        loss_fn: Mean loss of a batch, without the L2 term; ``None`` for the one that the model returns, see
            :func:`sparseflow.batches.loss_of`.
        batches: Pairs of inputs and targets, or mappings with ``labels``, see :mod:`sparseflow.batches`; give the same
            fixed examples every time (the paper: 1000 training images).
        masks: Parameter name -> mask; ``None`` counts every weight.
        training: Train or eval mode for the measurement; ``None`` keeps the model's.

    Raises:
        TypeError, ValueError: if a mask does not fit, an inactive weight is not zero, or there are no batches.

    Reference: Evci et al. (2022), section 3; protocol A.0.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> x, y = torch.tensor([[3.0, 4.0]]), torch.zeros(1)
    >>> total = lambda output, target: output.sum()
    >>> gradient_flow(layer, total, [(x, y)]).norm
    5.0
    >>> masks = {"weight": torch.tensor([[True, False]])}
    >>> from sparseflow import apply_masks_
    >>> gradient_flow(apply_masks_(layer, masks), total, [(x, y)], masks).squared_norm
    9.0
    """
    loss, gradient = masked_gradient(model, loss_fn, batches, masks, training=training)
    return GradientFlow(loss, {name: norm_of(g) for name, g in gradient.items()})


def masked_gradient(
    model: nn.Module, loss_fn: LossFn | None, batches: Batches, masks: Masks | None, *, training: bool | None = None
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and its gradient, zero at inactive weights; arguments and errors as :func:`gradient_flow`.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.zeros(1))
    >>> masks = {"weight": torch.tensor([[True, False]])}
    >>> from sparseflow import apply_masks_
    >>> masked_gradient(apply_masks_(layer, masks), lambda output, target: output.sum(), [batch], masks)[1]["weight"]
    tensor([[3., 0.]])
    """
    check_masked(model, masks or {})
    loss, gradient = loss_gradient(model, loss_fn, batches, training=training)
    for name, mask in (masks or {}).items():
        if name in gradient:
            mask = shard_like(mask.to(gradient[name].device), gradient[name])
            zero_inactive_(local(gradient[name]), local(mask))
    return loss, gradient


class Descent(NamedTuple):
    """The gain of one small gradient step, in the loss function's unit."""

    predicted: float
    r"""First order: :math:`\eta\, g^\top g`."""
    measured: float
    r""":math:`L(w) - L(w - \eta g)`."""


@checked(learning_rate=Range(0, with_low=False))
def descent(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Batches,
    masks: Masks | None = None,
    *,
    learning_rate: float,
    training: bool | None = None,
) -> Descent:
    r"""Loss decrease of one masked gradient step: first-order prediction and reality, without side effects.

    .. math:: L(w) - L(w - \eta g) \approx \eta\, g^\top g

    Args:
        model: The network; its weights come back bit for bit.
        loss_fn: Mean loss of a batch.
        batches: As for :func:`gradient_flow`; kept, and gone through twice.
        masks: Parameter name -> mask; the step moves active weights only.
        learning_rate: :math:`\eta`.
        training: Train or eval mode; ``None`` keeps the model's.

    Reference: Evci et al. (2022), section 3: gradient flow as the decrease of the loss under gradient descent.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> batches = [(torch.ones(1, 1), torch.zeros(1))]
    >>> gain = descent(layer, lambda output, target: output.sum(), batches, learning_rate=0.5)
    >>> gain.predicted, round(gain.measured, 6)  # a linear loss: the prediction is exact
    (0.5, 0.5)
    """
    found = list(each(batches))
    before, gradient = masked_gradient(model, loss_fn, found, masks, training=training)
    parameters = trainable(model)
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad(), undisturbed(model, training=training):
        try:
            for name, parameter in parameters.items():
                parameter.sub_(gradient[name], alpha=learning_rate)
            sizes = [batch.size for batch in found]
            losses = [float(loss_of(loss_fn, forward(model, batch.inputs), batch.targets)) for batch in found]
            after = sum(n * loss for n, loss in zip(sizes, losses, strict=True)) / sum(sizes)
        finally:
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
    squared = sum(float(full(g.double().square().sum())) for g in gradient.values())
    return Descent(predicted=learning_rate * squared, measured=before - after)


class UpdateFlow(NamedTuple):
    """Gradient norms right before and right after one mask update, at the same weights."""

    step: int
    before: GradientFlow
    after: GradientFlow
    moved: int
    """Number of connections grown, plus those dropped without replacement."""


class _Updates(Protocol):
    masks: dict[str, Tensor]
    before_update: list[Callable[[int], object]]
    after_update: list[Callable[[int, Mapping[str, MaskUpdate]], object]]


def record_update_flow(
    sparsifier: _Updates, model: nn.Module, loss_fn: LossFn | None, batches: Batches, *, training: bool | None = None
) -> list[UpdateFlow]:
    """Measure the gradient flow just before and just after every mask update from now on.

    The weights are those after the optimizer step of that iteration; only the masks change in between (dropped weights
    become zero, grown ones start there).

    Args:
        sparsifier: A :class:`sparseflow.Sparsifier`.
        model: Its model.
        loss_fn: Mean loss of a batch, without the L2 term.
        batches: As for :func:`gradient_flow`; kept, the same examples every time.
        training: Train or eval mode; ``None`` keeps the model's.

    Returns: a list that grows by one record at each update.

    Reference: Evci et al. (2022), Figures 3 and 8; protocol A.3.

    >>> import sparseflow as sf
    >>> model = nn.Linear(20, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> masks = sf.random_masks(model, 0.5, seed=0)
    >>> sparsifier = sf.Sparsifier(model, optimizer, masks, sf.SET(update_every=1), seed=0)
    >>> batch = (torch.ones(2, 20), torch.tensor([0, 1]))
    >>> records = record_update_flow(sparsifier, model, nn.functional.cross_entropy, [batch])
    >>> nn.functional.cross_entropy(model(batch[0]), batch[1]).backward(); optimizer.step()
    >>> [record.step for record in records]
    [1]
    """
    kept = list(each(batches))
    records: list[UpdateFlow] = []
    pending: list[GradientFlow] = []

    def measure() -> GradientFlow:
        return gradient_flow(model, loss_fn, kept, sparsifier.masks, training=training)

    def before(step: int) -> None:
        pending[:] = [measure()]

    def after(step: int, changes: Mapping[str, MaskUpdate]) -> None:
        moved = sum(max(int(change.grown.sum()), int(change.dropped.sum())) for change in changes.values())
        records.append(UpdateFlow(step, pending.pop(), measure(), moved))

    sparsifier.before_update.append(before)
    sparsifier.after_update.append(after)
    return records
