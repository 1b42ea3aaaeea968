"""``python -m benchmarks.smoke --data SAMPLE``: compare every method, start and network on one and two processes.

Each trains for a few steps on real ImageNet images; ``results/smoke/`` gets the losses of both and the largest
difference. Losses and gradient norms must be equal to the last bit: every process has one thread, and none adds more
than two micro-batches. The test loss may differ: it is a sum that two processes add in another order.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from sparseflow.atomic import write_atomically
from sparseflow.paper.matrix.scales import SMOKE
from sparseflow.sealed import SUMS, sums
from sparseflow.training.ranks import ranks_of_torchrun
from sparseflow.training.run import train
from sparseflow.training.runs import load_run

KEPT = Path(__file__).parent.parent / "results" / "smoke"
#: Equal to the last bit for any number of processes.
EXACT = ("train/loss", "gradient/training", "flow/norm", "update/before", "update/after")


def train_all(data: Path, root: Path) -> None:
    """Train every run; each process calls this."""
    with ranks_of_torchrun() as ranks:
        for name, runs in SMOKE.groups.items():
            for run in runs:
                train(run, root=root, data_root=data, ranks=ranks)
            if ranks.is_first:
                print(name, flush=True)


def compared(root: Path) -> pd.DataFrame:
    """One row per run: final loss on one process, and the largest differences from two."""
    rows = []
    for name, (run,) in SMOKE.groups.items():
        one, two = (load_run(root / str(processes) / run.name) for processes in (1, 2))
        if one.metrics[["step", "name"]].values.tolist() != two.metrics[["step", "name"]].values.tolist():
            raise RuntimeError(f"{name}: two processes logged other things than one.")
        difference = (one.metrics["value"] - two.metrics["value"]).abs()
        exact = one.metrics["name"].isin(EXACT)
        losses = one.metrics[one.metrics["name"] == "train/loss"]["value"]
        rows.append(
            {
                "group": name,
                "first_loss": losses.iloc[0],
                "last_loss": losses.iloc[-1],
                "test_loss": one.final["test/loss"],
                "sparsity": one.final["sparsity"],
                "largest_difference": float(difference[exact].max()),
                "difference_of_test_loss": abs(one.final["test/loss"] - two.final["test/loss"]),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Train on one process and on two, compare the runs, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the ImageNet sample")
    parser.add_argument("--root", type=Path, help="folder of runs; default a temporary one")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        train_all(given.data, given.root)
        return
    with TemporaryDirectory() as temporary:
        root = given.root or Path(temporary)
        for processes in (1, 2):
            launch = [
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
                "-m",
                "benchmarks.smoke",
            ]
            command = [*launch, "--worker", "--data", str(given.data), "--root", str(root / str(processes))]
            # torchrun leaves one process all threads, and two one each: sums over threads are other sums.
            subprocess.run([sys.executable, "-m", *command], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        table = compared(root)
    KEPT.mkdir(parents=True, exist_ok=True)
    data = table.to_csv(index=False, float_format="%.9g").encode()
    write_atomically(KEPT / "runs.csv", data)
    write_atomically(KEPT / SUMS, sums({"runs.csv": data}))
    largest = table["largest_difference"].max()
    print(f"{len(table)} runs on 1 and on 2 processes; largest difference {largest:.3g}")
    if largest > 0:
        sys.exit("losses or gradient norms of one process and of two are not the same.")


if __name__ == "__main__":
    main()
