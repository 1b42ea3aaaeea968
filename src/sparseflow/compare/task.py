"""A compared run as a task of a pool: one whose loss is no longer finite is noted, not lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparseflow.atomic import write_atomically
from sparseflow.disk import make_folder
from sparseflow.sealed import to_json
from sparseflow.training.config import RunConfig
from sparseflow.training.runs import Run, is_done, load_run
from sparseflow.training.sweep import Training

#: Folder of the notes, beside the runs.
DIVERGED = "diverged"


@dataclass(frozen=True)
class Trial:
    """A run, which is done when it is trained, or when its loss was no longer finite."""

    config: RunConfig
    data_root: Path | None = None

    @property
    def training(self) -> Training:
        """The run as a task that fails where its loss is not finite."""
        return Training(self.config, self.data_root)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.config.name

    @property
    def size(self) -> int:
        """Steps of the run."""
        return self.config.steps

    @property
    def needs(self) -> tuple[Trial, ...]:
        """Nothing: tickets are not compared."""
        return ()

    def is_done(self, root: Path) -> bool:
        """Whether it is trained, or known to diverge."""
        return is_done(root, self.config) or _note(root, self.config).is_file()

    def work(self, root: Path, report: Callable[[int], None]) -> None:
        """Train it; a loss that is not finite is a result."""
        try:
            self.training.work(root, report)
        except FloatingPointError as error:
            make_folder(root / DIVERGED)
            write_atomically(_note(root, self.config), to_json({"run": self.config.name, "error": str(error)}))


def _note(root: Path, config: RunConfig) -> Path:
    return root / DIVERGED / f"{config.name}.json"


@dataclass(frozen=True)
class Result:
    """What became of a run."""

    config: RunConfig
    run: Run | None
    """None where its loss was no longer finite and it ended there."""

    @property
    def diverged(self) -> bool:
        """Whether the loss did not stay finite, of the training or of the test images at its end."""
        return self.run is None or not math.isfinite(self.run.final["test/loss"])

    def final(self, name: str) -> float:
        """A result at the end by its name; NaN where there is none."""
        return math.nan if self.run is None else self.run.final.get(name, math.nan)

    def percent(self, part: str = "test") -> float:
        """Accuracy in percent; that of guessing where the run diverged."""
        found = self.final(f"{part}/accuracy")
        return 100.0 / self.config.num_classes if self.diverged or math.isnan(found) else 100.0 * found


def result_of(root: Path, config: RunConfig) -> Result:
    """The result of a run that is done.

    Raises:
        FileNotFoundError: if it is not.
    """
    if not is_done(root, config) and _note(root, config).is_file():
        return Result(config, None)
    return Result(config, load_run(root / config.name))
