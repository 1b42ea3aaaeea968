"""Masks in bits, eight weights a byte: so an update keeps what was and what comes, at a quarter of a byte a weight."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow._fast.memory import in_memory_order, is_compiled, words

#: Moves the lowest bit of byte k of a word to bit 56 + k; bit k of every byte; copies a byte to all eight.
_GATHER, _PLACES, _COPIES = 0x0102040810204080, 0x8040201008040201 - (1 << 64), 0x0101010101010101


class PackedMask(NamedTuple):
    """A mask in bits; made by :func:`pack`.

    >>> pack(torch.tensor([[True, False], [False, True]])).unpack()
    tensor([[ True, False],
            [False,  True]])
    """

    bits: Tensor
    """uint8 ``(ceil(numel / 8),)``, first weight in the lowest bit; channels last as in memory, else as indexed."""
    like: Tensor
    """Without memory of its own: the mask's shape and strides."""

    def unpack(self) -> Tensor:
        """The mask: bool, of the same shape, strides and device."""
        spread = self.bits.to(torch.int64).mul_(_COPIES).bitwise_and_(_PLACES).view(torch.uint8)
        flat = (spread != 0)[: self.like.numel()]
        mask = torch.empty_like(self.like, device=self.bits.device)
        (ordered,) = in_memory_order(mask)
        ordered.copy_(flat.view(ordered.shape))
        return mask


def pack(mask: Tensor) -> PackedMask:
    """A mask in bits.

    Args:
        mask: bool, any shape.

    >>> pack(torch.tensor([[True, False, False], [False, True, True], [False, False, True]])).bits
    tensor([49,   1], dtype=torch.uint8)
    """
    (ordered,) = in_memory_order(mask)
    flat = ordered.reshape(-1)
    if is_compiled(flat):
        from sparseflow._fast.clear import pack as pack_words

        bits = torch.empty(-(-flat.numel() // 8), dtype=torch.uint8)
        pack_words(words(flat), bits.numpy())
    else:
        bytes_ = flat.view(torch.uint8)
        bits = (F.pad(bytes_, (0, -len(bytes_) % 8)).view(torch.int64) * _GATHER >> 56).to(torch.uint8)
    return PackedMask(bits, torch.empty_like(mask, device="meta"))


def unpacked(mask: Tensor | PackedMask) -> Tensor:
    """The mask itself, whichever it is given as.

    >>> mask = torch.tensor([True, False])
    >>> unpacked(mask) is mask, unpacked(pack(mask))
    (True, tensor([ True, False]))
    """
    return mask.unpack() if isinstance(mask, PackedMask) else mask


def packed_like(mask: Tensor | PackedMask, like: Tensor) -> PackedMask:
    """A mask in bits, as :func:`pack` would have it in another's order of memory.

    Raises:
        ValueError: if the shapes differ.

    >>> mask = torch.tensor([[True, False], [True, True]]).view(1, 2, 1, 2)
    >>> packed_like(mask, mask.contiguous(memory_format=torch.channels_last)).bits, packed_like(mask, mask).bits
    (tensor([11], dtype=torch.uint8), tensor([13], dtype=torch.uint8))
    """
    shape, strides = (mask.like.shape, mask.like.stride()) if isinstance(mask, PackedMask) else (mask.shape, None)
    if shape != like.shape:
        raise ValueError(f"a new mask has the shape {tuple(shape)}; its weight has {tuple(like.shape)}.")
    if isinstance(mask, PackedMask) and strides == like.stride():
        return mask
    mask = unpacked(mask)
    return pack(mask if mask.stride() == like.stride() else torch.empty_like(like, dtype=torch.bool).copy_(mask))
