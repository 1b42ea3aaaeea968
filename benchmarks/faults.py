"""Faults injected at every call of every kind of save, by ``make faults``: an hour, and one JSON file.

The scenarios and the layer are those of ``tests/test_faults.py``, which runs the small ones.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sparseflow.atomic import write_atomically
from sparseflow.training.environment import describe_environment

HELPERS = Path(__file__).parent.parent / "tests" / "helpers"
RESULT = Path(__file__).parent / "results" / "faults.json"
#: Real kills take a third of a second each: at every call of the short scenarios, at every fourth of a run's.
EVERY_KILL = 4


def main(names: Sequence[str]) -> None:
    """Inject, print a line per scenario, and write the figures; exit code 1 if anything was violated.

    Args:
        names: Scenarios to run, whose figures replace theirs in the file; all if there are none.
    """
    sys.path.insert(0, str(HELPERS))
    from fault_scenarios import SMALL, trainings
    from faults import QUICK, inject
    from noise_images import noise_images

    torch.set_num_threads(1)
    violations = []
    with tempfile.TemporaryDirectory() as folder:
        scenarios = [*SMALL, *trainings(noise_images(Path(folder) / "images"))]
        if unknown := set(names) - {scenario.name for scenario in scenarios}:
            raise SystemExit(f"unknown: {unknown}. Known: {', '.join(scenario.name for scenario in scenarios)}.")
        for number, scenario in enumerate(scenarios):
            if names and scenario.name not in names:
                continue
            began, where = time.monotonic(), Path(folder) / str(number)
            tally = inject(scenario, where / "quick", faults=QUICK)
            every = 1 if scenario.either else EVERY_KILL
            killed = inject(scenario, where / "killed", faults=("sigkill",), every=every)
            tally.faults += killed.faults
            tally.outcomes += killed.outcomes
            tally.violations += killed.violations
            violations += tally.violations
            seconds = round(time.monotonic() - began)
            record(scenario.name, {**tally.to_dict(), "every_sigkill": every, "seconds": seconds})
            counts = f"{tally.calls} calls, {sum(tally.faults.values())} faults, {len(tally.violations)} violations"
            print(f"{scenario.name}: {counts}, {seconds} s", flush=True)
            shutil.rmtree(where)
    print(*violations, sep="\n")
    raise SystemExit(1 if violations else 0)


def record(name: str, values: dict[str, Any]) -> None:
    """Put the figures of one scenario into the file, and the sums over all."""
    found = json.loads(RESULT.read_bytes())["scenarios"] if RESULT.is_file() else {}
    found[name] = values
    by_fault = sum((Counter(each["faults"]) for each in found.values()), Counter[str]())
    result = {
        "command": "make faults",
        "calls": sum(each["calls"] for each in found.values()),
        "faults": sum(by_fault.values()),
        "by_fault": dict(by_fault),
        "violations": sum(len(each["violations"]) for each in found.values()),
        "scenarios": found,
        "environment": describe_environment(),
    }
    write_atomically(RESULT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
