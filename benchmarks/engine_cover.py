"""A nearly dense layer computed by its cover, against the same layer on the kernels of single weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.engine_timing import torch_threads
from benchmarks.result import Benchmark, Case
from benchmarks.timing import Step, Timings, take_turns
from sparseflow.engine.layers import products
from sparseflow.engine.layers.modules import SparseLayer


class Shape(NamedTuple):
    """A layer and its input, and the densities at which it has a cover."""

    label: str
    layer: nn.Module
    x: Tensor
    densities: tuple[float, ...]


def shapes(*, smoke: bool) -> Iterator[Shape]:
    """Linear layers for three batches, of which 100 is a multiple of no tile, and a convolution."""
    size, pixels, channels = (32, 4, 8) if smoke else (1024, 16, 64)
    for batch, densities in ((64, (0.5, 0.6, 0.7, 0.8, 0.9)), (100, (0.5, 0.7, 0.9)), (256, (0.8, 0.9))):
        yield Shape(f"linear {size}x{size}, batch {batch}", nn.Linear(size, size), torch.randn(batch, size), densities)
    convolution, x = nn.Conv2d(channels, channels, 3, padding=1), torch.randn(32, channels, pixels, pixels)
    yield Shape(f"convolution 3x3, {channels}->{channels} on {pixels}x{pixels}, batch 32", convolution, x, (0.8, 0.9))


def _run(smoke: bool) -> Iterator[Case]:
    torch.manual_seed(0)
    with torch_threads(1):
        for label, layer, x, densities in shapes(smoke=smoke):
            for density in densities:
                masks = sf.random_masks(layer, 1 - density, seed=0)
                covered, single = (sf.engine.convert(layer, masks) for _ in range(2))
                assert isinstance(single, SparseLayer)
                x.requires_grad_()
                gradient = torch.randn_like(layer(x))
                with mock.patch.object(products, "cover_if_faster", return_value=None):
                    step(single, x, gradient)()  # makes its product, and keeps it
                seconds = take_turns(
                    {"cover": step(covered, x, gradient), "single": step(single, x, gradient)}, smoke=smoke
                )
                yield Case(
                    label=f"{label}, density {density:.0%}",
                    configuration={"row": label, "density": density, "threads": 1, "rival": "single weights"},
                    timings=Timings(seconds["cover"], seconds["single"]),
                    reach=1.0,
                )


def step(layer: nn.Module, x: Tensor, gradient: Tensor) -> Step:
    """Forward and backward, up to the gradients of input and parameters."""
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), wanted, gradient)


BENCHMARKS = (
    Benchmark(
        name="engine_cover",
        what="a nearly dense layer on blocks that hold its weights, over single weights, forward + backward",
        reach=None,
        run=_run,
        speedup=True,
    ),
)
