"""``python -m benchmarks.text_runs --runs FOLDER --out FOLDER [--jobs 2]``: dense, sparse and small dense decoders.

For each kind a short run at each learning rate of ``RATES``, the same for all; then one of full length at the rate with
the fewest bits per byte of the validation text. How good it is says ``test_bits_per_byte``, of files that nothing is
chosen by. What is done is not done again, and what was stopped goes on, so the same command continues. Writes
``runs.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pandas as pd

from sparseflow.atomic import write_atomically
from sparseflow.training.pool import run_tasks
from sparseflow.training.runs import Run
from sparseflow.training.sweep import prepare
from sparseflow.training.text import TextRun, small_dense
from sparseflow.training.trial import Trial, end_of_trial

RATES = (0.0025, 0.005, 0.01)
ONE_IN_10, ONE_IN_100 = TextRun(one_in=10, floor=4), TextRun(one_in=100, floor=1)
#: What is compared, the slowest first.
KINDS = {
    "dense": TextRun(),
    "1 in 10": ONE_IN_10,
    "1 in 100": ONE_IN_100,
    "small dense, as 1 in 10": small_dense(ONE_IN_10),
    "small dense, as 1 in 100": small_dense(ONE_IN_100),
}


def all_trained(runs: Sequence[TextRun], *, root: Path, jobs: int) -> list[Run | None]:
    """The runs at their ends, so many at once in processes of one thread; None where the loss did not stay finite."""
    trials = [Trial(run) for run in runs]
    prepare([trial for trial in trials if not trial.is_done(root)], root=root)
    run_tasks(trials, root=root, jobs=jobs)
    return [end_of_trial(root, run) for run in runs]


def best_of(kind: str, runs: Sequence[Run | None]) -> TextRun:
    """The config with the fewest bits per byte of the validation text.

    Raises:
        ValueError: if no run kept a finite loss.
    """
    finite = [run for run in runs if run is not None]
    if not finite:
        raise ValueError(f"no run of the search for {kind} kept a finite loss. Lower RATES.")
    found: TextRun = min(finite, key=lambda run: run.final["validation/bits_per_byte"]).config
    return found


def row(kind: str, config: TextRun, run: Run | None, *, searched: bool) -> dict[str, object]:
    """A row of the table, without results where the loss did not stay finite."""
    final = {} if run is None else run.final
    return {
        "kind": kind, "search": searched, "width": config.width, "one_in": config.one_in,
        "learning_rate": config.learning_rate, "steps": config.steps, "weights": final.get("weights"),
        "table": final.get("table"), "validation_bits_per_byte": final.get("validation/bits_per_byte"),
        "test_bits_per_byte": final.get("test/bits_per_byte"), "seconds": run and round(run.seconds),
        "command": config.command,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_runs", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/text"), help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs.csv")
    parser.add_argument("--steps", type=int, default=8000, help="of the runs of full length")
    parser.add_argument("--search-steps", type=int, default=300, help="of those that choose a learning rate")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    search = {
        kind: [run.with_(steps=arguments.search_steps, learning_rate=rate) for rate in RATES]
        for kind, run in KINDS.items()
    }
    tried = iter(all_trained([*chain(*search.values())], root=arguments.runs / "search", jobs=arguments.jobs))
    found = {kind: [(config, next(tried)) for config in configs] for kind, configs in search.items()}
    longer = [best_of(kind, [run for _, run in of]).with_(steps=arguments.steps) for kind, of in found.items()]
    ended = all_trained(longer, root=arguments.runs, jobs=arguments.jobs)
    rows = [row(*each, searched=False) for each in zip(KINDS, longer, ended, strict=True)]
    rows += [row(kind, *each, searched=True) for kind, of in found.items() for each in of]
    table = pd.DataFrame(rows)
    write_atomically(arguments.out / "runs.csv", table.to_csv(index=False).encode())
    print(table.drop(columns="command").to_string(index=False))


if __name__ == "__main__":
    main()
