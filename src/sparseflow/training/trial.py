"""A training that may fail: one whose loss is no longer finite is noted, not lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparseflow.atomic import write_atomically
from sparseflow.disk import make_folder
from sparseflow.sealed import to_json
from sparseflow.training.runs import AnyRun, Run, is_done, load_run
from sparseflow.training.sweep import Training
from sparseflow.types import NotFiniteError

#: Folder of the notes, beside the runs.
DIVERGED = "diverged"


@dataclass(frozen=True)
class Trial(Training):
    """A training that is done when it is finished, or when its loss was no longer finite."""

    def is_done(self, root: Path) -> bool:
        """Whether it is finished, or known to diverge."""
        return super().is_done(root) or _note(root, self.config).is_file()

    def work(self, root: Path, report: Callable[[int], None]) -> None:
        """Train it; a loss that is not finite, or weights that are not where masks move, are a result."""
        try:
            super().work(root, report)
        except (FloatingPointError, NotFiniteError) as error:
            make_folder(root / DIVERGED)
            write_atomically(_note(root, self.config), to_json({"run": self.name, "error": str(error)}))


def end_of_trial(root: Path, config: AnyRun) -> Run | None:
    """The run of a trial that is done; None where its loss was no longer finite and it ended there.

    Args:
        root: Folder of all runs.
        config: The run.

    Raises:
        FileNotFoundError: if it is not done.
    """
    if not is_done(root, config) and _note(root, config).is_file():
        return None
    return load_run(root / config.name)


def _note(root: Path, config: AnyRun) -> Path:
    return root / DIVERGED / f"{config.name}.json"
