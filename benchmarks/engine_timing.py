"""Numbers of threads, and floating-point operations per second: shared by the engine's benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch

THREAD_COUNTS = (1, 2)


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


def gflops(multiply_adds: float, seconds: list[float]) -> float:
    """10^9 floating-point operations per second at the median time; a multiply-add is two.

    >>> gflops(10**9, [1.0, 2.0, 9.0])
    1.0
    """
    return 2e-9 * multiply_adds / statistics.median(seconds)
