"""SMET: a grown weight steps as one that a fresh optimizer of torch, with a linear warm-up, begins with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import sparseflow as sf
from tiny import active, eight, pull

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "amsgrad": partial(torch.optim.AdamW, lr=0.01, amsgrad=True, maximize=True),
    "foreach": partial(torch.optim.AdamW, lr=0.01, foreach=True),
    "fused": partial(torch.optim.AdamW, lr=0.01, fused=True),
    "momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.9),
}


def gradient(step: int) -> list[float]:
    """Weights 0 to 3 are active; of the others the sixth has the largest by far."""
    generator = torch.Generator().manual_seed(step)
    draws = torch.randn(8, dtype=torch.float64, generator=generator).tolist()
    return [*draws[:4], 1e-3 * draws[4], 3 + draws[5], 1e-3 * draws[6], 1e-3 * draws[7]]


def run(make: Callable[..., Any], rules: list[sf.rules.StepRule]) -> list[Tensor]:
    """The weights after each of 60 steps; at the 40th the third or fourth leaves and the sixth grows."""
    updater = sf.RigL(drop_fraction=0.25, update_every=40, update_until=40, schedule="constant")
    layer, optimizer, sparsifier = eight(updater, make=lambda parameters: make(_double(parameters)), rules=rules)
    weights = []
    for step in range(60):
        optimizer.zero_grad()
        pull(layer, *gradient(step))
        optimizer.step()
        weights.append(layer.weight.detach().clone().flatten())
    assert 5 in active(sparsifier)
    return weights


def _double(parameters: Any) -> list[Tensor]:
    found = list(parameters)
    for parameter in found:
        parameter.data = parameter.data.double()
    return found


@pytest.mark.parametrize("warmup", [1, 6])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_grown_weight_steps_as_under_a_fresh_optimizer(name: str, warmup: int) -> None:
    found, plain = (run(OPTIMIZERS[name], rules) for rules in ([sf.rules.SMET(warmup=warmup)], []))
    fresh = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = OPTIMIZERS[name]([fresh])
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min((done + 1) / warmup, 1.0))
    for step in range(40, 60):
        fresh.grad = torch.tensor([gradient(step)[5]], dtype=torch.float64)
        optimizer.step()
        rate.step()
        assert float(found[step][5]) == pytest.approx(float(fresh.detach()), rel=1e-9)
    for one, other in zip(found, plain, strict=True):  # those that were there before step as ever
        assert torch.equal(one[:5], other[:5])
    if warmup > 1 or name not in ("momentum", "rmsprop"):
        assert found[40][5] != plain[40][5]


def test_without_it_the_first_step_is_too_long() -> None:
    """In a long run, (1 - 0.9) / sqrt(1 - 0.999) = 3.16 times the learning rate; with SMET once."""
    direction = sf.rules.adam_direction(
        torch.tensor([0.1]), torch.tensor([0.001]), torch.tensor([100_000]), betas=(0.9, 0.999), eps=0.0
    )
    assert float(direction) == pytest.approx(10**0.5, rel=1e-5)


def test_a_weight_that_is_old_steps_as_ever() -> None:
    rule = sf.rules.SMET(warmup=7)
    updater = sf.RigL(drop_fraction=0.25, update_every=1, update_until=1, schedule="constant")
    layer, optimizer, sparsifier = eight(updater, make=partial(torch.optim.SGD, lr=0.01), rules=[rule])
    ages = []
    for step in range(10):
        optimizer.zero_grad()
        pull(layer, *gradient(step))
        optimizer.step()
        ages.append(int(sparsifier.state_dict()["rules"]["SMET"]["ages"]["weight"][0, 5]))
    assert ages == [1, 2, 3, 4, 5, 6, 7, 0, 0, 0]


@pytest.mark.parametrize("optimizer", [torch.optim.RAdam, torch.optim.NAdam, torch.optim.Adamax])
def test_other_corrections_are_refused(optimizer: type) -> None:
    layer = torch.nn.Linear(4, 2)
    with pytest.raises(ValueError, match=f"{optimizer.__name__} steps by another rule. Use one of these."):
        sf.Sparsifier(
            layer, optimizer(layer.parameters()), sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0,
            rules=[sf.rules.SMET()],
        )  # fmt: skip


def test_a_warm_up_of_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup must be at least 1, got 0"):
        sf.rules.SMET(warmup=0)
