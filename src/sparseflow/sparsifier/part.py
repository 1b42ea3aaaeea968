"""One of the optimizers that a Sparsifier listens to, and the weights that it steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
    """Whether the step under way only lets the optimizer make its state, see :func:`_makes_state`."""

    @property
    def held(self) -> list[nn.Parameter]:
        """All parameters that the optimizer steps."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
