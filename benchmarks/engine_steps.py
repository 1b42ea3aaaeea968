"""A whole training step, loss and optimizer included, of the paper's networks: sparse over dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.engine_timing import Step, compare
from benchmarks.result import Benchmark, Case, Failure
from sparseflow.engine.plans.plan import plan
from sparseflow.networks import build_network

BATCH = 128
LR, MOMENTUM = 0.01, 0.9


def stepper(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """A function that takes one step with autograd and torch's own optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def planned(model: nn.Module, masks: dict[str, Tensor], x: Tensor, y: Tensor) -> Step:
    """A function that takes the same step with a plan."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    fast = plan(model, masks, optimizer)
    return lambda: fast.step(x, y)


def through_modules(model: nn.Module, masks: dict[str, Tensor], x: Tensor, y: Tensor) -> Step:
    """A function that takes the same step with the engine's layers, autograd and torch's own optimizer."""
    return stepper(sf.engine.convert(model, masks), x, y)


def _run(network: str, sparsity: float, make: Callable[..., Step], smoke: bool) -> Iterator[Case | Failure]:
    batch = 8 if smoke else BATCH
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (batch,), generator=generator)

    def model() -> nn.Sequential:
        return build_network(network, generator=torch.Generator().manual_seed(0))

    masks = sf.random_masks(model(), sparsity, seed=0)
    sparse = model()
    sf.apply_masks_(sparse, masks)
    last = x.contiguous(memory_format=torch.channels_last)
    baselines = {"contiguous": stepper(model(), x, y)}
    if network == "lenet5":
        channels_last = model().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        baselines["channels_last"] = stepper(channels_last, last, y)
    configuration = {
        "model": network, "sparsity": sparsity, "allocation": "uniform", "batch": batch,
        "optimizer": f"SGD, momentum {MOMENTUM}", "nonzeros": sum(int(mask.sum()) for mask in masks.values()),
    }  # fmt: skip
    yield from compare(f"batch {batch}", make(sparse, masks, x, y), baselines, configuration, smoke=smoke)


BENCHMARKS = tuple(
    Benchmark(
        name=f"engine_{network}_{way}",
        what=f"training step with optimizer, {called} {sparsity:.0%} sparse, batch {BATCH}: {way}",
        reach=1 / reach,
        run=partial(_run, network, sparsity, make),
        speedup=True,
    )
    for network, called, sparsity, way, make, reach in (
        ("lenet5", "LeNet5", 0.95, "plan", planned, 10),
        ("lenet5", "LeNet5", 0.95, "modules", through_modules, 5),
        ("mlp", "MLP 300-100", 0.98, "plan", planned, 10),
        ("mlp", "MLP 300-100", 0.98, "modules", through_modules, 4),
    )
)
