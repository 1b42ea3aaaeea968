"""SR-STE against its equation worked in float64 by hand, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream

RATE, DECAY, REFINED, UNTIL = 0.05, 0.01, 0.3, 9


def data(step: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(16, 8, generator=stream(step, "inputs"), dtype=torch.float64)
    return inputs, torch.randn(16, 4, generator=stream(step, "targets"), dtype=torch.float64)


def two_of_four(values: Tensor) -> Tensor:
    mask = torch.zeros_like(values)
    for unit, first in itertools.product(range(4), (0, 4)):
        places = sorted(range(first, first + 4), key=lambda column: -float(values[unit, column].abs()))
        mask[unit, places[:2]] = 1.0
    return mask


def test_every_step_is_the_rule_by_hand() -> None:
    layer = nn.Linear(8, 4, bias=False).double()
    nn.init.normal_(layer.weight, generator=stream(0, "weight"))
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE, weight_decay=DECAY)
    method = sf.SRSTE(pattern=(2, 4), update_until=UNTIL, decay=REFINED)
    values = layer.weight.detach().clone()
    sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), method, seed=0)
    used = two_of_four(values)
    moved = 0
    for step in range(1, 13):
        inputs, targets = data(step)
        gradient = 2 * (inputs @ (values * used).T - targets).T @ inputs / targets.numel()
        trained = torch.ones_like(used) if step <= UNTIL else used
        values = values - RATE * trained * (gradient + DECAY * values + REFINED * (1 - used) * values)
        before, used = used, two_of_four(values) if step <= UNTIL else used
        moved += int((before != used).sum())
        optimizer.zero_grad()
        F.mse_loss(layer(inputs), targets).backward()
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), values * used, rtol=1e-11, atol=1e-13)
        assert sf.check_n_of_m({"weight": layer.weight.detach() != 0}, layer, (2, 4)) == 8
        assert sparsifier.sparsity == (0.5 if step >= UNTIL else 0.0)
    assert moved > 4
    assert sf.check_n_of_m(sparsifier.masks, layer, (2, 4)) == 8


def test_what_cannot_be_is_refused_when_made() -> None:
    with pytest.raises(ValueError, match="decay must be at least 0, got -1"):
        sf.SRSTE(pattern=(2, 4), update_until=9, decay=-1.0)
    with pytest.raises(ValueError, match=r"needs pattern=, such as \(2, 4\), or sparsity="):
        sf.SRSTE(update_until=9)
    layer = nn.Linear(10, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    with pytest.raises(ValueError, match=r"that 4 divides; 'weight' has 10"):
        sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.SRSTE(pattern=(2, 4), update_until=9), seed=0)
