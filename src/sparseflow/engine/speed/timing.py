"""Steps timed in turns on a busy machine, and what their times say about the faster one."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Step = Callable[[], object]

#: Six pairs are the fewest of which all can lie on one side in less than 2.5 of 100 cases by chance.
_PAIRS, _MOST = 6, 1000
#: Turns of which a median is taken, at least.
_FEW = 3
#: Seconds that a turn of one step takes at least, by repeats of the step: the clock and its call cost microseconds.
_TURN = 1e-3
#: Seconds of a step from which the caches that it finds filled by others no longer matter.
_LONG = 0.05


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: the median of the ratios of neighbours, and an interval that holds it.

    >>> print(Ratio(2.04, 1.98, 2.11))
    2.04 (1.98 to 2.11)
    """

    median: float
    low: float
    high: float
    """The true median lies between ``low`` and ``high`` in 95 of 100 measurements, if neighbours are independent."""

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


def short(ratio: float) -> str:
    """A ratio with three digits.

    >>> short(0.5), short(12.34)
    ('0.50', '12.3')
    """
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def turns(
    steps: Sequence[Step], *, seconds: float, least: int = _PAIRS, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of each step in each turn; the i-th of all were taken next to each other.

    A load on the machine that comes and goes slows neighbours alike. The order is reversed at every second turn; each
    step runs once uncounted in its turn, so that it finds its own data in the caches as in a loop; the garbage
    collector is off.

    Args:
        steps: Called twice uncounted, then for at most 1000 turns.
        seconds: To spend on all of them, beyond the least turns.
        least: Number of turns at least.
        clock: Seconds, now.

    >>> quick, slow = turns([lambda: None, lambda: time.sleep(1e-3)], seconds=0.01)
    >>> max(quick) < 1e-3 <= min(slow)
    True
    """
    for step in steps:
        step()
    once = [max(_seconds_of(step, 1, clock), 1e-6) for step in steps]
    times: list[list[float]] = [[] for _ in steps]
    order = list(range(len(steps)))
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = clock() + seconds
        for turn in range(_MOST):
            for index in reversed(order) if turn % 2 else order:
                if once[index] < _LONG:
                    steps[index]()
                times[index].append(_seconds_of(steps[index], math.ceil(_TURN / once[index]), clock))
            if turn + 1 >= least and clock() >= end:
                break
    finally:
        if was_on:
            gc.enable()
    return times


def medians(steps: Sequence[Step], *, seconds: float) -> list[float]:
    """Median seconds of each step, of 3 turns at least, see :func:`turns`."""
    return [statistics.median(each) for each in turns(steps, seconds=seconds, least=_FEW)]


def times_as_fast(subject: Sequence[float], baseline: Sequence[float]) -> Ratio:
    r"""How many times as fast the subject is as the baseline, from neighbouring times.

    The interval is that of the sign test: of :math:`n` ratios in order the :math:`k`-th from both ends, with the
    largest :math:`k` for which :math:`P(B \le k - 1) \le 0.025`, :math:`B` binomial with :math:`n` and 1/2. It assumes
    nothing about how times are distributed.

    Args:
        subject: Seconds in each turn.
        baseline: Seconds in the same turns.

    >>> times_as_fast([1.0] * 6, [2.0, 3.0, 2.5, 2.0, 2.5, 2.5])
    Ratio(median=2.5, low=2.0, high=3.0)
    """
    ratios = sorted(slow / fast for fast, slow in zip(subject, baseline, strict=True))
    cut = _cut(len(ratios))
    return Ratio(statistics.median(ratios), ratios[cut], ratios[-1 - cut])


def _cut(number: int) -> int:
    """How many ratios are left out at each end."""
    below, cut = 1, 0
    while (below + math.comb(number, cut + 1)) * 40 <= 2**number and 2 * (cut + 1) < number:
        cut += 1
        below += math.comb(number, cut)
    return cut


def _seconds_of(step: Step, repeats: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(repeats):
        step()
    return (clock() - began) / repeats
