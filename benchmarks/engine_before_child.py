"""A child of ``benchmarks.engine_before``: it times the user-level MLP with the sparseflow that ``PYTHONPATH`` names.

It uses the public API alone, and of ``benchmarks`` what needs no sparseflow, so that any commit can be measured.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import sparseflow as sf
from benchmarks.timing import take_turns
from sparseflow import engine

BATCH = 128


def step_of(size: int, sparsity: float, **options: Any) -> Callable[[], None]:
    """Forward and backward of the converted MLP; ``options`` are those of its masks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
    masks = sf.random_masks(model, sparsity, seed=0, **options)
    sparse = engine.convert(sf.apply_masks_(model, masks), masks)
    x, gradient = torch.randn(2, BATCH, size)

    def step() -> None:
        for parameter in sparse.parameters():
            parameter.grad = None
        sparse(x).backward(gradient)

    return step


def main(asked: dict[str, Any]) -> None:
    """Print the median seconds of a step with masks of each pattern, ``{name: options of random_masks}``."""
    torch.set_num_threads(1)
    patterns = asked["patterns"].items()
    steps = {name: step_of(asked["size"], asked["sparsity"], **options) for name, options in patterns}
    seconds = take_turns(steps, smoke=asked["smoke"], least=15, most=15)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(json.dumps({"package": sf.__file__, "seconds": medians}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
