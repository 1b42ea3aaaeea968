"""The progress of one run: a bar with loss and time left on a terminal, else a line now and then."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sparseflow.training.runs import Run

#: Lines of a whole run where there is no terminal.
_LINES = 20


class Bar:
    """What a run reports of itself."""

    def __init__(self, name: str, console: Console, *, disabled: bool = False) -> None:
        self._console, self._disabled = console, disabled
        self.display = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=disabled or not console.is_terminal,
        )
        self._name, self._loss, self._line = name, "", 0
        self._task = self.display.add_task(name, total=None, loss="")
        self._began, self._first = 0.0, 0
        self.is_stopped = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take note of what was measured at a step."""
        if "train/loss" in values:
            self._loss = f"loss {values['train/loss']:.4f}"

    def step(self, step: int, steps: int) -> None:
        """Show that a step is done, of so many.

        Raises:
            KeyboardInterrupt: if Ctrl-C was pressed, and what it raised was lost on its way.
        """
        if self.is_stopped:
            raise KeyboardInterrupt
        if (
            not self._began or step <= self._first
        ):  # the first one, or another run: a pruning run comes before its ticket
            self._began, self._first, self._line = time.monotonic(), step, step * _LINES // steps
        self.display.update(self._task, completed=step, total=steps, loss=self._loss)
        if self._disabled or self._console.is_terminal or step * _LINES // steps == self._line:
            return
        self._line = step * _LINES // steps
        left = (time.monotonic() - self._began) / (step - self._first) * (steps - step)
        self._console.print(f"{self._name}: step {step} of {steps}, {self._loss}, {left:.0f} s left", soft_wrap=True)


def show_end(run: Run, *, out: Console, err: Console) -> None:
    """Print what a finished run warns of, its results and where it is.

    Args:
        run: The run.
        out: For results.
        err: For warnings.
    """
    for line in run.warnings():
        err.print(line, soft_wrap=True, markup=False)
    for name, value in run.final.items():
        is_count = value > 1 and value.is_integer()
        out.print(f"{name}: {value:,.0f}" if is_count else f"{name}: {value:.4f}")
    out.print(f"{run.seconds:.0f} s, in {run.folder}", soft_wrap=True)


@contextmanager
def shown(name: str, *, console: Console, disabled: bool = False) -> Iterator[Bar]:
    """Show the progress of a run, which Ctrl-C ends at its next step at the latest.

    Compiled code that calls Python, as when a tensor is written to a file, may drop the exception that Ctrl-C raises.

    Args:
        name: Of the run, for people.
        console: Where to.
        disabled: Show nothing, as on all ranks but the first.
    """
    bar = Bar(name, console, disabled=disabled)

    def stop(number: int, frame: FrameType | None) -> None:
        bar.is_stopped = True
        raise KeyboardInterrupt

    # Python lets the main thread alone handle signals.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, stop) if is_main else None
    try:
        with bar.display:
            yield bar
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
