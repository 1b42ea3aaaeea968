"""Run benchmarks one after the other: a line per case, a table at the end, a JSON file per benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.result import Benchmark, Failure, bound, is_held, report, shown
from sparseflow.atomic import write_atomically


def measure(benchmarks: Iterable[Benchmark], *, smoke: bool, out: Path | None, command: str) -> None:
    """Measure each benchmark and show a table.

    Args:
        benchmarks: The benchmarks to run.
        smoke: Run at tiny sizes and judge no time.
        out: Folder for one JSON file per benchmark; ``None`` writes nothing.
        command: The command line, recorded in the files.
    """
    console = Console()
    table = Table("what", "case", "reach", "measured", "quartiles", "repeats", "verdict")
    for benchmark in benchmarks:
        name = benchmark.name
        cases, failures = [], []
        for case in benchmark.run(smoke):
            if isinstance(case, Failure):
                console.print(f"{name}, {case.label}: {case.error}", highlight=False, markup=False)
                failures.append(case)
                continue
            ratio = shown(case.timings.ratio, speedup=benchmark.speedup)
            console.print(f"{name}, {case.label}: {ratio}", highlight=False)
            cases.append(case)
        if not cases:
            continue
        result = report(benchmark, cases, failures, command=command)
        for case, told in zip(cases, result["cases"], strict=True):
            reach = told["reach"]
            low, high = (
                shown(ratio, speedup=benchmark.speedup)
                for ratio in sorted(case.timings.quartiles, reverse=benchmark.speedup)
            )
            table.add_row(
                benchmark.what if case is cases[0] else "",
                case.label,
                "" if reach is None else bound(reach, speedup=benchmark.speedup),
                shown(case.timings.ratio, speedup=benchmark.speedup),
                f"{low} - {high}",
                str(len(case.timings.subject)),
                "" if smoke or reach is None else _verdict(case.timings.ratio <= reach),
            )
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
            console.print(f"{name}: {_verdict(is_held(result))}", highlight=False)
    console.print(table)


def _verdict(held: bool) -> str:
    return "held" if held else "missed"
