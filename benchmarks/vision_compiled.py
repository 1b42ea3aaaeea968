"""Time of a whole training step of a compiled ResNet-50 in bfloat16, masked over dense.

Forward and backward are one graph of torch.compile; masks are applied in the optimizer's hooks, so the graph never sees
them and an update recompiles nothing. The dense step is taken by the same trainer without its Sparsifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from benchmarks.result import THREADS, Benchmark, Case, Failure
from benchmarks.timing import alternate, stopwatch
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.setup import set_up
from sparseflow.training.step import Trainer

UPDATE_EVERY = 1000


def _run(smoke: bool) -> Iterator[Case | Failure]:
    batch, size, repeats = (2, 32, 2) if smoke else (8, 128, 31)
    run = ImageRun(
        network="resnet14" if smoke else "resnet50", width=1 / 8 if smoke else 1.0, sparsity=0.8, image_size=size,
        steps=10 * UPDATE_EVERY, update_every=UPDATE_EVERY, update_until=9 * UPDATE_EVERY, learning_rate=1e-3,
        batch_size=batch, micro_batch=batch, precision="bfloat16", channels_last=True, compiled=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, run.num_classes, (batch,), generator=generator)
    torch._dynamo.reset()
    counters.clear()
    masked, dense = set_up(run, Ranks()), set_up(run.with_(method="dense"), Ranks())
    dense.sparsifier.remove()

    def step(trainer: Trainer) -> Callable[[], float]:
        return lambda: stopwatch(lambda: trainer.step(1, [(images, labels)]))

    step(masked)()
    breaks = sum(counters["graph_break"].values())
    found: dict[str, Any] = {"graphs": counters["stats"]["unique_graphs"], "breaks": breaks}
    ordinary = alternate(step(masked), step(dense), repeats=repeats, warmup=1 if smoke else 3, tolerance=0.01)
    before = counters["stats"]["unique_graphs"]

    def due() -> None:
        masked.sparsifier.step_count = UPDATE_EVERY - 1

    updating = alternate(step(masked), step(dense), repeats=2 if smoke else 7, warmup=0, tolerance=0.1, prepare=due)
    step(masked)()
    masked.sparsifier.check()
    found["graphs_after_updates"] = counters["stats"]["unique_graphs"] - before
    label = f"{run.network}, batch {batch}, {size}x{size}"
    if found["graphs"] != 1 or breaks or found["graphs_after_updates"]:
        yield Failure(label=label, error=f"not one graph for all steps: {found}", counts=True)
    configuration = {
        "model": run.network, "width": run.width, "batch": batch, "pixels": size, "sparsity": run.sparsity,
        "precision": "bfloat16 (autocast)", "memory_format": "channels last", "threads": THREADS,
        "optimizer": "SGD, Nesterov momentum 0.9, weight decay 1e-4", "updater": "RigL, drop fraction 0.3", **found,
    }  # fmt: skip
    yield Case(label=label, configuration=configuration, timings=ordinary)
    yield Case(label="a step with a mask update", configuration=configuration, timings=updating, counts=False)


def benchmark(data: Path) -> Benchmark:
    """The benchmark of a compiled step; it needs no images."""
    del data
    return Benchmark(
        name="vision_compiled",
        what="step time masked / dense: ResNet-50, bfloat16, compiled, one graph, none anew after a mask update",
        reach=1.03,
        run=_run,
    )
