"""Sparse against dense at one and at two threads: what the engine's benchmarks have in common."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.result import Case
from benchmarks.timing import Timings, alternate, stopwatch

Step = Callable[[], object]

THREAD_COUNTS = (1, 2)
#: Seconds that one turn should last, so that caches and thread pools are those of a loop and not of a change of turns.
_TURN = 0.02


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads for torch and for the engine, which follows it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_threads(count: int) -> str:
    """The end of a case's label.

    >>> on_threads(1), on_threads(2)
    ('1 thread', '2 threads')
    """
    return f"{count} thread{'s' * (count > 1)}"


def measure(subject: Step, baselines: Mapping[str, Step], *, smoke: bool, repeats: int = 9) -> tuple[Timings, str]:
    """Seconds a call of the subject and of the fastest baseline, in turns, and that baseline's name."""
    if smoke:
        name = next(iter(baselines))
        return alternate(lambda: stopwatch(subject), lambda: stopwatch(baselines[name]), repeats=1, warmup=0), name
    seconds = {name: _median_seconds(step) for name, step in baselines.items()}
    name = min(seconds, key=seconds.__getitem__)
    timings = alternate(
        _turn(subject, _median_seconds(subject)), _turn(baselines[name], seconds[name]), repeats=repeats, warmup=1
    )
    return timings, name


def _median_seconds(step: Step) -> float:
    step()
    return statistics.median(stopwatch(step) for _ in range(3))


def _turn(step: Step, seconds: float) -> Callable[[], float]:
    calls = max(1, math.ceil(_TURN / seconds))

    def turn() -> float:
        return stopwatch(lambda: [step() for _ in range(calls)]) / calls

    return turn


def compare(
    row: str, subject: Step, baselines: Mapping[str, Step], configuration: Mapping[str, Any], *,
    smoke: bool, multiply_adds: int | None = None, counts: bool = True,
) -> Iterator[Case]:  # fmt: skip
    """One case a number of threads.

    Args:
        row: What the cases are called, without the threads.
        subject: Sparse.
        baselines: Ways of the dense computation, by name: the fastest one counts.
        configuration: Of the cases.
        smoke: Once, no time judged.
        multiply_adds: Of one call of the subject, for GF/s; the dense one has those of its zeros too, by the
            configuration's sparsity.
        counts: See :class:`Case`.
    """
    for count in THREAD_COUNTS:
        with torch_threads(count):
            timings, fastest = measure(subject, baselines, smoke=smoke)
        found: dict[str, Any] = {"row": row, "threads": count, "baseline": fastest, **configuration}
        if multiply_adds is not None:
            found["gflops"] = gflops(multiply_adds, timings.subject)
            found["gflops_dense"] = gflops(multiply_adds / (1 - configuration["sparsity"]), timings.baseline)
        yield Case(label=f"{row}, {on_threads(count)}", configuration=found, timings=timings, counts=counts)


def gflops(multiply_adds: float, seconds: list[float]) -> float:
    """10^9 floating-point operations a second at the median: two a multiply-add.

    >>> gflops(10**9, [1.0, 2.0, 9.0])
    1.0
    """
    return 2e-9 * multiply_adds / statistics.median(seconds)
