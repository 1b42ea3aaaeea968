"""Optimizer steps of plans and the exchange of their state; oracle: the dense masked network under torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from plans import CLOSE, examples, masked, small
from sparseflow.engine.plans.plan import plan

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "Nesterov": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01),
}


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay of weights and of biases apart."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": weights, "weight_decay": 0.02}, {"params": biases, "weight_decay": 0.005, "lr": 0.02}]


def states(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All state tensors, by parameter and name."""
    held = optimizer.state_dict()["state"]
    found = [held[parameter][name] for parameter in sorted(held) for name in sorted(held[parameter])]
    return [value for value in found if value is not None]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs_and_exchange_at_any_step_changes_nothing(name: str) -> None:
    """Twelve steps with a schedule, against torch with masked gradients; all is exchanged in between."""
    (theirs, masks), (ours, _) = small(), small()
    optimizer = OPTIMIZERS[name](grouped(theirs))
    sf.Sparsifier(theirs, optimizer, masks, sf.Static(), seed=0)
    mine = OPTIMIZERS[name](grouped(ours))
    fast = plan(ours, masks, mine)
    for step in range(12):
        x, y = examples((1, 8, 8), 10, 3, seed=step)
        optimizer.zero_grad()
        loss = F.cross_entropy(theirs(x), y)
        loss.backward()
        optimizer.step()
        assert fast.step(x, y) == pytest.approx(loss.item(), rel=1e-9)
        for group in (*optimizer.param_groups, *mine.param_groups):
            group["lr"] *= 0.8
        if step % 4 == 3:
            fast.write()
            sf.check(ours, mine, masks)
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
            for a, b in zip(states(mine), states(optimizer), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, check_dtype=False)
        if step == 7:
            loaded, _ = small(seed=1)
            loaded.load_state_dict(ours.state_dict())
            other = OPTIMIZERS[name](grouped(loaded))
            other.load_state_dict(mine.state_dict())
            ours, mine, fast = loaded, other, plan(loaded, masks, other)


def test_torch_goes_on_where_a_plan_stopped() -> None:
    """After write, one of torch's own steps is that of a run by torch alone."""
    for name in OPTIMIZERS:
        (theirs, masks), (ours, _) = small(), small()
        optimizers = [OPTIMIZERS[name](grouped(model)) for model in (theirs, ours)]
        for model, optimizer in zip((theirs, ours), optimizers, strict=True):
            sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
        fast = plan(ours, masks, optimizers[1])
        for step in range(4):
            x, y = examples((1, 8, 8), 10, 3, seed=step)
            for model, optimizer in zip((theirs, ours), optimizers, strict=True):
                if model is ours and step < 2:
                    fast.step(x, y)
                    fast.write()
                else:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_schedulers_of_torch_are_followed_in_silence() -> None:
    model, masks = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=1e-30)
    fast = plan(model, masks, optimizer)
    x, y = examples((1, 8, 8), 10, 3)
    fast.step(x, y)
    schedule.step()
    assert fast.step(x, y) == fast.step(x, y)


def test_new_masks_are_taken_with_what_the_model_holds() -> None:
    model, masks = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fast = plan(model, masks, optimizer)
    x, y = examples((1, 8, 8), 10, 3)
    fast.step(x, y)
    fast.write()
    new = masked(small(seed=5)[0], 0.4, seed=5)
    sf.apply_masks_(model, new)
    fast.read(new)
    torch.testing.assert_close(fast.logits(x), model(x).detach(), **CLOSE)
    fast.step(x, y)
    fast.write()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in new.items())
    assert all(
        not optimizer.state[model.get_parameter(name)]["momentum_buffer"][~mask].any() for name, mask in new.items()
    )


def test_optimizers_that_do_not_fit() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(TypeError, match="steps like SGD, Adam or AdamW, got RMSprop"):
        plan(model, {}, torch.optim.RMSprop(model.parameters()))
    with pytest.raises(ValueError, match=r"a plan has no dampening=0\.1"):
        plan(model, {}, torch.optim.SGD(model.parameters(), momentum=0.9, dampening=0.1))
    with pytest.raises(ValueError, match="a plan has no amsgrad=True"):
        plan(model, {}, torch.optim.Adam(model.parameters(), amsgrad=True))
    with pytest.raises(
        ValueError, match=r"the optimizer does not hold '0\.bias'\. Add it with optimizer\.add_param_group"
    ):
        plan(model, {}, torch.optim.SGD([model[0].weight], lr=0.1))
    with pytest.raises(ValueError, match=r"made without an optimizer\. Write engine\.plan\(model, masks, optimizer\)"):
        plan(model, {}).step(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.state[model[0].weight]["step"] = torch.tensor(3.0)
    with pytest.raises(ValueError, match=r"must have taken equally many steps, got \[0, 3\]"):
        plan(model, {}, optimizer)
