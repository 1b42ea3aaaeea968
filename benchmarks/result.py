"""Results of a benchmark, with the machine and software that they were measured on."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.timing import Timings
from sparseflow.machine import processor

RESULTS = Path(__file__).parent / "results"
THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration of a benchmark."""

    label: str
    configuration: dict[str, Any]
    timings: Timings
    counts: bool = True
    """Whether the case is judged against the number to reach; other cases are reported beside it."""
    reach: float | None = None
    """Its own number to reach, where the benchmark has none for all."""
    unit: str = "seconds"
    """Unit of the timings."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A configuration that could not be measured, and the reason: that too is a result."""

    label: str
    error: str
    counts: bool = False
    """Whether the failure misses the number to reach; another library's does not."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A number to reach and the function that measures it, at full size or (``smoke``) at a tiny one."""

    name: str
    what: str
    reach: float | None
    """The largest ratio of subject over baseline that counts as held; ``None`` where every case has its own."""
    run: Callable[[bool], Iterable[Case | Failure]]
    speedup: bool = False
    """Shown as how many times faster the subject is than the baseline, ``1 / ratio``."""


def shown(ratio: float, *, speedup: bool) -> str:
    """A ratio of subject over baseline as text.

    >>> shown(0.08, speedup=True), shown(1 / 3216, speedup=True), shown(0.08, speedup=False)
    ('12.5x', '3220x', '0.08')
    """
    if not speedup:
        return f"{ratio:.2f}"
    digits = float(f"{1 / ratio:.3g}")
    return f"{digits:.0f}x" if digits >= 1000 else f"{digits:g}x"


def bound(reach: float, *, speedup: bool) -> str:
    """A number to reach as text.

    >>> bound(1 / 6.5, speedup=True), bound(1.03, speedup=False)
    ('>= 6.5x', '<= 1.03')
    """
    return f">= {1 / reach:g}x" if speedup else f"<= {reach:g}"


def report(benchmark: Benchmark, cases: list[Case], failures: list[Failure], *, command: str) -> dict[str, Any]:
    """The result file's content, as JSON types."""
    return {
        "name": benchmark.name,
        "what": benchmark.what,
        "speedup": benchmark.speedup,
        "reach": benchmark.reach,
        "cases": [_case(case, benchmark.reach) for case in cases],
        "failures": [asdict(failure) for failure in failures],
        "hardware": {"cpu": processor(), "cores": os.cpu_count(), "threads": THREADS, "load": os.getloadavg()[0]},
        "versions": _versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def is_held(result: dict[str, Any]) -> bool:
    """Whether every judged case reached the number, and none failed."""
    judged = [case for case in result["cases"] if case["counts"]]
    return all(case["ratio"] <= case["reach"] for case in judged) and not any(f["counts"] for f in result["failures"])


def verdict(result: dict[str, Any]) -> str:
    """The word "held", or "missed" in bold."""
    return "held" if is_held(result) else "**missed**"


def machines(results: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each machine, software and day that results come from."""
    found = {
        f"{r['hardware']['cpu']}, {r['hardware']['cores']} cores, {r['hardware']['threads']} threads, "
        f"Python {r['versions']['python']}, torch {r['versions']['torch']}, {r['date'][:10]}"
        for r in results
    }
    return [f"Medians of the ratios of alternating runs on {machine}." for machine in sorted(found)]


def load(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All timings in a folder, by file name; figures of other kinds, such as counted faults, have no name."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [result for result in found if "name" in result]


def _case(case: Case, reach: float | None) -> dict[str, Any]:
    low, high = case.timings.quartiles
    own = reach if case.reach is None else case.reach
    return {
        "label": case.label,
        "counts": case.counts,
        "reach": own if case.counts else None,
        "configuration": case.configuration,
        "ratio": case.timings.ratio,
        "quartiles": [low, high],
        f"median_{case.unit}": {
            "subject": statistics.median(case.timings.subject),
            "baseline": statistics.median(case.timings.baseline),
        },
        case.unit: {"subject": case.timings.subject, "baseline": case.timings.baseline},
    }


def _versions() -> dict[str, str]:
    import numpy
    import torch

    import sparseflow

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "sparseflow": sparseflow.__version__,
    }
