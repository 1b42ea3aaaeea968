"""Peak memory of training a network of 40 M weights with SGD momentum, sparse over dense, each in a fresh process.

A child process imports everything, takes one step of a tiny network of the same kind (which loads all libraries and
kernels), resets the operating system's peak of its resident memory, and only then builds its network and takes three
steps. So building counts too: the sparse network is built layer by layer from patterns, without any dense weight.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.engine_timing import THREAD_COUNTS, on_threads
from benchmarks.result import Benchmark, Case, Failure
from benchmarks.timing import alternate

SPARSITY = 0.95
WIDTH, LAYERS, BATCH = 2000, 10, 128
_STEPS = 3


def _run(smoke: bool) -> Iterator[Case | Failure]:
    width, layers = (500, 4) if smoke else (WIDTH, LAYERS)
    if not Path("/proc/self/clear_refs").exists():
        yield Failure(label="peak memory", error="the high-water mark of memory can be reset on Linux only")
        return
    for threads in (1,) if smoke else THREAD_COUNTS:
        timings = alternate(
            lambda: _peak("sparse", width, layers, threads),  # noqa: B023
            lambda: _peak("dense", width, layers, threads),  # noqa: B023
            repeats=1 if smoke else 3,
            warmup=0,
            tolerance=0.05,
        )
        configuration = {
            "row": "40 M weights", "threads": threads, "layers": layers, "width": width, "weights": layers * width**2,
            "sparsity": SPARSITY, "batch": BATCH, "optimizer": "SGD, momentum 0.9", "steps": _STEPS,
            "measure": "VmHWM, reset before the network is built, less resident memory then",
        }  # fmt: skip
        label = f"40 M weights, {on_threads(threads)}"
        yield Case(label=label, configuration=configuration, timings=timings, unit="bytes")


def _peak(form: str, width: int, layers: int, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.engine_memory", form, str(width), str(layers), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return float(json.loads(done.stdout)["bytes"])


def _child(form: str, width: int, layers: int, threads: int) -> None:
    import torch
    from torch import Tensor, nn

    import sparseflow as sf
    from sparseflow.engine.layers.geometry import Window

    def layer(size: int, generator: torch.Generator) -> nn.Module:
        if form == "dense":
            return nn.Linear(size, size)
        active = round(size * size * (1 - SPARSITY))
        # Drawn twice as often as needed, for the repetitions.
        drawn = torch.randint(size * size, (2 * active,), generator=generator).unique()
        chosen = drawn[torch.randperm(len(drawn), generator=generator)[:active]].sort().values
        pattern = sf.engine.Pattern.at(chosen, (size, size))
        values = torch.randn(active, generator=generator) * (2 / (size * (1 - SPARSITY))) ** 0.5
        return sf.engine.SparseLinear(pattern, values, torch.zeros(size), Window())

    def train(size: int, depth: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        chain = [module for _ in range(depth) for module in (layer(size, generator), nn.ReLU())]
        model = nn.Sequential(*chain[:-1])
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        x: Tensor = torch.randn(BATCH, size, generator=generator)
        y = torch.randint(0, size, (BATCH,), generator=generator)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    torch.set_num_threads(threads)
    train(64, 2, 2)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    train(width, layers, _STEPS)
    print(json.dumps({"bytes": resident("VmHWM") - before}))


def resident(field: str) -> int:
    """Bytes in a field of this process's status: ``VmRSS`` now, or the peak ``VmHWM`` since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}.")


BENCHMARKS = (
    Benchmark(
        name="engine_memory",
        what="peak memory of a training step, 40 M weights at 95%, SGD momentum, sparse / dense",
        reach=0.2,
        run=_run,
    ),
)


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
