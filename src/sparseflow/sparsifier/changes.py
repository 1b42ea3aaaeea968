"""The changes of all masks at an update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from sparseflow._fast import StagedMask, unstaged
from sparseflow.methods.drop_grow import changed
from sparseflow.types import MaskUpdate


class Changes(Mapping[str, MaskUpdate]):
    """Name -> change of a mask at an update, computed when asked for: no more than one layer is in memory at once.

    >>> import torch
    >>> from sparseflow._fast import stage
    >>> before, after = ({"w": stage(torch.tensor(mask))} for mask in ([True, False], [False, True]))
    >>> Changes(before, after)["w"].grown
    tensor([False,  True])
    """

    def __init__(self, before: Mapping[str, Tensor | StagedMask], after: Mapping[str, Tensor | StagedMask]) -> None:
        self._before, self._after = before, after

    def __getitem__(self, name: str) -> MaskUpdate:
        return changed(unstaged(self._before[name]), unstaged(self._after[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._after)

    def __len__(self) -> int:
        return len(self._after)
