"""A run that goes on from its last checkpoint: a file of one process, or a folder that many processes write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseflow.training.checkpoint import load_checkpoint, save_checkpoint
from sparseflow.training.checkpoint_folder import latest_checkpoint, remove_others
from sparseflow.training.config import RunConfig
from sparseflow.training.naming import defaults_of
from sparseflow.training.step import Trainer
from sparseflow.training.store import RunStore

#: Of the clock of a run.
_TIMES = ("seconds", "measuring")


@dataclass(frozen=True, kw_only=True)
class FileCheckpoints:
    """Checkpoints of one process, in the store of its run."""

    store: RunStore
    mark: Callable[[], Mapping[str, Any]]
    """Plain values to keep with a checkpoint: the seconds spent, and those of measuring."""
    restore: Callable[[Mapping[str, Any]], None]
    """Called with them where a run goes on."""

    def resume(self, trainer: Trainer) -> int:
        """Load the last checkpoint, if there is one; the batches used before it."""
        found = self.store.latest_checkpoint()
        if found is None:
            self.store.truncate_metrics(0)
            return 0
        step, state = found
        trainer.sparsifier.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.sparsifier.load_state_dict(state["sparsifier"])
        self.store.truncate_metrics(step)
        self.store.remove_older_checkpoints()
        self.restore({name: state[name] for name in _TIMES if name in state})
        return step

    def save(self, trainer: Trainer, *, batches: int) -> None:
        """Write a checkpoint between two batches; here every batch is a step."""
        mark = self.mark()
        state = {
            "model": trainer.sparsifier.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "sparsifier": trainer.sparsifier.state_dict(),
            **{name: mark[name] for name in _TIMES},
        }
        self.store.save_checkpoint(batches, state)


@dataclass(frozen=True, kw_only=True)
class FolderCheckpoints:
    """Checkpoints that all processes of a run write together."""

    run: RunConfig
    folder: Path
    """Of this run alone."""
    mark: Callable[[], Mapping[str, Any]] = dict
    """Plain values to keep with a checkpoint, such as how long the log is; those of rank 0 count."""
    restore: Callable[[Mapping[str, Any]], None] = lambda kept: None
    """Called with them, on every rank, where a run goes on; not where it begins."""

    def resume(self, trainer: Trainer) -> int:
        """Load the last checkpoint, if there is one; the batches used before it.

        Raises:
            ValueError: if the checkpoint is of another run, or damaged.
        """
        path = trainer.ranks.from_first(lambda: latest_checkpoint(self.folder))
        if path is None:
            return 0
        extra = load_checkpoint(path, trainer)
        there = type(self.run).from_dict(extra["run"])
        names = defaults_of(type(self.run))
        if other := [name for name in names if getattr(there, name) != getattr(self.run, name)]:
            differences = ", ".join(
                f"{name} is {getattr(there, name)!r} there and {getattr(self.run, name)!r} here" for name in other
            )
            raise ValueError(
                f"the checkpoint {path} is of another run: {differences}. Continue with the same settings, or give "
                "another folder."
            )
        self.restore(extra["marks"])
        trainer.ranks.from_first(lambda: remove_others(path))
        return int(extra["batches"])

    def save(self, trainer: Trainer, *, batches: int) -> None:
        """Write a checkpoint between two batches; all processes call it.

        Args:
            trainer: The run.
            batches: Used so far; more than steps where updates replace steps.
        """
        extra = {"run": self.run.to_dict(), "batches": batches, "marks": dict(self.mark())}
        save_checkpoint(self.folder, trainer, extra=extra)


#: The last state of a run, and the way back to it.
Checkpoints = FileCheckpoints | FolderCheckpoints
