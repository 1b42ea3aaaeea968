"""The time of a run: all of it, and the part in which it was measured rather than trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds since it was made, and of these the seconds of measuring; both go on from an earlier process's.

    >>> clock = Clock()
    >>> with clock.measures():
    ...     _ = sum(range(1000))
    >>> 0 < clock.measuring <= clock.seconds
    True
    """

    def __init__(self) -> None:
        self._began, self._before, self._depth = time.perf_counter(), 0.0, 0
        #: Seconds in :meth:`measures`.
        self.measuring = 0.0

    @property
    def seconds(self) -> float:
        """All seconds, those of measuring among them."""
        return self._before + time.perf_counter() - self._began

    def continue_from(self, seconds: float, measuring: float) -> None:
        """Begin where another process's clock stood.

        Args:
            seconds, measuring: Of that clock.
        """
        self._before, self._began, self.measuring = seconds, time.perf_counter(), measuring

    @contextmanager
    def measures(self) -> Iterator[None]:
        """A context whose seconds are measuring; one inside another counts once."""
        self._depth += 1
        began = time.perf_counter()
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.measuring += time.perf_counter() - began
