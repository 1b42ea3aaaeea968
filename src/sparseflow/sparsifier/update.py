"""One mask update: layers are shown to a method and its requests carried out; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._checks import check_finite
from sparseflow._fast import Exchange, Magnitude, StagedMask, exchange, unstaged
from sparseflow.masks.blocks import BlockGrid, check_made_of
from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.methods.base import Layer, Method, Swap
from sparseflow.methods.drop_grow import drop_and_grow
from sparseflow.methods.run import OpenEndWarning
from sparseflow.methods.scores import ScoreFn, gradient_magnitude, magnitude
from sparseflow.sharded import full
from sparseflow.sparsifier.stored import StoredLayer
from sparseflow.sparsifier.weights import MaskedWeights
from sparseflow.warn import warn


class WholeLayer(NamedTuple):
    """A layer at a mask update with all of its weights, zero where inactive."""

    name: str
    weight: Tensor
    mask: Tensor
    gradient: Tensor | None
    """The dense gradient, if the method asked for it, or that of active weights, if it reads that."""
    learning_rate_ratio: float
    """Learning rate of this weight's group over its initial one."""
    num_active: int
    """Number of active weights."""
    budget: int
    """Number of active weights that the training began with."""
    grid: BlockGrid | None = None
    """The blocks that move as a whole, if any do."""
    layout: Layout = PLAIN
    """Which axes of the weight are units and inputs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.mask.shape)

    def replace(self, mask: Tensor) -> Tensor:
        """The new mask, as it is given.

        Raises:
            ValueError: if it is not made of the layer's blocks.
        """
        if self.grid is not None:
            check_made_of({self.name: self.grid}, {self.name: mask})
        return mask

    def begin(self, swap: Swap, *, generator: torch.Generator, gradient_name: str) -> Exchange:
        """Draw the scores of a request; the exchange itself, of weights or of blocks, is left to do, on any thread.

        ``gradient_name`` stands in the errors of the exchange.
        """
        drop, grow = (self._scores(score, generator) for score in (swap.drop_score, swap.grow_score))
        mask, size = (self.mask, 1) if self.grid is None else (self.grid.of(self.mask), self.grid.size)
        active, num_drop, num_grow = (count // size for count in (self.num_active, swap.num_drop, swap.num_grow))
        return Exchange(mask, active, drop, grow, num_drop, num_grow, swap.regrow)

    def _scores(self, score: ScoreFn, generator: torch.Generator) -> Tensor | Magnitude:
        """The scores of weights, or their sums over blocks."""
        # The two most common scores are absolute values, and need not be computed to be compared.
        if score is magnitude:
            return Magnitude(self.weight) if self.grid is None else self.grid.sums(self.weight, magnitude=True)
        if score is gradient_magnitude and self.gradient is not None:
            return Magnitude(self.gradient) if self.grid is None else self.grid.sums(self.gradient, magnitude=True)
        scores = score(self.weight, self.gradient, generator=generator)
        return scores if self.grid is None else self.grid.sums(scores)


def warn_open_end(method: Method, *, rate_is_scheduled: bool) -> None:
    """Warn of updates that nothing ends, neither a last step nor a learning rate that falls.

    Args:
        method: One whose ``until`` is ``None`` never stops.
        rate_is_scheduled: Whether a scheduler moves the learning rate, with which the default drop fraction falls.

    >>> from sparseflow.methods import RigL
    >>> warn_open_end(RigL(total_steps=600), rate_is_scheduled=False)
    """
    if getattr(method, "until", 0) is None and not rate_is_scheduled:
        warn(
            "masks change until the run ends and the learning rate has no schedule, so the last update may leave "
            "weights that are never trained. Give total_steps=, the optimizer steps of the run (updates then stop "
            "after 75 % of them), or update_until=.",
            OpenEndWarning,
        )


def reads_active_gradient(method: Method) -> bool:
    """Whether an update looks at the gradient of active weights, and of no others.

    >>> from sparseflow.methods import MEST, RigL
    >>> reads_active_gradient(MEST()), reads_active_gradient(RigL())
    (True, False)
    """
    return bool(getattr(method, "reads_active_gradient", False)) and not method.needs_gradient


def new_masks(
    method: Method,
    weights: MaskedWeights,
    *,
    gradients: Mapping[str, Tensor],
    learning_rate_ratios: Mapping[int, float],
    step: int,
    generator: torch.Generator,
) -> Iterator[tuple[str, Tensor | StagedMask]]:
    """Each weight's new mask; of those stored as active values alone, their new positions, int64, ascending.

    A frozen weight, and one without the gradient that growth needs, sits the update out.

    Args:
        gradients: Name -> dense gradient for growth, or that of active weights, as far as there is one.
        learning_rate_ratios: ``id`` of a parameter -> the learning rate of its group over the initial one.
        generator: For random scores; drawn from layer by layer, in the order of the masks.

    Raises:
        ValueError: if a gradient that is looked at is NaN or infinite, and whatever the method raises.

    >>> import sparseflow as sf
    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, 1.0, 0.0]])
    >>> weights = MaskedWeights(model, [torch.optim.SGD(model.parameters())], {"weight": model.weight != 0})
    >>> masks = new_masks(sf.RigL(drop_fraction=0.5), weights, gradients={"weight": torch.tensor([[0.0, 0.1, -0.2]])},
    ...     learning_rate_ratios={}, step=100, generator=torch.Generator())
    >>> list(masks)
    [('weight', tensor([[ True, False,  True]]))]
    """
    shown: dict[str, WholeLayer | StoredLayer] = {}

    def layers() -> Iterator[Layer]:
        for name in weights.masks:
            gradient = gradients.get(name)
            if _takes_part(method, weights, name, gradient):
                shown[name] = _look(method, weights, name, gradient, learning_rate_ratios)
                yield shown[name]

    def begin(name: str, request: Swap | Tensor) -> tuple[_Begun, Exchange | Tensor]:
        layer = shown.pop(name)
        if not isinstance(request, Swap):
            return _Begun(layer), layer.replace(request)
        work = layer.begin(request, generator=generator, gradient_name=_gradient_name(layer, step))
        return _Begun(layer, request.grow_score is gradient_magnitude), work

    requests = method.update(layers(), step=step, generator=generator)
    if weights.stored or weights.sharded:
        # One layer at a time is gathered, or made dense a few rows at a time.
        for name, request in requests:
            yield from _carry_out([begin(name, request)], step=step)
    else:
        yield from _carry_out((begin(*request) for request in requests), step=step)


def _takes_part(method: Method, weights: MaskedWeights, name: str, gradient: Tensor | None) -> bool:
    stored = weights.stored.get(name)
    held = weights.parameters[name] if stored is None else stored.values
    known = gradient is not None or (stored is not None and stored.gradient_rows() is not None)
    if reads_active_gradient(method):
        known = known or (stored is not None and held.grad is not None)
    return held.requires_grad and (known or not (method.needs_gradient or reads_active_gradient(method)))


def _look(
    method: Method, weights: MaskedWeights, name: str, gradient: Tensor | None, ratios: Mapping[int, float]
) -> WholeLayer | StoredLayer:
    grid, layout = weights.grids.get(name), weights.layouts[name]
    if name in weights.stored:
        stored = weights.stored[name]
        values = stored.values
        rows = None
        if method.needs_gradient:
            rows = stored.gradient_rows() if gradient is None else (lambda first, last: gradient[first:last])
        positions, ratio = stored.positions(), ratios.get(id(values), 1.0)
        copied = gradient is not None and reads_active_gradient(method)  # before the optimizer overwrote it
        held = stored.weight_shape, positions, values.detach(), gradient if copied else values.grad
        return StoredLayer(
            name, *held, rows, ratio, weights.budgets[name], weights.grids.get(name), weights.layouts[name]
        )
    parameter, mask = weights.parameters[name], weights.dense[name]
    weight, ratio = parameter.detach(), ratios.get(id(parameter), 1.0)
    if name in weights.sharded:
        weight, mask, gradient = full(weight), full(mask), None if gradient is None else full(gradient)
    return WholeLayer(name, weight, mask, gradient, ratio, weights.counts[name], weights.budgets[name], grid, layout)


def shown_layers(method: Method, weights: MaskedWeights) -> Iterator[Layer]:
    """The layers as an update would show them to a method, without gradients; one at a time."""
    return (_look(method, weights, name, None, {}) for name in weights.masks)


class _Begun(NamedTuple):
    """A layer whose request is being carried out."""

    layer: WholeLayer | StoredLayer
    by_gradient: bool = False
    """Whether the exchange looks at all of the gradient itself."""


def _carry_out(
    begun: Iterable[tuple[_Begun, Exchange | Tensor]], *, step: int
) -> Iterator[tuple[str, Tensor | StagedMask]]:
    """Finish the exchanges, many layers at once."""
    new: Tensor | StagedMask | None
    for (layer, by_gradient), work, new in exchange(begun):
        if not isinstance(work, Exchange):
            yield layer.name, work
            continue
        if layer.gradient is not None and (new is None or not by_gradient):
            check_finite(layer.gradient, name=_gradient_name(layer, step))
        if new is None:
            drop, grow = work.scores()
            new = drop_and_grow(work.mask, drop, grow, work.num_drop, work.num_grow, regrow=work.regrow).mask
        yield layer.name, new if layer.grid is None else layer.grid.spread(unstaged(new))


def _gradient_name(layer: Layer, step: int) -> str:
    return f"the gradient of {layer.name!r} at the mask update of step {step}"
