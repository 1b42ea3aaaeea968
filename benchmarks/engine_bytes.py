"""Bytes that a converted layer holds for each active weight after a training step: its value and all tables."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.contest import BLOCKS, UNSTRUCTURED, Entry, masks_of
from benchmarks.engine_timing import torch_threads
from benchmarks.result import Benchmark, Case
from benchmarks.timing import Timings

SPARSITY = 0.95
#: Few examples, so that what is kept of activations, if anything is, counts for little.
BATCH = 8


def _run(smoke: bool) -> Iterator[Case]:
    size = 64 if smoke else 2048
    for pattern, reach in ((UNSTRUCTURED, 16.0), (BLOCKS, 5.5)):
        torch.manual_seed(0)
        dense = nn.Linear(size, size, bias=False)
        masks = masks_of(dense, Entry(pattern, SPARSITY, {}))
        layer = sf.engine.convert(dense, masks)
        x = torch.randn(BATCH, size, requires_grad=True)
        with torch_threads(1):
            layer(x).backward(torch.randn(BATCH, size))
        for parameter in layer.parameters():
            parameter.grad = None
        nonzeros = int(masks["weight"].sum())
        yield Case(
            label=pattern,
            configuration={"row": pattern, "threads": 1, "size": size, "sparsity": SPARSITY, "nonzeros": nonzeros},
            timings=Timings([float(held_bytes(layer))], [float(nonzeros)]),
            reach=reach,
            unit="bytes",
        )


def held_bytes(thing: object) -> int:
    """Bytes of all tensors and arrays that are reached from an object, each memory once; not through code or types.

    >>> held_bytes({"values": torch.zeros(3), "the same": [torch.zeros(4)], "tables": np.zeros(2, np.int32)})
    36
    """
    memory: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [thing]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | types.ModuleType | types.FunctionType | types.CodeType):
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            storage = found.untyped_storage()
            memory[storage.data_ptr()] = storage.nbytes()
        elif isinstance(found, np.ndarray):
            if isinstance(found.base, np.ndarray):
                waiting.append(found.base)
            elif found.size:
                address = found.__array_interface__["data"][0]
                memory[address] = max(memory.get(address, 0), found.nbytes)
        else:
            waiting += gc.get_referents(found)
    return sum(memory.values())


BENCHMARKS = (
    Benchmark(
        name="engine_bytes",
        what="bytes a nonzero, value and tables, of a 95% sparse linear layer after a training step",
        reach=None,
        run=_run,
    ),
)
