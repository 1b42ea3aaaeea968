"""What an update did to all masks, kept in bits and told layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.types import Masks, MaskUpdate
from sparseflow.updaters.base import changed

#: Moves the lowest bit of byte k of a word to bit 56 + k; bit k of every byte; copies a byte to all eight.
_GATHER, _PLACES, _COPIES = 0x0102040810204080, 0x8040201008040201 - (1 << 64), 0x0101010101010101


def packed(mask: Tensor) -> Tensor:
    """A mask in bits, eight weights a byte.

    Args:
        mask: bool, any shape.

    Returns: uint8, ``(ceil(numel / 8),)``; the first weight is the lowest bit.

    >>> packed(torch.tensor([[True, False, False], [False, True, True], [False, False, True]]))
    tensor([49,   1], dtype=torch.uint8)
    """
    bytes_ = mask.reshape(-1).view(torch.uint8)
    words = F.pad(bytes_, (0, -len(bytes_) % 8)).view(torch.int64)
    return (words * _GATHER >> 56).to(torch.uint8)


def unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of :func:`packed`.

    >>> unpacked(torch.tensor([49, 1], dtype=torch.uint8), torch.Size([9])).nonzero().squeeze(1)
    tensor([0, 4, 5, 8])
    """
    words = bits.to(torch.int64).mul_(_COPIES).bitwise_and_(_PLACES)
    return (words.view(torch.uint8) != 0)[: shape.numel()].view(shape)


class Snapshot:
    """Masks at one moment, an eighth of a byte a weight.

    >>> masks = {"w": torch.tensor([True, False, True])}
    >>> before = Snapshot(masks)
    >>> _ = masks["w"].fill_(False)
    >>> before["w"]
    tensor([ True, False,  True])
    """

    def __init__(self, masks: Masks) -> None:
        # Tensors of other kinds, such as sharded ones, need not have memory that can be cut into words.
        self._kept = {name: packed(mask) if type(mask) is Tensor else mask.clone() for name, mask in masks.items()}
        self._shapes = {name: mask.shape for name, mask in masks.items()}

    def __getitem__(self, name: str) -> Tensor:
        kept = self._kept[name]
        return unpacked(kept, self._shapes[name]) if kept.dtype == torch.uint8 else kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


class Changes(Mapping[str, MaskUpdate]):
    """Name -> what an update changed, computed when it is asked for: no more than one layer is in memory at once.

    Args:
        before: Masks before the update, of the layers that took part.
        after: The same masks after it.

    >>> before, after = (Snapshot({"w": torch.tensor(mask)}) for mask in ([True, False], [False, True]))
    >>> Changes(before, after)["w"].grown
    tensor([False,  True])
    """

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        self._before, self._after = before, after

    def __getitem__(self, name: str) -> MaskUpdate:
        return changed(self._before[name], self._after[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._before)

    def __len__(self) -> int:
        return len(self._before)
