"""A run on images that goes on from its last checkpoint: when to save, and which batches were used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from sparseflow.vision.checkpoint import load_checkpoint, save_checkpoint
from sparseflow.vision.checkpoint_folder import latest_checkpoint
from sparseflow.vision.config import ImageRun
from sparseflow.vision.step import Trainer


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where a run keeps its last checkpoint, and when it makes one."""

    run: ImageRun
    folder: Path | None
    """Of this run alone; ``None``: no checkpoints."""
    every: int
    """In steps; one more at the end."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"checkpoint_every must be at least 1 step, got {self.every!r}.")

    def resume(self, trainer: Trainer) -> int:
        """Load the last checkpoint into the trainer, if there is one.

        Returns: batches used before it; more than steps where updates replace steps.

        Raises:
            ValueError: if the checkpoint is of another run, or damaged.
        """
        folder = self.folder
        if folder is None or (path := trainer.ranks.from_first(lambda: latest_checkpoint(folder))) is None:
            return 0
        extra = load_checkpoint(path, trainer)
        there, here = extra["run"], asdict(self.run)
        if other := [name for name in here if there.get(name) != here[name]]:
            differences = ", ".join(f"{name} is {there.get(name)!r} there and {here[name]!r} here" for name in other)
            raise ValueError(
                f"the checkpoint {path} is of another run: {differences}. Continue with the same settings, or give "
                "another folder."
            )
        return int(extra["batches"])

    def save_if_due(self, trainer: Trainer, *, before: int, batches: int) -> None:
        """Save every ``every`` steps and at the end.

        Args:
            trainer: After a batch.
            before: Steps taken before that batch; where an update replaced the step, nothing is due.
            batches: Used so far.
        """
        step = trainer.sparsifier.step_count
        is_due = step > before and (step % self.every == 0 or step == self.run.steps)
        if self.folder is not None and is_due:
            save_checkpoint(self.folder, trainer, extra={"run": asdict(self.run), "batches": batches})
