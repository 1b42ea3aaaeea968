"""Masks in bits, eight weights in a byte: an update keeps a layer's old and new mask in a quarter of its size."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow._fast.memory import as_integers, in_memory_order, is_compiled

#: Moves the lowest bit of byte k of a word to bit 56 + k; bit k of every byte; copies a byte to all eight.
_GATHER, _PLACES, _COPIES = 0x0102040810204080, 0x8040201008040201 - (1 << 64), 0x0101010101010101


class StagedMask(NamedTuple):
    """A mask in bits; made by :func:`stage`.

    >>> stage(torch.tensor([[True, False], [False, True]])).unpack()
    tensor([[ True, False],
            [False,  True]])
    """

    bits: Tensor
    """uint8 ``(ceil(numel / 8),)``, first weight in the lowest bit; channels last as in memory, else as indexed."""
    like: Tensor
    """The mask's shape and strides, without memory of its own."""

    def unpack(self) -> Tensor:
        """The mask: bool, of the same shape, strides and device."""
        spread = self.bits.to(torch.int64).mul_(_COPIES).bitwise_and_(_PLACES).view(torch.uint8)
        flat = (spread != 0)[: self.like.numel()]
        mask = torch.empty_like(self.like, device=self.bits.device)
        (ordered,) = in_memory_order(mask)
        ordered.copy_(flat.view(ordered.shape))
        return mask


def stage(mask: Tensor | StagedMask, like: Tensor | None = None) -> StagedMask:
    """A mask in bits.

    Args:
        mask: bool, any shape; one that is in bits already is returned as it is where its order of memory fits.
        like: A tensor of the same shape whose order of memory the bits follow; default: the mask's own.

    Raises:
        ValueError: if the shapes differ.

    >>> stage(torch.tensor([[True, False, False], [False, True, True], [False, False, True]])).bits
    tensor([49,   1], dtype=torch.uint8)
    >>> mask = torch.tensor([[True, False], [True, True]]).view(1, 2, 1, 2)
    >>> stage(mask, like=mask.contiguous(memory_format=torch.channels_last)).bits, stage(mask).bits
    (tensor([11], dtype=torch.uint8), tensor([13], dtype=torch.uint8))
    """
    held = mask.like if isinstance(mask, StagedMask) else mask
    if like is not None and held.shape != like.shape:
        raise ValueError(f"a new mask has the shape {tuple(held.shape)}; its weight has {tuple(like.shape)}.")
    fits = like is None or held.stride() == like.stride()
    if isinstance(mask, StagedMask) and fits:
        return mask
    mask = unstaged(mask)
    return _pack(mask if like is None or fits else torch.empty_like(like, dtype=torch.bool).copy_(mask))


def unstaged(mask: Tensor | StagedMask) -> Tensor:
    """The mask itself, whichever form it is given in.

    >>> mask = torch.tensor([True, False])
    >>> unstaged(mask) is mask, unstaged(stage(mask))
    (True, tensor([ True, False]))
    """
    return mask.unpack() if isinstance(mask, StagedMask) else mask


def _pack(mask: Tensor) -> StagedMask:
    (ordered,) = in_memory_order(mask)
    flat = ordered.reshape(-1)
    if is_compiled(flat):
        from sparseflow._fast.clear import pack

        bits = torch.empty(-(-flat.numel() // 8), dtype=torch.uint8)
        pack(as_integers(flat), bits.numpy())
    else:
        bytes_ = flat.view(torch.uint8)
        bits = (F.pad(bytes_, (0, -len(bytes_) % 8)).view(torch.int64) * _GATHER >> 56).to(torch.uint8)
    return StagedMask(bits, torch.empty_like(mask, device="meta"))
