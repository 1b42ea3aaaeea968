"""``sparseflow train text``: a small decoder on Python sources, dense or annealed to a weight in so many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from sparseflow.cli.progress import show_end, shown
from sparseflow.training.text import TextRun, small_dense

_out = Console()
_err = Console(stderr=True)


@dataclass(frozen=True)
class TrainText:
    """Train a small decoder on Python sources, dense or with one weight in so many, or continue it."""

    config: Annotated[TextRun, tyro.conf.arg(name="")]
    out: Path = Path("runs/text")
    """Folder of all runs."""
    small_dense: bool = False
    """Train a dense decoder instead, as narrow as makes its weights as many as the sparse one has."""

    def run(self) -> None:
        """Train with a progress bar and print where the run is and how it ended."""
        from sparseflow.training.text_loop import train_text

        run = small_dense(self.config) if self.small_dense else self.config
        with shown(run.name, console=_err) as bar:
            found = train_text(run, root=self.out, progress=bar.step, watch=bar.log)
        show_end(found, out=_out, err=_err)
