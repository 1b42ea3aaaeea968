"""Small networks, the weights of several solutions, and data to measure them on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseflow.rng import stream

Batch = tuple[Tensor, Tensor]
State = dict[str, Tensor]


def network(*, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    return nn.Sequential(*layers).to(dtype)


def perceptron(*, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def state_of(model: nn.Module, seed: int) -> State:
    """Random weights that stand for another solution."""
    return {
        name: torch.randn(p.shape, generator=stream(seed, "state", name), dtype=p.dtype)
        for name, p in model.named_parameters()
    }


def batches(sizes: tuple[int, ...] = (12, 5, 1), *, seed: int = 2, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = stream(seed, "landscape")
    return [
        (torch.randn(n, 6, generator=generator).to(dtype), torch.randint(0, 3, (n,), generator=generator))
        for n in sizes
    ]


def square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def bits(tensor: Tensor) -> list[int]:
    return tensor.flatten().view(torch.int32).tolist()
