"""What it costs to hand half of a piece of work to a second thread: from compiled code, and through Python.

The work is the sums of 32 rows of 16 numbers, which one thread does in less than a microsecond, so all of the time is
that of calling and handing over. The threads are warm, as between the layers of a training step.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.engine_timing import torch_threads
from benchmarks.result import Benchmark, Case
from benchmarks.timing import Timings, take_turns
from sparseflow._fast import on_threads
from sparseflow.engine.kernels.passes import share_row_sums
from sparseflow.engine.kernels.sums import row_sums
from sparseflow.engine.layers.threads import over_ranges

ROWS, LENGTH = 32, 16


def _run(smoke: bool) -> Iterator[Case]:
    g, out, bounds = np.ones(ROWS * LENGTH, np.float32), np.zeros(ROWS, np.float32), np.array([0, ROWS // 2, ROWS])

    def python() -> None:
        on_threads(2, lambda part: row_sums(g, 0, LENGTH, out, bounds[part], bounds[part + 1], 1, 0, 1, 0, LENGTH))

    compiled = partial(over_ranges, share_row_sums, bounds, 10**9, g, 0, LENGTH, out, 1, 0, 1, 0, LENGTH)
    with torch_threads(2):
        found = take_turns({"compiled": compiled, "python": python}, smoke=smoke)
    timings = Timings(found["compiled"], found["python"])
    configuration = {"threads": 2, "rows": ROWS, "numbers": LENGTH}
    yield Case(label="32 sums of 16 numbers", configuration=configuration, timings=timings)


BENCHMARKS = [
    Benchmark(
        name="hand_over",
        what="half of a tiny piece of work handed to a second thread: from compiled code / through Python",
        reach=0.2,
        run=_run,
    )
]
