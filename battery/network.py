"""What every trial trains: a small network on clusters, and one step of it in each kind of loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from battery.optimizers import Row

SPARSITY = 0.9
CLASSES, CHANNELS, SIDE, BATCH = 10, 4, 4, 64
#: 64 x 64: quantised state begins at 4096 values.
HIDDEN = CHANNELS * SIDE * SIDE


def network(seed: int, *, flat: bool = False) -> tuple[nn.Module, dict[str, Tensor]]:
    """A convolution (``flat``: one more linear layer) and two linear layers, initialised under masks; these masks."""
    torch.manual_seed(seed)
    first = (nn.Flatten(), nn.Linear(HIDDEN, HIDDEN)) if flat else (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),)
    model = nn.Sequential(
        *first,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES),
    )
    masks = sf.random_masks(model, SPARSITY, seed=seed)
    sf.initialize_(model, masks, seed=seed)
    return model, masks


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Noisy points around one centre for each class; the same for the same step."""
    centres = torch.randn(CLASSES, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1 + step)
    classes = torch.randint(CLASSES, (BATCH,), generator=generator)
    return centres[classes] + 0.7 * torch.randn(BATCH, CHANNELS, SIDE, SIDE, generator=generator), classes


def objective(model: nn.Module, step: int) -> Tensor:
    """The loss of a step's batch."""
    points, classes = batch(step)
    return F.cross_entropy(model(points), classes)


def mask_(tensors: Mapping[str, Tensor | None], masks: Mapping[str, Tensor]) -> None:
    """Zero tensors off the masks."""
    with torch.no_grad():
        for name, mask in masks.items():
            if (tensor := tensors[name]) is not None:
                tensor.masked_fill_(~mask, 0.0)


@dataclass
class Training:
    """A model, its optimizers and the loop around them."""

    row: Row
    model: nn.Module
    hand: Mapping[str, Tensor] = field(default_factory=dict)
    """Masks that the loop itself puts on gradients before a step and on weights after it."""
    objective: Callable[[nn.Module, int], Tensor] = objective
    after_backward: Callable[[], None] = lambda: None
    step_count: int = 0

    def __post_init__(self) -> None:
        mask_(dict(self.model.named_parameters()), self.hand)
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # Kron balances its factors at random by this
        self.made = self.row.make(self.model)
        self.optimizers: list[Any] = self.made if isinstance(self.made, list) else [self.made]
        self.mode("train")

    def mode(self, name: str) -> bool:
        """Call ``train()`` or ``eval()`` of optimizers that swap weights; whether there is one."""
        calls = [getattr(optimizer, name) for optimizer in self.optimizers if hasattr(optimizer, name)]
        for call in calls:
            call()
        return bool(calls)

    def step(self) -> float:
        """One step; its loss."""

        def closure() -> Tensor:
            with torch.enable_grad():
                self.model.zero_grad(set_to_none=True)
                loss = self.objective(self.model, self.step_count)
                if self.row.loop == "fused":
                    self.made.fused_backward(loss, self.made.param_groups[0].get("lr", 1e-3))
                else:
                    loss.backward(create_graph=self.row.graph)
            self.after_backward()
            mask_({name: parameter.grad for name, parameter in self.model.named_parameters()}, self.hand)
            return loss.detach()

        loop = self.row.loop
        loss = closure() if loop != "closure" else None
        for optimizer in self.optimizers:
            if loop in ("closure", "both"):
                loss = optimizer.step(closure)
            elif loop == "value":
                optimizer.step(partial(float, loss or 0.0))
            elif loop != "fused":
                optimizer.step()
        mask_(dict(self.model.named_parameters()), self.hand)
        self.step_count += 1
        return float(loss) if isinstance(loss, (Tensor, float)) else 0.0

    def weights(self) -> dict[str, Tensor]:
        """A copy of all parameters as they are now."""
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def state(self) -> dict[str, Any]:
        """Everything but the Sparsifier's that a resumed run needs; not copied."""
        for optimizer in self.optimizers:
            if hasattr(optimizer, "consolidate_state_dict"):
                optimizer.consolidate_state_dict()
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()),
            "step_count": self.step_count,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the random generators come last, since making things drew from them."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step_count = state["step_count"]
        torch.set_rng_state(state["random"][0])
        random.setstate(state["random"][1])
        np.random.set_state(state["random"][2])


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest difference of two sets of weights over the largest weight; NaN equals NaN.

    >>> difference({"w": torch.tensor([1.0, 4.0])}, {"w": torch.tensor([1.0, 2.0])})
    1.0
    """
    worst = 0.0
    for name, one in a.items():
        other = b[name]
        apart = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, (one - other).abs())
        worst = max(worst, float(apart.nan_to_num(nan=torch.inf).max()) / max(float(other.abs().max()), 1e-30))
    return worst
