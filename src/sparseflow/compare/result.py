"""What became of a compared run, as numbers that a table can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sparseflow.training.config import RunConfig
from sparseflow.training.runs import Run
from sparseflow.training.trial import end_of_trial


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
    return Result(config, end_of_trial(root, config))
