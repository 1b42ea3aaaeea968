"""Faults injected at every call of every kind of save, by ``make faults``: an hour, and one JSON file.

The scenarios and the layer are those of ``tests/test_faults.py``, which runs the small ones.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from sparseflow.atomic import write_atomically
from sparseflow.training.environment import describe_environment

HELPERS = Path(__file__).parent.parent / "tests" / "helpers"
RESULT = Path(__file__).parent / "results" / "faults.json"
#: Real kills take a third of a second each: at every call of the small scenarios, at every fourth of a training.
EVERY_KILL = 4


def main() -> None:
    """Inject, print a line per scenario, and write the figures; exit code 1 if anything was violated."""
    sys.path.insert(0, str(HELPERS))
    from fault_scenarios import SMALL, noise_images, trainings
    from faults import QUICK, inject

    torch.set_num_threads(1)
    began, found = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        data = noise_images(Path(folder) / "images")
        for number, scenario in enumerate([*SMALL, *trainings(data)]):
            where = Path(folder) / str(number)
            tally = inject(scenario, where / "quick", faults=QUICK)
            every = 1 if scenario in SMALL else EVERY_KILL
            killed = inject(scenario, where / "killed", faults=("sigkill",), every=every)
            tally.faults += killed.faults
            tally.outcomes += killed.outcomes
            tally.violations += killed.violations
            found[scenario.name] = tally.to_dict()
            counts = f"{tally.calls} calls, {sum(tally.faults.values())} faults, {len(tally.violations)} violations"
            print(f"{scenario.name}: {counts}", flush=True)
    violations = [text for values in found.values() for text in values["violations"]]
    faults = sum((Counter(values["faults"]) for values in found.values()), Counter[str]())
    result = {
        "command": "python -m benchmarks.faults",
        "calls": sum(values["calls"] for values in found.values()),
        "faults": sum(faults.values()),
        "by_fault": dict(faults),
        "violations": len(violations),
        "scenarios": found,
        "seconds": round(time.monotonic() - began),
        "environment": describe_environment(),
    }
    write_atomically(RESULT, (json.dumps(result, indent=1) + "\n").encode())
    print(*violations, sep="\n")
    raise SystemExit(1 if violations else 0)


if __name__ == "__main__":
    main()
