"""Time of a training step of a wide decoder in each phase of its annealing: with masks, and with active weights alone.

A phase's subject is what :mod:`sparseflow.training.text_step` does there; its baseline the same step on dense weights
with zeros, held by a Sparsifier. Beside each stands how long attention, GELU, norms and sums take, which stay dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.engine_timing import torch_threads
from benchmarks.result import Benchmark, Case
from benchmarks.timing import Timings, take_turns
from sparseflow.data.text import BYTES
from sparseflow.training.text import TextRun
from sparseflow.training.text_step import TextTraining

#: One entry in so many is active -> how many times faster the sparse step is to be; None is reported beside.
REACHES: dict[int, float | None] = {10: None, 100: 5.0, 1000: 8.0}
WIDE = TextRun(width=1024, depth=1, heads=16, context=128, batch_size=4)
SMALL = TextRun(width=16, depth=1, heads=2, context=8, batch_size=2)


def _run(smoke: bool) -> Iterator[Case]:
    with torch_threads(1):
        for one_in, reach in REACHES.items():
            yield from phase(replace(SMALL if smoke else WIDE, one_in=one_in), reach, smoke=smoke)


def phase(run: TextRun, reach: float | None, *, smoke: bool) -> Iterator[Case]:
    """The annealing that ends at a share, and the phase after it, against dense weights with zeros."""
    going, masked, stored = annealing(run), settled(run, "masked"), settled(run, "sparse")
    steps = {"stored": stored, "masked": masked, "annealed": going, "dense parts": dense_parts(run)}
    found = take_turns(steps, smoke=smoke, least=6, most=9, seconds=3.0)
    shared = {
        "one_in": run.one_in, "width": run.width, "depth": run.depth, "heads": run.heads, "context": run.context,
        "batch": run.batch_size, "threads": 1, "optimizer": "AdamW",
    }  # fmt: skip
    for subject, counts in (("stored", reach is not None), ("annealed", False), ("dense parts", False)):
        yield Case(
            label=f"1 in {run.one_in}: {LABELS[subject]}",
            configuration=shared | {"row": subject},
            timings=Timings(found[subject], found["masked" if subject != "dense parts" else "stored"]),
            counts=counts,
            reach=1 / reach if reach is not None and counts else None,
        )


#: What is timed -> its words.
LABELS = {
    "stored": "active weights alone, over masks",
    "annealed": "a step that keeps the largest, over masks that stay",
    "dense parts": "attention, GELU, norms and sums, over the step of active weights",
}


def annealing(run: TextRun) -> Callable[[], object]:
    """A step just before the last entries go: dense gradients, AdamW on all, the largest kept."""
    return stepping(TextTraining(replace(run, steps=10**6, anneal_begin=0.0, anneal_end=0.9)), at=899_000)


def settled(run: TextRun, engine: str) -> Callable[[], object]:
    """A step after that, with masks that stay."""
    training = TextTraining(replace(run, steps=10**6, anneal_begin=0.0, anneal_end=1e-6, engine=engine))
    return stepping(training, at=1)


def stepping(training: TextTraining, *, at: int) -> Callable[[], object]:
    """Steps of a training on random symbols, from its step ``at`` on; one is taken, which compiles and settles."""
    run = training.run
    shape = (run.batch_size, run.context + 1)
    windows = torch.randint(BYTES, shape, generator=torch.Generator().manual_seed(0))
    if at != 1:
        training.step_count = at
    training.step(windows)
    return lambda: training.step(windows)


def dense_parts(run: TextRun) -> Callable[[], object]:
    """Forward and backward of what a decoder computes beside products with weights, at the same shapes."""
    torch.manual_seed(0)
    norms = nn.ModuleList(nn.RMSNorm(run.width) for _ in range(2 * run.depth + 1))
    x = torch.randn(run.batch_size, run.context, run.width, requires_grad=True)
    hidden = torch.randn(run.batch_size, run.context, 4 * run.width, requires_grad=True)
    projected = torch.randn(run.batch_size, run.context, 3 * run.width, requires_grad=True)

    def once() -> None:
        total = norms[-1](x).sum()
        for block in range(run.depth):
            q, k, v = (each.unflatten(-1, (run.heads, -1)).transpose(1, 2) for each in projected.chunk(3, dim=-1))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            stream = x + norms[2 * block](x) + mixed
            total = total + (stream + norms[2 * block + 1](stream)).sum() + F.gelu(hidden).sum()
        total.backward()

    return once


BENCHMARKS = (
    Benchmark(
        name="text_phases",
        what="training step of a decoder (d 1024, context 128, one thread) on active weights, over dense with masks",
        reach=None,
        run=_run,
        speedup=True,
    ),
)
