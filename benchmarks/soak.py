"""100,000 steps of the state machine in ``tests/helpers/machine.py``: ``make soak``, or ``--steps`` for fewer.

Two processes draw different runs; what breaks is printed by hypothesis as the shortest program that breaks it. The
figure goes to ``benchmarks/results/soak.json``.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "soak.json"
#: Steps of one run of the machine.
LENGTH = 50
#: Runs between two lines of progress.
PART = 10


def soak(steps: int, seed: int, counts: Any) -> None:
    """Take at least this many steps; raises where the promise is broken."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import torch
    from hypothesis import HealthCheck, Phase, settings
    from hypothesis import seed as seeded
    from hypothesis.stateful import run_state_machine_as_test

    from machine import Machine

    torch.set_num_threads(1)
    logging.getLogger("sparseflow").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    part = 0
    while sum(Machine.counts.values()) < steps:
        gc.freeze()  # a second Sparsifier collects garbage, which need not go through every module

        class Drawn(Machine):  # type: ignore[misc]
            """Another class, so that every part draws with a seed of its own."""

        run_state_machine_as_test(
            seeded(1_000_000 * seed + part)(Drawn),
            settings=settings(
                max_examples=PART,
                stateful_step_count=LENGTH,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
        part += 1
        counts[seed] = dict(Machine.counts)


def main() -> None:
    """Run both processes, show progress with the time left, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    with context.Manager() as manager:
        counts = manager.dict()
        share = -(-options.steps // options.processes)
        workers = [context.Process(target=soak, args=(share, seed, counts)) for seed in range(options.processes)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(timeout=5)
            done, elapsed = _total(counts), time.perf_counter() - began
            left = elapsed * max(0, options.steps - done) / max(1, done)
            print(f"\r{done:,} of {options.steps:,} steps, about {left / 60:.0f} min left", end="", file=sys.stderr)
        print(file=sys.stderr)
        failed = [worker.exitcode for worker in workers if worker.exitcode]
        rules: Counter[str] = Counter()
        for each in counts.values():
            rules.update(each)
    if failed:
        raise SystemExit("the promise was broken: see the program above")
    import torch

    import sparseflow as sf

    result = {
        "steps": sum(rules.values()),
        "violations": 0,
        "rules": dict(sorted(rules.items())),
        "seconds": round(time.perf_counter() - began),
        "torch": torch.__version__,
        "sparseflow": sf.__version__,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['steps']:,} steps, no violation; {RESULT.relative_to(ROOT)}")


def _total(counts: Any) -> int:
    return sum(sum(each.values()) for each in counts.values())


if __name__ == "__main__":
    main()
