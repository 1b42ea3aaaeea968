"""Who may look on at the steps of a sparse training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sparseflow.sparsifier.part import Part
from sparseflow.types import MaskUpdate


class Observer(Protocol):
    """One that looks on, such as :class:`sparseflow.record.Record`; it writes to nothing."""

    def part_stepped(self, part: Part) -> None:
        """An optimizer has stepped; its gradients are still there, dense if ``part.ran_dense``, else masked."""
        ...

    def masks_changed(self, changes: Mapping[str, MaskUpdate]) -> None:
        """Masks have changed."""
        ...

    def step_done(self, step: int) -> None:
        """All optimizers have stepped, ``step`` times by now, and masks have changed if it was time."""
        ...
