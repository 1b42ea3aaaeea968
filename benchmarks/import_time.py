"""Time of importing what a training script uses over that of ``import torch``, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.result import Benchmark, Case
from benchmarks.timing import alternate


def run(smoke: bool) -> Iterator[Case]:
    timings = alternate(
        lambda: _seconds("from sparseflow import RigL, Sparsifier, initialize_, random_masks"),
        lambda: _seconds("import torch"),
        repeats=1 if smoke else 9,
        warmup=0 if smoke else 1,
    )
    yield Case(
        label="fresh processes",
        configuration={"names": ["RigL", "Sparsifier", "initialize_", "random_masks"]},
        timings=timings,
    )


def _seconds(statement: str) -> float:
    # ``import sparseflow`` alone loads nothing: names are loaded when they are asked for.
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


BENCHMARK = Benchmark(
    name="import_time", what="import of a Sparsifier, RigL, masks and initialisation / import torch", reach=1.1, run=run
)
