"""A run on images that goes on from its last checkpoint: when to save, and which batches were used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sparseflow.training.checkpoint import load_checkpoint, save_checkpoint
from sparseflow.training.checkpoint_folder import latest_checkpoint
from sparseflow.training.images import ImageRun
from sparseflow.training.step import Trainer


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where a run keeps its last checkpoint, and what is kept with it; one every ``run.checkpoint_every`` steps."""

    run: ImageRun
    folder: Path
    """Of this run alone."""
    mark: Callable[[], Mapping[str, Any]] = dict
    """Plain values to keep with a checkpoint, such as how long the log is; those of rank 0 count."""
    restore: Callable[[Mapping[str, Any]], None] = lambda kept: None
    """Called with them, on every rank, where a run goes on; not where it begins."""

    def resume(self, trainer: Trainer) -> int:
        """Load the last checkpoint into the trainer, if there is one.

        Returns: batches used before it; more than steps where updates replace steps.

        Raises:
            ValueError: if the checkpoint is of another run, or damaged.
        """
        path = trainer.ranks.from_first(lambda: latest_checkpoint(self.folder))
        if path is None:
            return 0
        extra = load_checkpoint(path, trainer)
        there = ImageRun.from_dict(extra["run"])
        names = [field.name for field in fields(ImageRun)]
        if other := [name for name in names if getattr(there, name) != getattr(self.run, name)]:
            differences = ", ".join(
                f"{name} is {getattr(there, name)!r} there and {getattr(self.run, name)!r} here" for name in other
            )
            raise ValueError(
                f"the checkpoint {path} is of another run: {differences}. Continue with the same settings, or give "
                "another folder."
            )
        self.restore(extra["marks"])
        return int(extra["batches"])

    def is_due(self, trainer: Trainer, *, before: int) -> bool:
        """Whether the batch just used calls for a checkpoint.

        Args:
            trainer: After that batch.
            before: Steps taken before it; where an update replaced the step, nothing is due.
        """
        step = trainer.sparsifier.step_count
        return step > before and (step % self.run.checkpoint_every == 0 or step == self.run.steps)

    def save(self, trainer: Trainer, *, batches: int) -> None:
        """Write a checkpoint; all processes call it.

        Args:
            trainer: Between two batches.
            batches: Used so far.
        """
        extra = {"run": self.run.to_dict(), "batches": batches, "marks": dict(self.mark())}
        save_checkpoint(self.folder, trainer, extra=extra)
