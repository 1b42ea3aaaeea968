"""Two processes against one on the same global batches: every loss of 200 steps, and masks after each RigL update.

:class:`sparseflow.training.step.Trainer` takes the steps, with one child for each process (gloo, one thread). If no
process adds more than two micro-batches, everything is equal to the last bit. Two processes add four in another order
than one does: that case is reported without being judged, since training amplifies the rounding until masks differ.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.result import Benchmark, Case, Failure
from benchmarks.timing import Timings

#: What losses may differ by, in nats.
TOLERANCE = 1e-5
STEPS, UPDATE_EVERY = 200, 10
SETTINGS: dict[str, Any] = {
    "network": "resnet50", "width": 1 / 8, "image_size": 64, "num_classes": 1000, "method": "rigl", "init": "sparse",
    "sparsity": 0.8, "batch_size": 32, "learning_rate": 0.1,
}  # fmt: skip


def _run(data: Path, smoke: bool) -> Iterator[Case | Failure]:
    for micro_batch in (16, 8):
        yield from _compared(data, micro_batch, smoke=smoke, counts=micro_batch == 16)


def _compared(data: Path, micro_batch: int, *, smoke: bool, counts: bool) -> Iterator[Case | Failure]:
    steps, every = (4, 2) if smoke else (STEPS, UPDATE_EVERY)
    settings = {**SETTINGS, "micro_batch": micro_batch, "steps": steps, "update_every": every, "update_until": steps}
    if smoke:
        settings |= {"width": 1 / 16, "image_size": 32}
    label = f"batch {settings['batch_size']} in parts of {micro_batch}"
    one, two = (_trained(settings, data, processes=processes) for processes in (1, 2))
    differences = [abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True)]
    unequal = [step for step, digest in one["masks"].items() if two["masks"].get(step) != digest]
    if unequal:
        found = f"masks differ after the updates of steps {', '.join(unequal)}"
        yield Failure(label=label, error=found, counts=counts)
    configuration = {
        **settings, "split": "validation", "updates": len(one["masks"]), "masks_equal": not unequal,
        "masks": one["masks"], "losses_one_process": one["losses"], "losses_two_processes": two["losses"],
        "largest_difference": max(differences), "tolerance": TOLERANCE,
    }  # fmt: skip
    timings = Timings([max(differences)], [TOLERANCE])
    yield Case(label=label, configuration=configuration, timings=timings, counts=counts, unit="loss_difference")


def _trained(settings: dict[str, Any], data: Path, *, processes: int) -> dict[str, Any]:
    """Losses of all steps, and step of each update -> digest of the masks after it, both from rank 0."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        worker = ["-m", "benchmarks.vision_ranks", str(data.absolute()), str(out), json.dumps(settings)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, *worker]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, env=environment, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{processes} processes: {done.stderr}")
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def _child(data: str, out: str, settings: str) -> None:
    import torch

    from sparseflow.data import open_images
    from sparseflow.sharded import fingerprint
    from sparseflow.training.images import ImageRun
    from sparseflow.training.ranks import ranks_of_torchrun
    from sparseflow.training.setup import set_up
    from sparseflow.training.streams import preparation, training_batches

    torch.set_num_threads(1)
    run = ImageRun.from_dict(json.loads(settings))
    with ranks_of_torchrun() as ranks:
        trainer = set_up(run, ranks)
        sparsifier = trainer.sparsifier
        masks: dict[int, dict[str, str]] = {}
        sparsifier.after_update.append(
            lambda step, changes: masks.__setitem__(step, {n: fingerprint(m) for n, m in sparsifier.masks.items()})
        )
        prepare = preparation(run, ranks.device)
        batches = training_batches(open_images(data, "validation"), run, ranks)
        losses = []
        for step in range(run.steps):
            local = [prepare(next(batches)) for _ in range(run.micro_batches // ranks.world)]
            losses.append(trainer.step(step, local))
        sparsifier.check()
        if ranks.is_first:
            Path(out).write_text(json.dumps({"losses": losses, "masks": masks}))


def benchmark(data: Path) -> Benchmark:
    """The benchmark of two processes, on the images in a folder."""
    return Benchmark(
        name="vision_ranks",
        what=f"{STEPS} losses with RigL, 2 gloo processes and 1, equal masks: largest difference / {TOLERANCE:g}",
        reach=1.0,
        run=partial(_run, data),
    )


if __name__ == "__main__":
    _child(*sys.argv[1:])
