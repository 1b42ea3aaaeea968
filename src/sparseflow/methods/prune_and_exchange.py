"""Gradual pruning whose every update exchanges weights too: what GraNet and CHTss have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from sparseflow.methods.drop_grow import UpdateSchedule
from sparseflow.methods.pruning import GMP


@dataclass(frozen=True, kw_only=True)
class PruneAndExchange(UpdateSchedule):
    """When weights leave for good, and when some of those that stay are exchanged: together, and the latter for longer.

    Args:
        sparsity: Final fraction of zeros, as :class:`sparseflow.GMP`.
        begin: First update that prunes, optimizer steps.
        end: Last one.
        initial_sparsity: At ``begin``.
        first_update: Of the exchange; default ``begin``, or ``update_every`` where that is 0.
        others: As :class:`sparseflow.methods.UpdateSchedule`.

    Raises:
        TypeError, ValueError: as :class:`sparseflow.GMP` and :class:`sparseflow.methods.UpdateSchedule`; if pruning
            ends after the last exchange.
    """

    sparsity: float | Mapping[str, float]
    begin: int
    end: int
    initial_sparsity: float = 0.0

    def __post_init__(self) -> None:
        self.pruning  # noqa: B018 - checks its options
        super().__post_init__()
        if self.until is not None and self.end > self.until:
            raise ValueError(
                f"pruning ends at step {self.end}, and weights are exchanged until step {self.until} alone. Lower end= "
                "or raise update_until= or total_steps=."
            )

    @cached_property
    def pruning(self) -> GMP:
        """Which weights would leave by magnitude alone, and when."""
        options = [field.name for field in fields(GMP) if hasattr(self, field.name)]
        return GMP(**{name: getattr(self, name) for name in options})

    @property
    def first(self) -> int:
        """Step of the first exchange."""
        return self.begin if self.begin and self.first_update is None else super().first

    def due(self, step: int) -> bool:
        """Whether masks change once ``step`` optimizer steps are done: while pruning goes on, and after it."""
        return self.pruning.due(step) or super().due(step)

    def check_start(self, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> None:
        """Check that the final sparsity can be reached; see :func:`sparseflow.methods.run.check_start`.

        Raises:
            ValueError: as :class:`sparseflow.GMP`.
        """
        self.pruning.check_start(shapes, active)

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """What pruning has not reached; see :func:`sparseflow.methods.run.unfinished`."""
        return self.pruning.unfinished(step, shapes, active)
