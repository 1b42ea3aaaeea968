"""The user-level MLP at 95 % in this checkout against the library at 6984ab7, in fresh processes that take turns.

Both processes run this file, each with the library of its own checkout, through nothing but the public API. The earlier
library has no blocks: theirs are compared with its unstructured layers.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contest import BLOCKS, UNSTRUCTURED
from benchmarks.result import Benchmark, Case
from benchmarks.timing import Timings

ROOT = Path(__file__).parent.parent
COMMIT = "6984ab7"
#: The earlier checkout, kept so that its kernels are compiled once.
BEFORE = Path(__file__).parent / f".before-{COMMIT}"
SPARSITY, ROUNDS = 0.95, 5


def _run(smoke: bool) -> Iterator[Case]:
    before = ROOT if smoke else _checkout()
    if not smoke:  # compile the kernels of both
        _measured(before, [UNSTRUCTURED], smoke=True)
        _measured(ROOT, [UNSTRUCTURED, BLOCKS], smoke=True)
    old, new = [], []
    for turn in range(1 if smoke else ROUNDS):
        for is_new in (False, True) if turn % 2 else (True, False):
            if is_new:
                new.append(_measured(ROOT, [UNSTRUCTURED, BLOCKS], smoke=smoke))
            else:
                old.append(_measured(before, [UNSTRUCTURED], smoke=smoke))
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


def _checkout() -> Path:
    """The earlier commit in a folder beside this file; made once.

    Raises:
        subprocess.CalledProcessError: if the history is not there, as in a shallow clone.
    """
    if not (BEFORE / "src").exists():
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(BEFORE)], check=True)
        subprocess.run(["git", "checkout", "--quiet", "--detach", COMMIT], cwd=BEFORE, check=True)
    return BEFORE.resolve()


def _measured(checkout: Path, patterns: list[str], *, smoke: bool) -> dict[str, float]:
    """Seconds of a step for each pattern, by the library of a checkout in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", __file__, "smoke" if smoke else "full", *patterns],
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(checkout / "src"), str(ROOT)]),
        },
        cwd=checkout, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    if not Path(answer["package"]).is_relative_to(checkout):
        raise RuntimeError(f"sparseflow of {answer['package']} was measured and not that of {checkout}.")
    return dict(answer["seconds"])


def _child(patterns: list[str], *, smoke: bool) -> None:
    import torch

    import sparseflow as sf
    from benchmarks.contest import Entry, masks_of, sparse
    from benchmarks.engine_problems import user_mlp
    from benchmarks.timing import take_turns

    torch.set_num_threads(1)
    problem, steps = user_mlp(smoke), {}
    for pattern in patterns:
        model = copy.deepcopy(problem.model)
        steps[pattern] = sparse(problem, model, masks_of(model, Entry(pattern, SPARSITY, {})))
    seconds = take_turns(steps, smoke=smoke, least=15, most=15)
    medians = {pattern: statistics.median(times) for pattern, times in seconds.items()}
    print(json.dumps({"package": sf.__file__, "seconds": medians}))


BENCHMARKS = (
    Benchmark(
        name="engine_before",
        what=f"the same MLP, forward + backward, against this library at {COMMIT}, alternating processes",
        reach=None,
        run=_run,
        speedup=True,
    ),
)


if __name__ == "__main__":
    _child(sys.argv[2:], smoke=sys.argv[1] == "smoke")
