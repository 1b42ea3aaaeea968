"""Runs at step 0: methods by the way that they start, and a run on digits."""

from __future__ import annotations

from pathlib import Path

from sparseflow.data.digits import Dataset
from sparseflow.training.digits import DigitRun
from sparseflow.training.names import METHODS
from sparseflow.training.setup import set_up, start_of
from sparseflow.training.step import Trainer


def at_start(config: DigitRun, data: Dataset, *, root: Path) -> Trainer:
    return set_up(config, start=start_of(config, root=root), growth=data.validation(2))


def starting(*starts: str) -> list[str]:
    """The methods that start ``dense``, ``masked`` or as a ``ticket``."""
    return [name for name, row in METHODS.items() if row.start in starts]
