"""A small network in float64 and its gradients, for loops with any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(16, 24, bias=False), nn.Tanh(), nn.Linear(24, 8, bias=False)).to(dtype)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3, generator=stream(0, name))
    return model


def backward(model: nn.Module, step: int) -> None:
    generator = stream(step, "batch")
    dtype = next(model.parameters()).dtype
    inputs = torch.randn(32, 16, generator=generator, dtype=dtype)
    model.zero_grad()
    F.cross_entropy(model(inputs), torch.randint(8, (32,), generator=generator)).backward()


def rigl(**options: Any) -> Any:
    return sf.RigL(**{"drop_fraction": 0.3, "update_every": 4, "schedule": "constant", **options})


def trained(make: Callable[[Any], Any], *, by_hand: bool, steps: int = 12) -> list[Tensor]:
    """Weights after some steps under ``Static()``, or with gradients and weights times the mask around each step."""
    model = network()
    masks = sf.random_masks(model, 0.8, seed=0)
    sf.apply_masks_(model, masks)
    optimizer = make(model.parameters())
    if not by_hand:
        sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    for step in range(steps):
        backward(model, step)
        if by_hand:
            for name, mask in masks.items():
                model.get_parameter(name).grad.mul_(mask)
        optimizer.step()
        if by_hand:
            sf.apply_masks_(model, masks)
        else:
            assert sparsifier.step_count == step + 1
            sparsifier.check()
    return [parameter.detach() for parameter in model.parameters()]
