"""A child of ``benchmarks.against``: it measures one benchmark and prints its cases as JSON.

It is started by its path with ``python -P``, so that ``benchmarks`` and ``sparseflow`` come from the checkout that
``PYTHONPATH`` names, whatever its commit.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any


def benchmark_of(module_name: str, name: str) -> Any:
    """The benchmark called ``name`` in a module of ``benchmarks``.

    >>> benchmark_of("engine_rows", "engine_lenet5_plan").name
    'engine_lenet5_plan'
    """
    module = importlib.import_module(f"benchmarks.{module_name}")
    if hasattr(module, "benchmark"):  # those of images take the folder of their data
        return module.benchmark(Path())
    offered = getattr(module, "BENCHMARKS", None) or (module.BENCHMARK,)
    return next(benchmark for benchmark in offered if benchmark.name == name)


def limit_repeats(at_most: int) -> None:
    """Stop every benchmark after ``at_most`` repeats of a case, stable or not: more rounds follow."""
    from benchmarks.timing import Timings, alternate, take_turns

    def briefly(*runs: Any, **options: Any) -> Timings:
        return alternate(*runs, **options | {"repeats": min(at_most, options["repeats"]), "tolerance": math.inf})

    brief = {"alternate": briefly, "take_turns": partial(take_turns, least=at_most, most=at_most)}
    for name, module in list(sys.modules.items()):
        if name.startswith("benchmarks.") and name != "benchmarks.timing":
            for function in brief.keys() & vars(module).keys():
                setattr(module, function, brief[function])


def main(module_name: str, name: str, cases: int, repeats: int, smoke: bool) -> None:
    """Measure one benchmark and print its cases."""
    import torch

    import sparseflow
    from benchmarks.result import THREADS

    torch.set_num_threads(THREADS)
    benchmark = benchmark_of(module_name, name)
    limit_repeats(repeats)
    found = [
        {
            "label": case.label,
            "unit": case.unit,
            "subject": statistics.median(case.timings.subject),
            "ratio": case.timings.ratio,
        }
        for case in islice(benchmark.run(smoke), cases)
    ]
    print(json.dumps({"package": sparseflow.__file__, "cases": found}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "smoke")
