"""How far a measurement is, on a terminal, where it takes longer than one waits without a word."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

#: Seconds without a word.
_PATIENCE = 2.0


class Progress:
    """A line on standard error that says how many parts are done and how long the others may take.

    It is shown on a terminal only, from the first part on that is done later than 2 seconds after the start.

    Args:
        total: Number of parts.
        out: Where to write. Default: standard error.
        clock: Seconds, now.
    """

    def __init__(self, total: int, *, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._out, self._clock = total, out or sys.stderr, clock
        self._start, self._done = clock(), 0

    def done(self, what: str) -> None:
        """Count one part, and say what comes next."""
        self._done += 1
        spent = self._clock() - self._start
        if spent > _PATIENCE and self._out.isatty():
            left = spent / self._done * (self._total - self._done)
            self._say(f"sparseflow measures: {self._done} of {self._total}, {what}; about {left:.0f} s left")

    def close(self) -> None:
        """Wipe the line."""
        if self._out.isatty():
            self._say("")
            print("\r", end="", file=self._out, flush=True)

    def _say(self, text: str) -> None:
        print(f"\r{text[:78]:78}", end="", file=self._out, flush=True)
