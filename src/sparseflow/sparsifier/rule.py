"""The interface of an optimizer rule: what it is shown of a step, and how what it remembers follows mask updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sparseflow.masks.fans import Layout
from sparseflow.sharded import local


class RuleWeight(NamedTuple):
    """A weight of two or more axes that an optimizer steps, as a rule is shown it."""

    name: str
    """Of the masked weight; empty for a weight without a mask."""
    parameter: nn.Parameter
    """What the optimizer steps: the weight with its zeros, or its active values alone."""
    mask: Tensor | None
    """Of this process's part; ``None`` where every entry is active: stored values, and weights without a mask."""
    group: Mapping[str, Any]
    """The optimizer's group of the parameter."""
    optimizer: torch.optim.Optimizer

    @property
    def value(self) -> Tensor:
        """This process's part, without autograd; writes to it are the weight's."""
        return local(self.parameter.detach())

    @property
    def gradient(self) -> Tensor:
        """This process's part, zero off the mask; rules are shown weights that have one."""
        assert self.parameter.grad is not None
        return local(self.parameter.grad)


class MaskedShape(NamedTuple):
    """A masked weight with its mask as a whole, wherever its entries are held; shown when a mask has changed."""

    mask: Tensor
    """bool, of the dense weight's shape."""
    layout: Layout
    """Which axes are units and inputs."""
    parameter: nn.Parameter
    """What the optimizer steps."""
    positions: Tensor | None
    """Of a weight whose active values alone are stored: their places in the flattened dense weight."""

    def held(self, tensor: Tensor) -> Tensor:
        """What was remembered of each active weight, whole or as active values alone, as this weight is held.

        Raises:
            ValueError: if it is neither.

        >>> from sparseflow.masks.fans import PLAIN
        >>> mask = torch.tensor([True, False, True])
        >>> MaskedShape(mask, PLAIN, nn.Parameter(torch.ones(3)), None).held(torch.tensor([5.0, 7.0]))
        tensor([5., 0., 7.])
        """
        if tensor.shape == self.parameter.shape:
            return tensor
        if self.positions is not None and tensor.shape == self.mask.shape:
            return tensor.flatten()[self.positions]
        if tensor.shape == (active := int(self.mask.sum()),):
            return tensor.new_zeros(self.mask.shape).masked_scatter_(self.mask, tensor)
        raise ValueError(
            f"the state of a rule has {tuple(tensor.shape)} for a weight of {tuple(self.mask.shape)} with {active} "
            "active. Load it together with the masks that it was saved with."
        )


class Carry(NamedTuple):
    """Where the entries of a weight went at a mask update."""

    stays: Tensor
    """bool, of the shape held now: active before the update and after it."""
    source: Tensor | None
    """Of stored values: where those that stay were before."""

    def __call__(self, tensor: Tensor) -> Tensor:
        """Entries that a rule remembers, at their new places; zero where a weight grew, and off the mask.

        >>> Carry(torch.tensor([False, True]), torch.tensor([2]))(torch.tensor([5.0, 6.0, 7.0]))
        tensor([0., 7.])
        """
        if self.source is None:
            return tensor.masked_fill(~self.stays, 0)
        return tensor.new_zeros(self.stays.shape).masked_scatter_(self.stays, tensor[self.source])


@dataclass
class StepRule:
    """A change to the optimizer's steps, made inside ``optimizer.step()``; ``sparseflow.rules`` has those known.

    Whatever a rule does not say is left as it is. A rule belongs to one Sparsifier; its fields are its options, and
    what it remembers is no argument (``field(init=False)``).
    """

    replaces_step: ClassVar[bool] = False
    """Whether it puts steps of its own in the place of the optimizer's; such a rule is the last, and alone in this."""

    @property
    def optimizers(self) -> Iterable[torch.optim.Optimizer]:
        """Optimizers of its own, which forget their momentum when the others do."""
        return ()

    def attach(self, optimizers: Sequence[torch.optim.Optimizer], shapes: Mapping[str, MaskedShape]) -> None:
        """Take note of what is trained.

        Raises:
            ValueError: if the rule cannot be right there, in one line that says why and what to use instead.
        """

    def before_step(self, weights: Sequence[RuleWeight]) -> None:
        """Change gradients, which are masked, once they scored growth and before an optimizer steps by them."""

    def after_step(self, weights: Sequence[RuleWeight]) -> None:
        """Change weights that an optimizer has stepped; inactive ones are zero, and have to stay so."""

    def masks_changed(self, carry: Mapping[str, Carry], shapes: Mapping[str, MaskedShape]) -> None:
        """Follow an update: names of the weights that may have moved, and all weights as they are now."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; empty if nothing is remembered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], shapes: Mapping[str, MaskedShape]) -> None:
        """Restore :meth:`state_dict`, also of a run whose weights were held otherwise, see :meth:`MaskedShape.held`."""
