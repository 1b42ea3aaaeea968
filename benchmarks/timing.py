"""Time two things fairly on a busy machine: alternate them in one process and compare neighbours."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Step = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)
#: Seconds that one turn should last, so that caches and thread pools are warm, as in a training loop.
_TURN = 0.02


def nothing() -> None:
    """Do nothing: the default preparation."""


@dataclass(frozen=True)
class Timings:
    """Seconds of each repeat, in the order of measurement: the i-th of both were taken next to each other."""

    subject: list[float]
    baseline: list[float]

    @property
    def ratios(self) -> list[float]:
        """Each repeat of the subject over its neighbour of the baseline."""
        return [a / b for a, b in zip(self.subject, self.baseline, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the ratios of neighbours: a load that comes and goes slows both, so it cancels.

        >>> Timings(subject=[2.0, 3.0, 100.0], baseline=[1.0, 2.0, 2.0]).ratio
        2.0
        """
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the ratios of neighbours: the spread."""
        if len(self.ratios) == 1:
            return self.ratios[0], self.ratios[0]
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    def is_stable(self, tolerance: float) -> bool:
        """Whether the even and the odd repeats, each on its own, give the same ratio to ``tolerance`` (a fraction)."""
        even = Timings(self.subject[::2], self.baseline[::2]).ratio
        odd = Timings(self.subject[1::2], self.baseline[1::2]).ratio
        return abs(even - odd) <= tolerance * self.ratio


def stopwatch(run: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(
    subject: Callable[[], float],
    baseline: Callable[[], float],
    *,
    repeats: int,
    warmup: int = 2,
    prepare: Callable[[], None] = nothing,
    tolerance: float = 0.02,
) -> Timings:
    """Take turns (A B B A A B ...) until the ratio is stable.

    Args:
        subject: Runs once and returns its seconds.
        baseline: The same, for the computation that the subject is compared with.
        repeats: At least this many of each, at most four times as many.
        warmup: Turns whose times are not kept.
        prepare: Called before each turn, not timed.
        tolerance: See :meth:`Timings.is_stable`.
    """
    timings = Timings([], [])
    for turn in range(warmup + 4 * repeats):
        prepare()
        if turn % 2:
            b, a = baseline(), subject()
        else:
            a, b = subject(), baseline()
        if turn >= warmup:
            timings.subject.append(a)
            timings.baseline.append(b)
        count = len(timings.subject)
        if count == repeats == 1 or (count >= max(2, repeats) and timings.is_stable(tolerance)):
            break
    return timings


def shortest(step: Step) -> float:
    """Seconds of the shortest of a few calls, of two at least: one that other work held up says nothing."""
    found = [stopwatch(step), stopwatch(step)]
    while len(found) < 5 and sum(found) < 5 * _TURN:
        found.append(stopwatch(step))
    return min(found)


def take_turns(
    steps: Mapping[Name, Step], *, smoke: bool = False, least: int = 9, most: int = 27, seconds: float = 12.0
) -> dict[Name, list[float]]:
    """Seconds per call of several computations that take turns (A B C C B A A B C ...).

    Turns last until every ratio of two is stable to 2 %, or the time is up; the i-th of all were taken next to each
    other.

    Args:
        steps: Called as often in one turn as 20 ms allow.
        smoke: Call each once.
        least, most: Turns of each.
        seconds: After this time no more turns than ``least`` are taken; after three times as much, no more than three.
    """
    if smoke:
        return {name: [stopwatch(step)] for name, step in steps.items()}
    calls = {name: max(1, round(_TURN / shortest(step))) for name, step in steps.items()}
    found: dict[Name, list[float]] = {name: [] for name in steps}
    names, start = list(steps), time.perf_counter()
    for turn in range(most):
        for name in reversed(names) if turn % 2 else names:
            step = steps[name]
            found[name].append(stopwatch(lambda: [step() for _ in range(calls[name])]) / calls[name])  # noqa: B023
        passed = time.perf_counter() - start
        if turn + 1 >= least and (passed > seconds or _are_stable(list(found.values()))):
            break
        if turn + 1 >= 3 and passed > 3 * seconds:
            break
    return found


def _are_stable(found: list[list[float]]) -> bool:
    return all(Timings(found[0], other).is_stable(0.02) for other in found[1:])
