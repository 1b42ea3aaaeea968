"""Time of one RigL update of a ResNet-50 over reading its weights, masks and gradients once.

The update is timed whole, as in a user's loop: drop, grow, write the masks, zero the dropped weights, their optimizer
state and the gradients off the mask. It takes the place of an optimizer step (``replaces_step``), so the time contains
nothing else; ordinary steps between the updates move the weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

import sparseflow as sf
from benchmarks.resnet50 import resnet50
from benchmarks.result import Benchmark, Case
from benchmarks.timing import alternate, stopwatch


def run(smoke: bool) -> Iterator[Case]:
    for momentum in (0.0, 0.9):
        for sparsity in (0.8,) if smoke else (0.8, 0.9):
            yield _case(sparsity, momentum=momentum, smoke=smoke)


def _case(sparsity: float, *, momentum: float, smoke: bool) -> Case:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 10)) if smoke else resnet50()
    masks = sf.random_masks(model, sparsity, seed=0)
    sf.initialize_(model, masks, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=momentum)
    updater = sf.RigL(drop_fraction=0.3, update_every=1, replaces_step=True, schedule="constant")
    sparsifier = sf.Sparsifier(model, optimizer, masks, updater, seed=0)
    weights = {name: model.get_parameter(name) for name in masks}
    for weight in weights.values():
        weight.grad = torch.empty_like(weight)

    def new_gradients() -> None:
        for weight in weights.values():
            assert weight.grad is not None
            weight.grad.normal_(std=1e-3)

    def ordinary_step() -> None:
        new_gradients()
        optimizer.step()
        new_gradients()

    def update() -> float:
        before = sparsifier.step_count
        seconds = stopwatch(optimizer.step)
        assert sparsifier.step_count == before, "the update did not take the place of the step"
        return seconds

    def read() -> None:
        for name, weight in weights.items():
            assert weight.grad is not None
            weight.detach().sum()
            weight.grad.sum()
            words = sparsifier.masks[name].view(-1)
            words[: words.numel() // 8 * 8].view(torch.int64).sum()

    timings = alternate(
        update, lambda: stopwatch(read), repeats=1 if smoke else 15, warmup=1 if smoke else 2, prepare=ordinary_step
    )
    sparsifier.check()
    configuration = {
        "model": type(model).__name__ if smoke else "ResNet-50",
        "weights": sum(weight.numel() for weight in weights.values()),
        "updater": "RigL, drop fraction 0.3",
        "optimizer": f"SGD, momentum {momentum}",
        "sparsity": sparsity,
        "baseline": "sum of weights, gradients and mask words",
    }
    state = ", with momentum state" if momentum else ""
    return Case(label=f"sparsity {sparsity}{state}", configuration=configuration, timings=timings)


BENCHMARK = Benchmark(
    name="mask_update",
    what="RigL update of 25.5 M weights / reading weights, mask and gradient once",
    reach=5.0,
    run=run,
)
