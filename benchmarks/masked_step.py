"""Time of a training step of a masked ResNet-50 over the same step of a dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

import sparseflow as sf
from benchmarks.resnet50 import resnet50
from benchmarks.result import Benchmark, Case
from benchmarks.timing import alternate, stopwatch

SPARSITIES = (0.8, 0.9, 0.95)


def run(smoke: bool) -> Iterator[Case]:
    batch, size, repeats = (2, 32, 1) if smoke else (8, 64, 61)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, size, size, generator=generator)
    y = torch.randint(0, 1000, (batch,), generator=generator)
    dense, _ = _stepper(x, y)
    for sparsity in SPARSITIES[:1] if smoke else SPARSITIES:
        masked, sparsifier = _stepper(x, y, sparsity=sparsity)
        timings = alternate(
            lambda step=masked: stopwatch(step),  # type: ignore[misc]
            lambda: stopwatch(dense),
            repeats=repeats,
            warmup=0 if smoke else 3,
            tolerance=0.01,
        )
        assert sparsifier is not None
        sparsifier.check()
        configuration = {
            "model": "ResNet-50",
            "batch": batch,
            "pixels": size,
            "optimizer": "SGD, momentum 0.9",
            "updater": "Static",
            "allocation": "uniform",
            "sparsity": sparsity,
        }
        yield Case(label=f"sparsity {sparsity}", configuration=configuration, timings=timings)


def _stepper(
    x: torch.Tensor, y: torch.Tensor, *, sparsity: float | None = None
) -> tuple[Callable[[], None], sf.Sparsifier | None]:
    torch.manual_seed(0)
    model = resnet50()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    sparsifier = None
    if sparsity is not None:
        masks = sf.random_masks(model, sparsity, seed=0)
        sf.initialize_(model, masks, seed=0)
        sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step, sparsifier


BENCHMARK = Benchmark(
    name="masked_step",
    what="step time masked / dense: ResNet-50, batch 8, 64x64, SGD momentum, static masks",
    reach=1.03,
    run=run,
)
