"""When masks change and by how much: learning rate schedulers, and updates that take the place of a step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn, optim

import sparseflow as sf
from sparseflow.methods import DropGrow
from tiny import OPTIMIZERS, active, eight, loss_of, masked, pull, snapshot, tiny_model


def rigl(**options: Any) -> DropGrow:
    return sf.RigL(**{"drop_fraction": 0.3, "update_every": 2, "schedule": "constant", **options})


# -- learning rate schedulers ----------------------------------------------------------------------------------------


def recording(ratios: list[float]) -> DropGrow:
    def schedule(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
        ratios.append(learning_rate_ratio)
        return 0.0

    return sf.SET(update_every=1, schedule=schedule)


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_schedulers_made_before_and_after(scheduler_first: bool) -> None:
    # The rates of steps 1 .. 4 are 1/4, 1/2, 1, 1/2 of the one the optimizer was made with, by any order of making.
    ratios: list[float] = []
    factors = [0.25, 0.5, 1.0, 0.5, 0.5]
    layer = nn.Linear(8, 1, bias=False)
    optimizer = optim.SGD(layer.parameters(), lr=0.3)
    make = partial(optim.lr_scheduler.LambdaLR, optimizer, lambda step: factors[step])
    scheduler = make() if scheduler_first else None
    sf.Sparsifier(layer, optimizer, masked(layer), recording(ratios), seed=0)
    scheduler = scheduler or make()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert ratios == pytest.approx(factors[:4], rel=1e-15)


def test_each_parameter_group_has_its_own_ratio_capped_at_one() -> None:
    # Two of eight: at rates 1/4, 3 and 1 of the initial ones 0.5 * 8 * ratio weights are swapped: 1, 4 (capped), 4.
    model = nn.Sequential(*(nn.Linear(8, 2, bias=False) for _ in range(3)))
    groups = [{"params": [layer.weight], "lr": 0.1 * (i + 1)} for i, layer in enumerate(model)]
    optimizer = optim.SGD(groups)
    swapped: dict[str, int] = {}
    updater = sf.SET(drop_fraction=0.5, update_every=1, regrow=False)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model, sparsity=0.5), updater, seed=0)
    sparsifier.after_update.append(
        lambda _, changes: swapped.update({n: int(c.grown.sum()) for n, c in changes.items()})
    )
    for group, factor in zip(optimizer.param_groups, (0.25, 3.0, 1.0), strict=True):
        group["lr"] *= factor
    optimizer.step()
    assert swapped == {"0.weight": 1, "1.weight": 4, "2.weight": 4}


def test_a_learning_rate_that_starts_at_zero_counts_as_one() -> None:
    ratios: list[float] = []
    layer = nn.Linear(8, 1)
    optimizer = optim.SGD(layer.parameters(), lr=0.0)
    sf.Sparsifier(layer, optimizer, masked(layer), recording(ratios), seed=0)
    optimizer.step()
    assert ratios == [1.0]


# -- updates that replace a step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam"])
def test_an_update_that_replaces_the_step_leaves_everything_else_alone(name: str, early: bool) -> None:
    """Protocol C.4: the first update comes before any training, the counter stands still while masks change."""
    model = tiny_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    updater = rigl(first_update=0, replaces_step=True)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
    updates: list[int] = []
    counts: list[int] = []
    sparsifier.after_update.append(lambda step, changes: updates.append(step))
    for step in range(7):
        old = {key: mask.clone() for key, mask in sparsifier.masks.items()}
        before = snapshot(model, optimizer)
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if early:
            sparsifier.mask_gradients_()
        optimizer.step()
        counts.append(sparsifier.step_count)
        sparsifier.check()
        assert all(parameter.grad is not None for parameter in model.parameters())
        if step in (0, 3, 6):
            # Weights and states that stay active, biases and step counts are as they were.
            stays = {key: old[key] & mask for key, mask in sparsifier.masks.items()}
            assert any(not torch.equal(old[key], sparsifier.masks[key]) for key in old)
            shapes = {mask.shape: mask for mask in stays.values()}
            for a, b in zip(before, snapshot(model, optimizer), strict=True):
                kept = shapes.get(a.shape)
                assert torch.equal(a, b) if kept is None else torch.equal(a * kept, b)
    assert updates == [0, 2, 4]
    assert counts == [0, 1, 2, 2, 3, 4, 4]


def test_an_update_that_replaces_the_step_grows_by_the_dense_gradient_at_hand() -> None:
    updater = rigl(drop_fraction=0.25, first_update=0, replaces_step=True)
    layer, optimizer, sparsifier = eight(updater, make=partial(optim.SGD, lr=0.1))
    pull(layer, 1, 1, 1, 1, 0, 5, 2, 0)
    optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 5]
    assert layer.weight.tolist() == [[4, -3, 2, 0, 0, 0, 0, 0]]
    assert layer.weight.grad.tolist() == [[1, 1, 1, 0, 0, 5, 0, 0]]


def test_a_run_resumed_after_a_replaced_step_does_not_replace_the_next_one_too() -> None:
    masks, counts = [], []
    for resumed in (False, True):
        layer, optimizer, sparsifier = eight(rigl(first_update=0, replaces_step=True))
        for step, gradient in enumerate(((0, 0, 0, 0, 1, 0, 0, 0), (0, 0, 0, 0, 0, 9, 0, 0))):
            if resumed and step == 1:
                state = sparsifier.state_dict()
                sparsifier.remove()
                sparsifier = sf.Sparsifier(layer, optimizer, sparsifier.masks, sparsifier.method, seed=1)
                sparsifier.load_state_dict(state)
            optimizer.zero_grad()
            pull(layer, *gradient)
            optimizer.step()
        masks.append(active(sparsifier))
        counts.append(sparsifier.step_count)
    assert masks == [[0, 1, 2, 4]] * 2
    assert counts == [1, 1]


def test_a_closure_cannot_be_replaced() -> None:
    layer, optimizer, _ = eight(rigl(replaces_step=True))
    with pytest.raises(ValueError, match="replaces_step=True cannot skip a step that runs a closure"):
        optimizer.step(lambda: layer.weight.sum())
