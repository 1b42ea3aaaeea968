"""Time of sparsity-aware initialisation over ``torch.nn.init.kaiming_normal_`` on the same tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

import sparseflow as sf
from benchmarks.resnet50 import resnet50
from benchmarks.result import Benchmark, Case
from benchmarks.timing import alternate, stopwatch


def run(smoke: bool) -> Iterator[Case]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(30, 10)) if smoke else resnet50()
    masks = sf.random_masks(model, 0.9, seed=0)
    weights = [model.get_parameter(name) for name in masks]

    def dense() -> None:
        torch.manual_seed(0)
        for weight in weights:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")

    for scheme in ("sparse", "liu", "dense"):
        timings = alternate(
            lambda scheme=scheme: stopwatch(lambda: sf.initialize_(model, masks, scheme=scheme, seed=0)),  # type: ignore[misc]
            lambda: stopwatch(dense),
            repeats=1 if smoke else 11,
        )
        configuration = {
            "model": type(model).__name__ if smoke else "ResNet-50",
            "sparsity": 0.9,
            "scheme": scheme,
            "base": "kaiming_normal",
            "weights": sum(weight.numel() for weight in weights),
        }
        yield Case(label=f"scheme {scheme!r}", configuration=configuration, timings=timings)


BENCHMARK = Benchmark(
    name="initialise",
    what="initialise ResNet-50 at 90 % / torch.nn.init dense on the same tensors",
    reach=1.5,
    run=run,
)
