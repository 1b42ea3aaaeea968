"""``python -m benchmarks.text_runs --runs FOLDER --out FOLDER [--jobs 2]``: dense, sparse and small dense decoders.

For each kind a short run at each learning rate of ``RATES``, the same for all; then one of full length at the rate with
the fewest bits per byte. Which rate and how good are read from the same held-out text, for every kind alike. What is
done is not done again, and what was stopped goes on, so the same command continues. Writes ``runs.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from rich.console import Console

from sparseflow.atomic import write_atomically
from sparseflow.cli.progress import shown
from sparseflow.training.runs import Run
from sparseflow.training.text import TextRun, small_dense
from sparseflow.training.text_loop import train_text

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


def trained(run: TextRun, *, root: Path) -> Run:
    """A run at its end, with its progress on the terminal, or in the log."""
    with shown(run.name, console=Console(stderr=True)) as bar:
        return train_text(run, root=root, progress=bar.step, watch=bar.log)


def all_trained(runs: Sequence[TextRun], *, root: Path, jobs: int) -> list[Run]:
    """Finished runs, so many of them trained side by side, each in a process of its own with one thread."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(trained, root=root), runs))


def best_of(runs: Sequence[Run]) -> TextRun:
    """The config with the fewest bits per byte."""
    found: TextRun = min(runs, key=lambda run: run.final["validation/bits_per_byte"]).config
    return found


def row(kind: str, run: Run, *, searched: bool) -> dict[str, object]:
    """A row of the table."""
    config = run.config
    return {
        "kind": kind, "search": searched, "width": config.width, "one_in": config.one_in,
        "learning_rate": config.learning_rate, "steps": config.steps, "weights": int(run.final["weights"]),
        "table": int(run.final["table"]), "bits_per_byte": run.final["validation/bits_per_byte"],
        "seconds": round(run.seconds), "command": config.command,
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
    search = [run.with_(steps=arguments.search_steps, learning_rate=rate) for run in KINDS.values() for rate in RATES]
    tried = all_trained(search, root=arguments.runs / "search", jobs=arguments.jobs)
    parts = [tried[first : first + len(RATES)] for first in range(0, len(tried), len(RATES))]
    longer = [best_of(part).with_(steps=arguments.steps) for part in parts]
    final = all_trained(longer, root=arguments.runs, jobs=arguments.jobs)
    rows = [row(kind, run, searched=False) for kind, run in zip(KINDS, final, strict=True)]
    rows += [row(kind, run, searched=True) for kind, part in zip(KINDS, parts, strict=True) for run in part]
    table = pd.DataFrame(rows)
    write_atomically(arguments.out / "runs.csv", table.to_csv(index=False).encode())
    print(table.drop(columns="command").to_string(index=False))


if __name__ == "__main__":
    main()
