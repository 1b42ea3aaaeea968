"""Zero what is off the masks, at every step, and replace masks: the second half of a mask update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._fast.bits import PackedMask, pack
from sparseflow._fast.memory import count_true, in_memory_order, is_compiled, spread, words

#: Integer type of the same width, to reach a float's bits.
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def zero_inactive_(tensor: Tensor, mask: Tensor) -> Tensor:
    """Set a tensor to exactly +0.0 where the mask is ``False``, in place, whatever was there, NaN included.

    The bits are multiplied by 0 or 1: one vectorised pass that reads one byte of mask a weight.

    Args:
        tensor: Any dtype up to 8 bytes an element.
        mask: bool, same shape and device.

    >>> zero_inactive_(torch.tensor([1.0, float("nan")]), torch.tensor([True, False]))
    tensor([1., 0.])
    """
    bits = _BITS.get(tensor.element_size())
    if bits is None or tensor.layout != torch.strided:
        return tensor.masked_fill_(~mask, 0)
    tensor.view(bits).mul_(mask.view(torch.int8))
    return tensor


class Rewrite(NamedTuple):
    """A mask, what it becomes, and what must be zero off it."""

    mask: Tensor
    """bool, overwritten."""
    new: PackedMask
    """Packed like the mask."""
    tensors: tuple[Tensor, ...]
    """Same shape, overwritten: the weight first, then its optimizer states and gradient as far as there are any."""
    told: bool = False
    """Whether what the mask was is asked for."""

    def compiled(self) -> Rewritten | None:
        """Rewrite a large layer in one pass that leaves other threads alone."""
        if any(tensor.dtype != torch.float32 for tensor in self.tensors):
            return None
        mask, *tensors = in_memory_order(self.mask, *self.tensors)
        if not is_compiled(mask, *tensors):
            return None
        from sparseflow._fast.clear import replace

        before = torch.empty_like(self.new.bits) if self.told else self.new.bits[:0]
        active = replace(words(mask), self.new.bits.numpy(), before.numpy(), tuple(map(words, tensors)))
        return Rewritten(int(active), self.new._replace(bits=before) if self.told else None)

    def plain(self) -> Rewritten:
        """Rewrite any layer."""
        before = pack(self.mask) if self.told else None
        self.mask.copy_(self.new.unpack())
        for tensor in self.tensors:
            zero_inactive_(tensor, self.mask)
        return Rewritten(count_true(self.mask), before)


class Rewritten(NamedTuple):
    """What is known of a layer once it is rewritten."""

    active: int
    """Number of active entries."""
    before: PackedMask | None
    """What the mask was, if that was asked for."""


def zero_off_(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set tensors to exactly +0.0 off their masks, large ones on several threads at once.

    Args:
        pairs: Tensor, overwritten, and bool mask of the same shape.

    >>> weight = torch.tensor([5.0, float("nan")])
    >>> zero_off_([(weight, torch.tensor([True, False]))])
    >>> weight
    tensor([5., 0.])
    """
    large = []
    for pair in pairs:
        tensor, mask = in_memory_order(*pair)
        if tensor.dtype == torch.float32 and is_compiled(tensor, mask):
            large.append((words(tensor), words(mask)))
        else:
            zero_inactive_(tensor, mask)
    if large:
        from sparseflow._fast.clear import clear

        for _ in spread(lambda pair: clear(*pair), large):
            pass


def rewrite_(layers: Iterable[Rewrite]) -> Iterator[Rewritten]:
    """Rewrite each in turn, large layers on several threads.

    >>> mask, weight = torch.tensor([True, False]), torch.tensor([5.0, 0.0])
    >>> next(rewrite_([Rewrite(mask, pack(torch.tensor([False, True])), (weight,))])).active, mask, weight
    (1, tensor([False,  True]), tensor([0., 0.]))
    """
    for layer, done in spread(lambda layer: (layer, layer.compiled()), layers):
        yield layer.plain() if done is None else done
