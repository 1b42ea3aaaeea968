"""Time per nonzero, forward and backward, as a 95 % sparse linear layer grows from 1e5 to 1e8 nonzeros.

The machine's ceilings are measured beside it: the same multiply-adds on inputs that fit in the first-, second- and
third-level cache, and on inputs that do not. A multiply-add of the engine loads one vector of activations, so it runs
at the speed of the cache that holds them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch

import sparseflow as sf
from benchmarks.contest import LAYOUTS
from benchmarks.engine_problems import forward_backward
from benchmarks.engine_timing import THREAD_COUNTS, gflops, on_threads, torch_threads
from benchmarks.result import Benchmark, Case, Failure
from benchmarks.timing import alternate, stopwatch
from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.layers.products import Product

BATCH = 128
DENSITY = 0.05
SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000)
#: Peak bytes per nonzero while one layer is built and run: tables both ways, values, gradients and sorting.
_BYTES = 64


def square(nonzeros: int, *, seed: int) -> sf.engine.SparseLinear:
    """A square layer of about ``nonzeros`` nonzeros, equally many in each row, built without a dense tensor."""
    side = round(math.sqrt(nonzeros / DENSITY))
    row = round(side * DENSITY)
    rng = np.random.default_rng(seed)
    columns = np.empty((side, row), np.int32)
    for i in range(side):
        columns[i] = rng.choice(side, row, replace=False, shuffle=False)
    columns.sort(axis=1)
    begins = np.arange(side + 1, dtype=np.int32) * np.int32(row)
    pattern = sf.engine.Pattern((side, side), begins, columns.reshape(-1))
    values = torch.randn(pattern.num_active, generator=torch.Generator().manual_seed(seed)) / math.sqrt(row)
    return sf.engine.SparseLinear(pattern, values, None, Window())


def _run(smoke: bool) -> Iterator[Case | Failure]:
    sizes = (500, 1000) if smoke else SIZES
    base, smallest = _timer(sizes[0])
    ceilings = {}
    for threads in THREAD_COUNTS:
        with torch_threads(threads):
            ceilings[threads] = _ceilings(smoke)
    for nonzeros in sizes[1:]:
        needed, free = _BYTES * nonzeros, _free_memory()
        if needed > free:
            error = f"needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
            yield Failure(label=f"{nonzeros:.0e} nonzeros", error=error)
            continue
        timer, actual = _timer(nonzeros)
        for threads in THREAD_COUNTS:
            with torch_threads(threads):
                timings = alternate(timer, base, repeats=1 if smoke else 3, warmup=0 if smoke else 1, tolerance=0.05)
            multiply_adds = 3 * BATCH
            configuration = {
                "row": f"{nonzeros:.0e} nonzeros", "threads": threads, "nonzeros": actual, "density": DENSITY,
                "batch": BATCH, "layout": "batch innermost", "baseline": f"{smallest} nonzeros",
                "gflops": gflops(multiply_adds, timings.subject),
                "gflops_smallest": gflops(multiply_adds, timings.baseline),
                "gflops_ceilings": ceilings[threads]
            }  # fmt: skip
            label = f"{nonzeros:.0e} nonzeros, {on_threads(threads)}"
            yield Case(label=label, configuration=configuration, timings=timings, unit="seconds_per_nonzero")


def _timer(nonzeros: int) -> tuple[Callable[[], float], int]:
    layer = square(nonzeros, seed=0)
    side, actual = layer.pattern.inputs, layer.pattern.num_active
    x, gradient = (LAYOUTS["batch innermost"](torch.randn(BATCH, side)) for _ in range(2))
    step = forward_backward(x, gradient, of_input=True)(layer, torch.Tensor.contiguous, nullcontext)
    calls = max(1, 2_000_000 // nonzeros)

    def seconds_per_nonzero() -> float:
        return stopwatch(lambda: [step() for _ in range(calls)]) / (calls * actual)

    return seconds_per_nonzero, actual


def _ceilings(smoke: bool) -> dict[str, float]:
    """GF/s of the forward kernel, by the number of bytes of input that all rows share."""
    found = {}
    for size in (2**14,) if smoke else (2**14, 2**19, 2**23, 2**28):
        inputs, row = size // (4 * BATCH), 64
        rows = 16 if smoke else max(2048, min(16384, inputs // 4))
        rng = np.random.default_rng(0)
        columns = np.sort(rng.integers(0, inputs, (rows, row), dtype=np.int32), axis=1)
        begins = np.arange(rows + 1, dtype=np.int32) * np.int32(row)
        product = Product(sf.engine.Pattern((rows, inputs), begins, columns.reshape(-1)), Window(), (1, 1), BATCH, 4)
        x, values = torch.ones(inputs, 1, 1, BATCH), torch.ones(rows * row)
        seconds = [stopwatch(lambda: product.forward(values, None, x)) for _ in range(2 if smoke else 7)]  # noqa: B023
        found[f"{size // 1024} KiB"] = gflops(rows * row * BATCH, seconds[1:])
    return found


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


BENCHMARKS = (
    Benchmark(
        name="engine_growth",
        what="time per nonzero of forward + backward, up to 1e8 nonzeros / at 1e5",
        reach=1.5,
        run=_run,
    ),
)
