"""``python -m benchmarks.against COMMIT``: measure this checkout, as it stands, against an earlier commit.

A clone of COMMIT in a temporary folder and this checkout take turns, each in a fresh process and each with its own
``benchmarks``. Only sparseflow's part of a benchmark is compared, in seconds or bytes: the ratio is this checkout over
the clone, for measurements next to each other in time. The file also keeps each one's ratio to the benchmark's own
baseline, which both checkouts share.
The verdict is on the median of the rounds alone: read it beside the quartiles, and beside the noise, which
``python -m benchmarks.against HEAD`` shows in a clean checkout. Five rounds take about 10 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.command import measure
from benchmarks.result import THREADS, Benchmark, Case
from benchmarks.timing import Timings

ROOT = Path(__file__).parent.parent


class Row(NamedTuple):
    """The part of a benchmark that is measured in one round."""

    module: str
    cases: int
    """At most the first ``cases`` of them."""
    repeats: int
    """At most this many of each case."""


ROWS = {
    "mask_update": Row("mask_update", cases=1, repeats=7),
    "masked_step": Row("masked_step", cases=1, repeats=9),
    "vision_memory": Row("vision_memory", cases=1, repeats=1),
    "engine_lenet5_plan": Row("engine_rows", cases=1, repeats=9),
    "import_time": Row("import_time", cases=1, repeats=3),
}


def compared(name: str, before: Path, *, rounds: int, smoke: bool) -> Iterator[Case]:
    """The cases of one benchmark: this checkout is the subject, the clone in ``before`` the baseline."""
    found: dict[Path, list[list[dict[str, Any]]]] = {before: [], ROOT: []}
    for turn in range(rounds):
        for checkout in (before, ROOT) if turn % 2 else (ROOT, before):
            found[checkout].append(_measured(name, checkout, smoke=smoke))
    for old, new in zip(zip(*found[before], strict=True), zip(*found[ROOT], strict=True), strict=True):
        labels = {case["label"] for case in old + new}
        if len(labels) > 1:
            raise RuntimeError(f"{name} measures other cases in the other checkout: {', '.join(sorted(labels))}.")
        yield Case(
            label=f"{name}, {old[0]['label']}",
            configuration={
                "subject": "after",
                "baseline": "before",
                "own_ratios": {"after": [case["ratio"] for case in new], "before": [case["ratio"] for case in old]},
            },
            timings=Timings([case["subject"] for case in new], [case["subject"] for case in old]),
            unit=old[0]["unit"],
        )


def _measured(name: str, checkout: Path, *, smoke: bool) -> list[dict[str, Any]]:
    """Cases measured in a checkout by a fresh process."""
    row = ROWS[name]
    child = [sys.executable, "-P", str(Path(__file__).with_name("against_child.py"))]
    options = [row.module, name, str(row.cases), str(row.repeats), "smoke" if smoke else "full"]
    path = os.pathsep.join([str(checkout), str(checkout / "src")])
    threads = {"OMP_NUM_THREADS": str(THREADS), "NUMBA_NUM_THREADS": str(THREADS)}
    done = subprocess.run(
        [*child, *options],
        cwd=checkout,
        env=os.environ | threads | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    if not Path(answer["package"]).is_relative_to(checkout):
        raise RuntimeError(f"sparseflow of {answer['package']} was measured and not that of {checkout}.")
    return list(answer["cases"])


def _clone(commit: str, folder: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=folder, check=True)


def main() -> None:
    """Clone the commit, measure both checkouts, show a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--only", choices=ROWS, nargs="+", metavar="NAME", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="processes of each checkout; default 5")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing written, no time judged")
    parser.add_argument("--out", type=Path, help="folder for against_COMMIT.json; default none, nothing written")
    given = parser.parse_args()
    resolve = ["git", "rev-parse", "--short", f"{given.commit}^{{commit}}"]
    commit = subprocess.run(resolve, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    def run(smoke: bool) -> Iterator[Case]:
        for name in given.only:
            yield from compared(name, before, rounds=given.rounds, smoke=smoke)

    with TemporaryDirectory() as temporary:
        before = Path(temporary).resolve() / "before"
        _clone(commit, before)
        benchmark = Benchmark(name=f"against_{commit}", what=f"this checkout / {commit}", reach=1.05, run=run)
        options = ["--only", *given.only, "--rounds", str(given.rounds)]
        command = " ".join(["python -m benchmarks.against", commit, *options])
        measure([benchmark], smoke=given.smoke, out=None if given.smoke else given.out, command=command)


if __name__ == "__main__":
    main()
