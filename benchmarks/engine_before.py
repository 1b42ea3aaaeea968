"""The user-level MLP at 95 % in this checkout against the library at 6984ab7, in fresh processes that take turns.

The earlier library has no blocks: ours are compared with its unstructured layers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contest import BLOCK, BLOCKS, UNSTRUCTURED
from benchmarks.result import Benchmark, Case
from benchmarks.timing import Timings

ROOT = Path(__file__).parent.parent
COMMIT = "6984ab7"
#: The earlier checkout, kept so that its kernels are compiled once.
BEFORE = Path(__file__).parent / f".before-{COMMIT}"
SPARSITY, ROUNDS = 0.95, 5
#: Pattern -> options of ``random_masks``.
OURS: dict[str, dict[str, Any]] = {UNSTRUCTURED: {}, BLOCKS: {"block": BLOCK}}
THEIRS: dict[str, dict[str, Any]] = {UNSTRUCTURED: {}}


def _run(smoke: bool) -> Iterator[Case]:
    before = ROOT if smoke else checkout()
    if not smoke:  # compile the kernels of both
        measured(before, THEIRS, smoke=True)
        measured(ROOT, OURS, smoke=True)
    old, new = [], []
    for turn in range(1 if smoke else ROUNDS):
        for is_new in (False, True) if turn % 2 else (True, False):
            if is_new:
                new.append(measured(ROOT, OURS, smoke=smoke))
            else:
                old.append(measured(before, THEIRS, smoke=smoke))
    for pattern, reach in ((UNSTRUCTURED, 2), (BLOCKS, 3)):
        yield Case(
            label=f"{pattern} {SPARSITY:.0%}",
            configuration={
                "row": "batch 128", "pattern": pattern, "sparsity": SPARSITY, "threads": 1, "rival": COMMIT,
                "rounds": len(old),
            },
            timings=Timings([found[pattern] for found in new], [found[UNSTRUCTURED] for found in old]),
            reach=1 / reach,
        )  # fmt: skip


def checkout() -> Path:
    """The earlier commit in a folder beside this file; made once.

    Raises:
        subprocess.CalledProcessError: if the history is not there, as in a shallow clone.
    """
    if not (BEFORE / "src").exists():
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(BEFORE)], check=True)
        subprocess.run(["git", "checkout", "--quiet", "--detach", COMMIT], cwd=BEFORE, check=True)
    return BEFORE.resolve()


def measured(folder: Path, patterns: dict[str, dict[str, Any]], *, smoke: bool) -> dict[str, float]:
    """Seconds of a step for each pattern, by the library of a checkout in a fresh process."""
    asked = {"patterns": patterns, "size": 32 if smoke else 1024, "sparsity": SPARSITY, "smoke": smoke}
    child = Path(__file__).with_name("engine_before_child.py")
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", str(child), json.dumps(asked)],
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(ROOT)]),
        },
        cwd=folder, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    if not Path(answer["package"]).is_relative_to(folder):
        raise RuntimeError(f"sparseflow of {answer['package']} was measured and not that of {folder}.")
    return dict(answer["seconds"])


BENCHMARKS = (
    Benchmark(
        name="engine_before",
        what=f"the same MLP, forward + backward, against this library at {COMMIT}, alternating processes",
        reach=None,
        run=_run,
        speedup=True,
    ),
)
