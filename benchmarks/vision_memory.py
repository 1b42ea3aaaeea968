"""Memory that masks and RigL's updates take beyond dense training, over a byte a weight and one layer's scores.

A child process with two threads trains as :func:`sparseflow.training.setup.set_up` sets it up: Nesterov SGD,
masks compared after each update. Its allocator returns every large block at once, so that the peak of its resident
memory, reset before an update, shows what the update holds. Gradients are drawn at random, not computed.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.engine_memory import resident
from benchmarks.result import THREADS, Benchmark, Case, Failure
from benchmarks.timing import alternate

SPARSITY = 0.8
#: Network, and whether its kernels are channels last.
NETWORKS = (("resnet50", False), ("resnet50", True), ("vgg16", False))


def _run(smoke: bool) -> Iterator[Case | Failure]:
    if not Path("/proc/self/clear_refs").exists():
        yield Failure(label="peak memory", error="the high-water mark of memory can be reset on Linux only")
        return
    for network, channels_last in NETWORKS:
        found: dict[str, Any] = {}

        def held() -> float:
            found.update(_measured(network, channels_last, width=0.25 if smoke else 1.0))  # noqa: B023
            return float(found["held"] + found["update"])  # noqa: B023

        def allowed() -> float:
            return float(found["weights"] + 4 * found["largest_layer"])  # noqa: B023

        # The first turn is the subject's: it says how many weights there are.
        timings = alternate(held, allowed, repeats=1 if smoke else 3, warmup=0)
        configuration = {
            "model": network, "channels_last": channels_last, "sparsity": SPARSITY, "threads": THREADS, **found,
            "held_per_weight": found["held"] / found["weights"],
            "update_per_weight": found["update"] / found["weights"],
            "update_per_weight_of_the_largest_layer": found["update"] / found["largest_layer"],
            "optimizer": "SGD, Nesterov momentum 0.9, weight decay 1e-4", "updater": "RigL, drop fraction 0.3",
            "measure": "resident memory, and its high-water mark from the update's start to the step's end",
        }  # fmt: skip
        label = f"{network}{', channels last' * channels_last}"
        yield Case(label=label, configuration=configuration, timings=timings, unit="bytes")


def _measured(network: str, channels_last: bool, *, width: float) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.vision_memory", network, str(int(channels_last)), str(width)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "MALLOC_MMAP_THRESHOLD_": "65536"}
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, env=environment)
    return {name: int(value) for name, value in json.loads(done.stdout).items()}


def _child(network: str, channels_last: bool, width: float) -> None:
    import torch

    from sparseflow.sparsifier.sparsifier import Sparsifier
    from sparseflow.training.images import ImageRun
    from sparseflow.training.ranks import Ranks
    from sparseflow.training.setup import set_up

    torch.set_num_threads(THREADS)
    run = ImageRun(
        network=network, sparsity=SPARSITY, channels_last=channels_last, width=width, batch_size=1, micro_batch=1,
        update_every=2, update_until=100,
    )  # fmt: skip

    def train(run: ImageRun) -> dict[str, int]:
        trainer = set_up(run, Ranks())
        model, optimizer = trainer.model, trainer.optimizer
        trainer.sparsifier.remove()
        arguments = model, optimizer, dict(trainer.sparsifier.masks), run.updater()
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter).normal_(generator=generator)
            optimizer.step()

        step()
        gc.collect()
        before = resident("VmRSS")
        sparsifier = Sparsifier(*arguments, seed=0)
        sparsifier.after_update.append(lambda count, changes: None)
        step()  # until a step is made it keeps what it cut, since a state may yet be loaded
        held = resident("VmRSS") - before
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.normal_(generator=generator)
        before = resident("VmRSS")
        peaks: list[int] = []
        sparsifier.before_update.append(lambda count: _reset_peak())
        sparsifier.after_update.append(lambda count, changes: peaks.append(resident("VmHWM")))
        optimizer.step()
        (peak,) = peaks
        sparsifier.check()
        sizes = [mask.numel() for mask in sparsifier.masks.values()]
        return {"held": held, "update": peak - before, "weights": sum(sizes), "largest_layer": max(sizes)}

    train(run.with_(width=max(1 / 8, width / 4)))  # everything is loaded and compiled
    print(json.dumps(train(run)))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def benchmark(data: Path) -> Benchmark:
    """The benchmark of memory; it needs no images."""
    del data
    return Benchmark(
        name="vision_memory",
        what="memory beyond dense, ResNet-50 and VGG16 80% sparse, RigL / (1 byte a weight + one layer's scores)",
        reach=1.0,
        run=_run,
    )


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2] == "1", float(sys.argv[3]))
