"""What an update did to all masks, kept in bits and told layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from sparseflow._fast.bits import PackedMask, pack, unpacked
from sparseflow.methods.base import changed
from sparseflow.types import MaskUpdate


def kept(mask: Tensor) -> Tensor | PackedMask:
    """A mask as it is now, in bits where it can be.

    >>> import torch
    >>> mask = torch.tensor([True, False, True])
    >>> before = kept(mask)
    >>> _ = mask.fill_(False)
    >>> unpacked(before)
    tensor([ True, False,  True])
    """
    # Tensors of other kinds, such as sharded ones, need not have memory that can be cut into words.
    return pack(mask) if type(mask) is Tensor else mask.clone()


class Changes(Mapping[str, MaskUpdate]):
    """Name -> what an update changed, computed when it is asked for: no more than one layer is in memory at once.

    Args:
        before: Masks before the update, of the layers that took part, as :func:`kept` has them.
        after: The same masks after it.

    >>> import torch
    >>> before, after = ({"w": kept(torch.tensor(mask))} for mask in ([True, False], [False, True]))
    >>> Changes(before, after)["w"].grown
    tensor([False,  True])
    """

    def __init__(self, before: Mapping[str, Tensor | PackedMask], after: Mapping[str, Tensor | PackedMask]) -> None:
        self._before, self._after = before, after

    def __getitem__(self, name: str) -> MaskUpdate:
        return changed(unpacked(self._before[name]), unpacked(self._after[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._after)

    def __len__(self) -> int:
        return len(self._after)
