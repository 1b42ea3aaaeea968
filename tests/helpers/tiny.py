"""A tiny convolutional network, its data and one training step, for the tests of methods and Sparsifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream
from sparseflow.testing.trial import snapshot as snapshot
from sparseflow.testing.trial import state_of as states  # noqa: F401 - for the tests

#: Prunable weights of ``tiny_model``.
SIZES = {"0.weight": 27, "3.weight": 480, "5.weight": 40}

_optim = torch.optim

#: Every optimizer of the contract, with weight decay.
OPTIMIZERS = {
    "sgd": partial(_optim.SGD, lr=0.1, weight_decay=0.01),
    "momentum": partial(_optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": partial(_optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(_optim.Adam, lr=0.01, weight_decay=0.01),
    "adamw": partial(_optim.AdamW, lr=0.01, weight_decay=0.1),
    "rmsprop": partial(_optim.RMSprop, lr=0.01, momentum=0.9, centered=True, weight_decay=0.01),
    "adagrad": partial(_optim.Adagrad, lr=0.1, initial_accumulator_value=0.1, weight_decay=0.01),
    "nadam": partial(_optim.NAdam, lr=0.01, weight_decay=0.01),
}

#: What an optimizer's state is for a weight before its first step, where it is not 0.
FRESH = {"adagrad": 0.1}


def tiny_model(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 10), nn.Tanh(), nn.Linear(10, 4)
    ).to(dtype)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3, generator=stream(seed, "tiny", name))
    return model


def batch(step: int, *, size: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = stream(step, "batch")
    inputs = torch.randn(size, 1, 6, 6, generator=generator, dtype=dtype)
    return inputs, torch.randint(4, (size,), generator=generator)


def loss_of(model: nn.Module, step: int, *, size: int = 8) -> Tensor:
    inputs, targets = batch(step, size=size, dtype=next(model.parameters()).dtype)
    return F.cross_entropy(model(inputs), targets)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    loss_of(model, step).backward()
    optimizer.step()


def masked(model: nn.Module, *, sparsity: float = 0.7, seed: int = 0, block: Any = (1, 1)) -> dict[str, Tensor]:
    return sf.random_masks(model, sparsity, seed=seed, block=block)


def assert_same_bits(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def eight(
    updater: sf.updaters.Method, *, make: Callable[..., torch.optim.Optimizer] | None = None, **options: object
) -> tuple[nn.Linear, torch.optim.Optimizer, sf.Sparsifier]:
    """A layer of weights 4, -3, 2, -1 and four inactive ones; SGD at learning rate 0 keeps them while masks move."""
    layer = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, -3.0, 2.0, -1.0, 0.0, 0.0, 0.0, 0.0]]))
    optimizer = make(layer.parameters()) if make else torch.optim.SGD(layer.parameters(), lr=0.0)
    mask = torch.tensor([[True] * 4 + [False] * 4])
    return layer, optimizer, sf.Sparsifier(layer, optimizer, {"weight": mask}, updater, seed=0, **options)


def pull(layer: nn.Linear, *gradient: float) -> None:
    """Run a backward pass that adds exactly ``gradient`` to the gradient of the eight weights."""
    (layer.weight * torch.tensor(gradient, dtype=layer.weight.dtype)).sum().backward()


def active(sparsifier: sf.Sparsifier) -> list[int]:
    """Indices of the active ones among the eight weights."""
    return sparsifier.masks["weight"].flatten().nonzero().flatten().tolist()


def the_same(one: object, two: object) -> bool:
    """Whether two nested values are equal, tensors in their type and to the last bit."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return list(one) == list(two) and all(the_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(the_same, one, two))
    return one == two
