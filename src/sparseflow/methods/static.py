"""Static masks: nothing moves. Scratch, lottery tickets and pruning at initialisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow.methods.base import Layer, Method


@dataclass(frozen=True, kw_only=True)
class Static(Method):
    """Keep the masks as they are.

    Reference: the Scratch and Lottery rows of Evci et al. (2022), Table 1.

    >>> Static().due(100)
    False
    """

    def due(self, step: int) -> bool:
        """Whether masks change: never."""
        return False

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield a copy of each layer's mask; see :meth:`Method.update`."""
        for layer in layers:
            yield layer.name, layer.mask.clone()
