"""How far a measurement is, on a terminal, where it takes longer than one waits without a word."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

#: Seconds without a word.
_PATIENCE = 2.0


class Progress:
    """A line on standard error that says what is measured and how long it may still take.

    It is shown on a terminal only, from the first part on that begins later than 2 seconds after the start.

    Args:
        total: Number of parts.
        out: Where to write. Default: standard error.
        clock: Seconds, now.
    """

    def __init__(self, total: int, *, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._out, self._clock = total, out or sys.stderr, clock
        self._start, self._begun, self._is_shown = clock(), 0, False

    def next(self, what: str) -> None:
        """Begin the next part."""
        spent, done = self._clock() - self._start, self._begun
        self._begun += 1
        if done and spent > _PATIENCE and self._out.isatty():
            left = spent / done * (self._total - done)
            self._say(f"sparseflow measures: {what}, {done} of {self._total} done, about {left:.0f} s left")
            self._is_shown = True

    def close(self) -> None:
        """Wipe the line."""
        if self._is_shown:
            self._say("")
            print("\r", end="", file=self._out, flush=True)

    def _say(self, text: str) -> None:
        print(f"\r{text[:100]:100}", end="", file=self._out, flush=True)
