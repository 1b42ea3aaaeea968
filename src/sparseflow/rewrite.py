"""Zero what is off the masks, at every step, and replace masks: the second half of a mask update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow.compiled import in_memory_order, is_compiled, spread, words
from sparseflow.masks import zero_inactive_
from sparseflow.topk import count_true


class Rewrite(NamedTuple):
    """A mask, what it becomes, and what must be zero off it."""

    mask: Tensor
    """bool, overwritten."""
    new: Tensor
    """bool, same shape."""
    tensors: tuple[Tensor, ...]
    """Same shape, overwritten: the weight first, then its optimizer states and gradient as far as there are any."""

    def compiled(self) -> int | None:
        """Rewrite a large layer in one pass that leaves other threads alone; its active count."""
        fits = self.new.dtype == torch.bool and self.new.shape == self.mask.shape
        if not fits or any(tensor.dtype != torch.float32 for tensor in self.tensors):
            return None
        # Masks are chosen in the logical order of their weights, and may be kept in another.
        new = self.new if self.new.stride() == self.mask.stride() else torch.empty_like(self.mask).copy_(self.new)
        mask, new, *tensors = in_memory_order(self.mask, new, *self.tensors)
        if not is_compiled(mask, new, *tensors):
            return None
        from sparseflow.clear import replace

        return int(replace(words(mask), words(new), tuple(map(words, tensors))))

    def plain(self) -> int:
        """Rewrite any layer; its active count."""
        self.mask.copy_(self.new)
        for tensor in self.tensors:
            zero_inactive_(tensor, self.mask)
        return count_true(self.mask)


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
        from sparseflow.clear import clear

        for _ in spread(lambda pair: clear(*pair), large):
            pass


def rewrite_(layers: Iterable[Rewrite]) -> Iterator[int]:
    """Rewrite each in turn, large layers on several threads; yields their active counts.

    >>> mask, weight = torch.tensor([True, False]), torch.tensor([5.0, 0.0])
    >>> list(rewrite_([Rewrite(mask, torch.tensor([False, True]), (weight,))])), mask, weight
    ([1], tensor([False,  True]), tensor([0., 0.]))
    """
    for layer, active in spread(lambda layer: (layer, layer.compiled()), layers):
        yield layer.plain() if active is None else active
