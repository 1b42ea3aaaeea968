"""Time of ``import sparseflow`` over ``import torch``, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.result import Benchmark, Case
from benchmarks.timing import alternate


def run(smoke: bool) -> Iterator[Case]:
    timings = alternate(
        lambda: _seconds("sparseflow"),
        lambda: _seconds("torch"),
        repeats=1 if smoke else 9,
        warmup=0 if smoke else 1,
    )
    yield Case(label="fresh processes", configuration={"modules": ["sparseflow", "torch"]}, timings=timings)


def _seconds(module: str) -> float:
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


BENCHMARK = Benchmark(name="import_time", what="import sparseflow / import torch", reach=1.1, run=run)
