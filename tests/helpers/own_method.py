"""A method as a user would write it: a plain class of which the library knows nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sparseflow.methods import Layer, Swap
from sparseflow.methods.scores import gradient_magnitude, magnitude


def noisy_gradient(weight: Tensor, gradient: Tensor | None, *, generator: torch.Generator) -> Tensor:
    """Gradient magnitude times a uniform draw."""
    noise = torch.rand(weight.shape, generator=generator, dtype=weight.dtype)
    return gradient_magnitude(weight, gradient, generator=generator) * noise


class OneByOne:
    """Exchanges two connections by noisy gradients, and turns the mask of one layer around."""

    needs_gradient = True
    gradient_decay = 0.0
    replaces_step = False

    def __init__(self, *, every: int, turned: str) -> None:
        self.every, self.turned = every, turned

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def update(
        self, layers: Iterable[Layer], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Swap | Tensor]]:
        for layer in layers:
            if layer.name == self.turned:
                yield layer.name, layer.mask.flip(-1)
            else:
                count = min(2, layer.num_active)
                yield layer.name, Swap(count, count, drop_score=magnitude, grow_score=noisy_gradient)
