"""Writing: zeroing tensors off their masks, at every step, and replacing masks at an update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._fast.bits import StagedMask, stage
from sparseflow._fast.memory import as_integers, count_true, in_memory_order, is_compiled, map_threads

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


def clear_(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set tensors to exactly +0.0 off their bool masks of the same shape, large ones on several threads at once.

    >>> weight = torch.tensor([5.0, float("nan")])
    >>> clear_([(weight, torch.tensor([True, False]))])
    >>> weight
    tensor([5., 0.])
    """
    large = []
    for pair in pairs:
        tensor, mask = in_memory_order(*pair)
        if tensor.dtype == torch.float32 and is_compiled(tensor, mask):
            large.append((as_integers(tensor), as_integers(mask)))
        else:
            zero_inactive_(tensor, mask)
    if large:
        from sparseflow._fast.clear import clear

        for _ in map_threads(lambda pair: clear(*pair), large):
            pass


class Write(NamedTuple):
    """A mask, the mask to replace it by, and the tensors to be zeroed off that."""

    mask: Tensor
    """bool, overwritten."""
    new: StagedMask
    """In the mask's order of memory."""
    tensors: tuple[Tensor, ...]
    """Same shape, overwritten: the weight first, then its optimizer states and gradient as far as there are any."""
    keep_before: bool = False
    """Whether to return the previous mask."""

    def compiled(self) -> Written | None:
        """Write a large layer in one pass that leaves other threads alone; ``None`` where it cannot be taken."""
        if any(tensor.dtype != torch.float32 for tensor in self.tensors):
            return None
        mask, *tensors = in_memory_order(self.mask, *self.tensors)
        if not is_compiled(mask, *tensors):
            return None
        from sparseflow._fast.clear import replace

        before = torch.empty_like(self.new.bits) if self.keep_before else self.new.bits[:0]
        active = replace(as_integers(mask), self.new.bits.numpy(), before.numpy(), tuple(map(as_integers, tensors)))
        return Written(int(active), self.new._replace(bits=before) if self.keep_before else None)

    def plain(self) -> Written:
        """Write any layer."""
        before = stage(self.mask) if self.keep_before else None
        self.mask.copy_(self.new.unpack())
        for tensor in self.tensors:
            zero_inactive_(tensor, self.mask)
        return Written(count_true(self.mask), before)


class Written(NamedTuple):
    """The result of writing one layer's mask."""

    active: int
    """Number of active entries."""
    before: StagedMask | None
    """The previous mask, where it was to be kept."""


def write_(layers: Iterable[Write]) -> Iterator[Written]:
    """Write each layer in turn, large ones on several threads.

    >>> mask, weight = torch.tensor([True, False]), torch.tensor([5.0, 0.0])
    >>> next(write_([Write(mask, stage(torch.tensor([False, True])), (weight,))])).active, mask, weight
    (1, tensor([False,  True]), tensor([0., 0.]))
    """
    for layer, done in map_threads(lambda layer: (layer, layer.compiled()), layers):
        yield layer.plain() if done is None else done
