"""What a reader of one format takes out of a state dict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

#: Precisions of weights that can be trained on; others are quantised.
FLOATS = torch.float32, torch.bfloat16, torch.float16, torch.float64
#: No weight has more entries; a product of sizes beyond it would overflow.
_MOST = 2**48


class Stored(NamedTuple):
    """A weight with zeros off its mask."""

    weight: Tensor
    mask: Tensor


class Taken(NamedTuple):
    """The weights that a reader found, by the names that they have in the model, and the tensors that it left."""

    weights: dict[str, Stored]
    rest: dict[str, Tensor]


def masked(name: str, weight: Tensor, mask: Tensor) -> Stored:
    """A dense weight and the mask that a tool keeps beside it.

    Args:
        name: Of the weight, for errors.
        weight: Its entries off the mask are dropped.
        mask: Of any type; nonzero means active.

    Raises:
        ValueError: if the shapes differ, or an entry of the mask is neither 0 nor 1.

    >>> masked("fc.weight", torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])).weight
    tensor([0., 2.])
    """
    if mask.shape != weight.shape:
        raise ValueError(f"the mask of {name!r} has shape {tuple(mask.shape)}, its weight {tuple(weight.shape)}")
    numbers = mask.view(torch.uint8) if mask.dtype == torch.bool else mask  # a bool has bytes that torch takes for 1
    active = numbers != 0
    if not bool((active <= (numbers == 1)).all()):
        raise ValueError(f"the mask of {name!r} has entries that are neither 0 nor 1")
    return Stored(torch.where(active, weight, 0), active)


def shape_of(name: str, stored: Tensor) -> tuple[int, ...]:
    """A shape that a file holds as a tensor.

    Raises:
        ValueError: if it is no shape of a weight.

    >>> shape_of("fc.shape", torch.tensor([[8], [4]]))
    (8, 4)
    """
    if stored.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name!r} is {stored.dtype}, and a shape is int64")
    sizes = tuple(stored.reshape(-1).tolist())
    if not 1 <= len(sizes) <= 8 or min(sizes) < 1 or math.prod(sizes) > _MOST:
        raise ValueError(f"{name!r} says {list(sizes[:8])}, which is no shape of a weight")
    return sizes


def check_float(name: str, values: Tensor) -> None:
    """Check that values are no quantised ones.

    Raises:
        ValueError: if they are.
    """
    if values.dtype not in FLOATS:
        raise ValueError(
            f"{name!r} is {values.dtype}, so the weights are quantised, and a mask goes with weights in floating "
            "point: load the model with the tool that wrote it, and save it dequantised"
        )


def without(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a state that are not named."""
    gone = set(names)
    return {name: tensor for name, tensor in state.items() if name not in gone}
