"""A run on digits at step 0."""

from __future__ import annotations

from pathlib import Path

from sparseflow.data.digits import Dataset
from sparseflow.training.digits import DigitRun
from sparseflow.training.setup import set_up, start_of
from sparseflow.training.step import Trainer


def at_start(config: DigitRun, data: Dataset, *, root: Path) -> Trainer:
    return set_up(config, start=start_of(config, root=root), growth=data.validation(2))
