"""Time of a masked training step under AdamW over the same step of a dense model: ResNet-50 and transformer blocks.

The judged cases are a Sparsifier on AdamW as torch makes it by default. Beside them: the same with torch's own roots,
which are slow at zeros (:mod:`sparseflow.sparsifier.roots`), with ``fused=True``, and those roots alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.engine_problems import Block
from benchmarks.resnet50 import resnet50
from benchmarks.result import Benchmark, Case
from benchmarks.timing import alternate, stopwatch
from sparseflow.sparsifier import roots

SPARSITY = 0.9
#: Label -> options of AdamW, whether its roots are quick, and whether the case is judged.
WAYS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "": ({}, True, True),
    ", torch's own roots": ({}, False, False),
    ", fused=True": ({"fused": True}, True, False),
}


@dataclass(frozen=True)
class Network:
    """A network and one batch."""

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module], Tensor]
    configuration: dict[str, Any]


def networks(smoke: bool) -> dict[str, Network]:
    """ResNet-50 at the size of ``masked_step``, and six blocks of width 512."""
    generator = torch.Generator().manual_seed(0)
    images, pixels = (2, 32) if smoke else (8, 64)
    x = torch.randn(images, 3, pixels, pixels, generator=generator)
    y = torch.randint(0, 1000, (images,), generator=generator)
    blocks, width, hidden, heads, sequences, tokens = (2, 16, 32, 2, 2, 4) if smoke else (6, 512, 2048, 8, 4, 128)
    z, wanted = torch.randn(2, sequences, tokens, width, generator=generator)
    return {
        "ResNet-50": Network(
            build=resnet50,
            loss=lambda model: nn.functional.cross_entropy(model(x), y),
            configuration={"batch": images, "pixels": pixels},
        ),
        "transformer": Network(
            build=lambda: nn.Sequential(*(Block(width, hidden, heads) for _ in range(blocks))),
            loss=lambda model: nn.functional.mse_loss(model(z), wanted),
            configuration={"blocks": blocks, "width": width, "hidden": hidden, "batch": sequences, "tokens": tokens},
        ),
    }


def run(smoke: bool) -> Iterator[Case]:
    repeats = 1 if smoke else 11
    for label, network in networks(smoke).items():
        for way, (options, quick, counts) in WAYS.items():
            masked, dense = (_step(network, options, masked=masked) for masked in (True, False))
            # Without quick roots: no tensor is large enough for them.
            switched = nullcontext() if quick else mock.patch.object(roots, "SMALLEST", sys.maxsize)
            with switched:
                timings = alternate(
                    partial(stopwatch, masked),
                    partial(stopwatch, dense),
                    repeats=repeats,
                    warmup=0 if smoke else 2,
                    tolerance=0.02,
                )
            configuration = {
                "model": label, "sparsity": SPARSITY, "optimizer": f"AdamW {options}", "quick_roots": quick,
                **network.configuration,
            }  # fmt: skip
            yield Case(label=f"{label}{way}", configuration=configuration, timings=timings, counts=counts)
    yield _roots(smoke)


def _step(network: Network, options: dict[str, Any], *, masked: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = network.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **options)
    if masked:
        masks = sf.random_masks(model, SPARSITY, seed=0)
        sf.initialize_(model, masks, seed=0)
        sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)

    def step() -> None:
        optimizer.zero_grad()
        network.loss(model).backward()
        optimizer.step()

    return step


def _roots(smoke: bool) -> Case:
    size = 1 << 10 if smoke else 1 << 20
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(size, generator=generator)
    mostly_zero = squares * (torch.rand(size, generator=generator) >= SPARSITY)
    timings = alternate(
        lambda: stopwatch(mostly_zero.sqrt), lambda: stopwatch(squares.sqrt), repeats=1 if smoke else 101
    )
    configuration = {"entries": size, "zeros": SPARSITY}
    return Case(label="torch.sqrt, 90% zeros / none", configuration=configuration, timings=timings, counts=False)


BENCHMARK = Benchmark(
    name="masked_adamw",
    what="step time masked / dense under AdamW, 90% sparse: ResNet-50, six transformer blocks (d 512, 512 tokens)",
    reach=1.05,
    run=run,
)
