"""``python -m benchmarks [--only NAME ...] [--smoke] [--out FOLDER]``: measure, show a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.result import RESULTS, THREADS

# Before torch is imported: its thread pools read these once.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(THREADS)


def main() -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    from benchmarks import (
        engine_conv,
        engine_growth,
        engine_linear,
        engine_memory,
        engine_steps,
        engine_transformer,
        hessian,
        import_time,
        initialise,
        mask_update,
        masked_step,
    )
    from benchmarks.result import Failure, bound, is_held, report, shown
    from sparseflow.atomic import write_atomically

    torch.set_num_threads(THREADS)
    modules = (masked_step, mask_update, initialise, import_time)
    several = (engine_steps, engine_linear, engine_conv, engine_transformer, engine_memory, engine_growth, hessian)
    every = [*(module.BENCHMARK for module in modules), *(found for module in several for found in module.BENCHMARKS)]
    benchmarks = {benchmark.name: benchmark for benchmark in every}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=benchmarks, nargs="+", metavar="NAME", help=", ".join(benchmarks))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing written, no time judged")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for one JSON file per benchmark")
    arguments = parser.parse_args()

    console = Console()
    table = Table("what", "case", "reach", "measured", "quartiles", "repeats", "verdict")
    for name, benchmark in benchmarks.items():
        if arguments.only and name not in arguments.only:
            continue
        cases, failures = [], []
        for case in benchmark.run(arguments.smoke):
            if isinstance(case, Failure):
                console.print(f"{name}, {case.label}: {case.error}", highlight=False, markup=False)
                failures.append(case)
                continue
            ratio = shown(case.timings.ratio, speedup=benchmark.speedup)
            console.print(f"{name}, {case.label}: {ratio}", highlight=False)
            cases.append(case)
        if not any(case.counts for case in cases):
            continue
        result = report(benchmark, cases, failures, command=" ".join(["python -m benchmarks", *sys.argv[1:]]))
        for case in cases:
            low, high = (
                shown(ratio, speedup=benchmark.speedup)
                for ratio in sorted(case.timings.quartiles, reverse=benchmark.speedup)
            )
            table.add_row(
                benchmark.what if case is cases[0] else "",
                case.label,
                bound(benchmark.reach, speedup=benchmark.speedup) if case.counts else "",
                shown(case.timings.ratio, speedup=benchmark.speedup),
                f"{low} - {high}",
                str(len(case.timings.subject)),
                "" if arguments.smoke or not case.counts else _verdict(case.timings.ratio <= benchmark.reach),
            )
        if not arguments.smoke:
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_atomically(arguments.out / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
            console.print(f"{name}: {_verdict(is_held(result))}", highlight=False)
    console.print(table)


def _verdict(held: bool) -> str:
    return "held" if held else "missed"


if __name__ == "__main__":
    main()
