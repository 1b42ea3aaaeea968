"""Time sparse against dense computation with one thread and with two: shared by the engine's benchmarks."""

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
#: Seconds that one turn should last, so that caches and thread pools are warm, as in a training loop.
_TURN = 0.02


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads, which the engine uses too, inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_threads(count: int) -> str:
    """The end of a case's label, with its number of threads.

    >>> on_threads(1), on_threads(2)
    ('1 thread', '2 threads')
    """
    return f"{count} thread{'s' * (count > 1)}"


def measure(subject: Step, baselines: Mapping[str, Step], *, smoke: bool, repeats: int = 9) -> tuple[Timings, str]:
    """Seconds per call of the subject and of the fastest baseline, taken in turns, and that baseline's name."""
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
    """One case for each number of threads.

    Args:
        row: Label of the cases, without the threads.
        subject: The sparse computation.
        baselines: Dense computations of the same, by name; the fastest one is the baseline.
        configuration: Settings to record with the cases.
        smoke: Run once and judge no time.
        multiply_adds: Number in one call of the subject, for GF/s; the dense one also multiplies its zeros, whose
            number follows from the configuration's sparsity.
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
    """10^9 floating-point operations per second at the median time; a multiply-add is two.

    >>> gflops(10**9, [1.0, 2.0, 9.0])
    1.0
    """
    return 2e-9 * multiply_adds / statistics.median(seconds)
