"""One of the optimizers that a Sparsifier listens to, and the weights that it steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow.sharded import full
from sparseflow.sparsifier.kinds import keeps_zeros
from sparseflow.sparsifier.weights import MaskedWeights


@dataclass
class Part:
    """One optimizer, the masked weights that it steps, and what its step under way needs."""

    optimizer: torch.optim.Optimizer
    weights: dict[str, nn.Parameter]
    """Those that are stored whole, or in parts."""
    elementwise: bool
    """Whether a step leaves zero weights with zero gradients at zero."""
    parked: list[tuple[nn.Parameter, Tensor]] | None = None
    """Gradients that are taken away while an update replaces the step."""
    stateless: tuple[nn.Parameter, ...] = ()
    ran_dense: bool = False
    """Whether the step under way has dense gradients, which growth reads after it."""
    makes_state: bool = False
    """Whether the step under way only lets the optimizer make its state, see :meth:`only_makes_state`."""

    @property
    def held(self) -> list[nn.Parameter]:
        """All parameters that the optimizer steps."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def only_makes_state(self) -> bool:
        """Whether a step without a closure is none of training, but lets a fresh optimizer make its state.

        ``torch.distributed.checkpoint`` asks for that before it saves or loads one, by ``step(closure=None)`` with
        rates and gradients that it sets to zero.
        """
        if self.optimizer.state or any(group.get("lr") != 0 for group in self.optimizer.param_groups):
            return False
        gradients = [parameter.grad for parameter in self.held if parameter.grad is not None]
        return bool(gradients) and not any(full(gradient).any() for gradient in gradients)


def part_of(optimizer: torch.optim.Optimizer, weights: MaskedWeights) -> Part:
    """An optimizer and the weights with zeros that it steps."""
    held = {name: p for name, p in weights.parameters.items() if weights.optimizer_of.get(name) is optimizer}
    return Part(optimizer, held, keeps_zeros(optimizer, held.values()))
