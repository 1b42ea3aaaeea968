"""Ctrl-C during a run: what it raises is raised again at the next step, wherever it was lost."""

from __future__ import annotations

import io
import signal
from contextlib import suppress

import pytest
from rich.console import Console

from sparseflow.cli.progress import shown


def test_an_interrupt_that_was_lost_ends_the_run_at_the_next_step() -> None:
    before = signal.getsignal(signal.SIGINT)
    with shown("a run", console=Console(file=io.StringIO())) as bar:
        bar.step(1, 3)
        with suppress(KeyboardInterrupt):  # as compiled code does that calls Python
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            bar.step(2, 3)
    assert signal.getsignal(signal.SIGINT) is before
