"""The start and the end of a run: what a method cannot do is said when it is made, what it has not done at the end."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn, optim

import sparseflow as sf
import tiny
from sparseflow.methods.run import OpenEndWarning, UnfinishedWarning
from tiny import masked, tiny_model, train_step

pytestmark = pytest.mark.filterwarnings(
    "error::sparseflow.methods.run.OpenEndWarning", "error::sparseflow.methods.run.UnfinishedWarning"
)


class Run:
    """A tiny network under AdamW at a constant rate."""

    def __init__(self, method: Any, *, dense: bool = False) -> None:
        self.model = tiny_model()
        self.optimizer = optim.AdamW(self.model.parameters(), lr=1e-2)
        self.before = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        masks = sf.dense_masks(self.model) if dense else masked(self.model)
        self.sparsifier = sf.Sparsifier(self.model, self.optimizer, masks, method, seed=0)

    def train(self, steps: int) -> Run:
        for step in range(steps):
            train_step(self.model, self.optimizer, step)
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: self.model.get_parameter(name).detach().clone() for name in self.sparsifier.masks}


@pytest.mark.parametrize("make", [sf.SET, sf.RigL, sf.SNFS])
@pytest.mark.parametrize("steps", [4, 8, 12, 13, 20])
def test_no_run_of_the_stated_length_ends_on_untrained_weights(make: Any, steps: int) -> None:
    run = Run(make(update_every=3, total_steps=steps)).train(steps)
    assert run.sparsifier.check().unfinished == ()
    assert run.sparsifier.step_count - run.sparsifier.state_dict()["last_update"] >= steps / 4
    run.sparsifier.remove()


def test_updates_without_an_end_warn_once_at_the_first() -> None:
    run = Run(sf.RigL(update_every=3)).train(2)
    message = "the learning rate has no schedule.*total_steps=.*update_until="
    with pytest.warns(OpenEndWarning, match=message) as seen:
        run.train(1)
    assert seen[0].filename == tiny.__file__  # where it calls optimizer.step()
    run.train(3)  # the second update: an error if it warned again


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_a_scheduler_ends_the_updates(scheduler_first: bool) -> None:
    model = tiny_model()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    make = partial(optim.lr_scheduler.CosineAnnealingLR, optimizer, 6)
    scheduler = make() if scheduler_first else None
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), sf.RigL(update_every=1), seed=0)
    scheduler = scheduler or make()
    for step in range(6):  # no warning, which would be an error here
        train_step(model, optimizer, step)
        scheduler.step()
    assert sparsifier.state_dict()["last_update"] == 6


def test_a_rate_that_the_loop_sets_counts_as_scheduled() -> None:
    run = Run(sf.RigL(update_every=3))
    for step in range(6):
        run.optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 6)
        train_step(run.model, run.optimizer, step)  # no warning, which would be an error here
    assert run.sparsifier.state_dict()["last_update"] == 6


def test_check_and_remove_name_weights_that_no_step_has_trained() -> None:
    run = Run(sf.SET(update_every=3, update_until=6, drop_fraction=0.5, regrow=False)).train(6)
    # Half of 8, 144 and 12 active weights.
    with pytest.warns(UnfinishedWarning, match="82 of 164 active weights are still zero .* of step 6"):
        checked = run.sparsifier.check()
    assert str(checked).splitlines()[1].startswith("82 of 164 active weights are still zero")
    with pytest.warns(UnfinishedWarning, match="82 of 164 active weights"):
        run.sparsifier.remove()
    run.sparsifier.remove()  # once is enough
    assert Run(sf.SET(update_every=3, update_until=6)).train(7).sparsifier.check().unfinished == ()


def interrupted(run: Run) -> None:
    with run.sparsifier:
        run.train(3)
        raise KeyboardInterrupt


@pytest.mark.parametrize("make", [sf.SET, sf.RigL, sf.SNFS])
def test_a_block_takes_back_the_update_that_no_step_followed(make: Any) -> None:
    trained = Run(make(update_every=3, update_until=5)).train(6)
    run = Run(make(update_every=3))  # no warning either: the block ends updates
    with run.sparsifier as sparsifier:
        run.train(6)
        assert sparsifier.masks.keys() == trained.sparsifier.masks.keys()
        assert any(not torch.equal(mask, trained.sparsifier.masks[name]) for name, mask in sparsifier.masks.items())
    for name, weight in trained.weights().items():
        assert torch.equal(run.sparsifier.masks[name], trained.sparsifier.masks[name])
        assert torch.equal(run.weights()[name], weight)
    sf.check(run.model, run.optimizer, run.sparsifier.masks)
    for parameter, other in zip(run.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_a_block_that_ends_after_a_step_or_by_an_error_takes_nothing_back() -> None:
    run = Run(sf.SET(update_every=3))
    with run.sparsifier:
        run.train(4)
        masks = {name: mask.clone() for name, mask in run.sparsifier.masks.items()}
    assert all(torch.equal(mask, run.sparsifier.masks[name]) for name, mask in masks.items())
    run = Run(sf.SET(update_every=3, drop_fraction=0.5, regrow=False))
    with pytest.warns(UnfinishedWarning, match="82 of 164 active weights"), pytest.raises(KeyboardInterrupt):
        interrupted(run)
    train_step(run.model, run.optimizer, 9)  # removed: nothing holds the zeros
    assert any((run.weights()[name][~mask] != 0).any() for name, mask in run.sparsifier.masks.items())


def test_a_block_keeps_the_last_step_of_pruning() -> None:
    run = Run(sf.GMP(sparsity=0.7, begin=1, end=4, update_every=1), dense=True)
    with run.sparsifier:
        run.train(4)
    assert sf.sparsity_of(run.sparsifier.masks) == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("steps", [3, 60])
def test_a_run_that_ends_before_pruning_does_says_so(steps: int) -> None:
    run = Run(sf.GMP(sparsity=0.9, begin=20, end=100, update_every=10), dense=True).train(steps)
    message = r"pruning has not come to its end, at step 100, with sparsity 0.899.*begin= and end="
    with pytest.warns(UnfinishedWarning, match=message):
        run.sparsifier.check()
    with pytest.warns(UnfinishedWarning, match=message):
        run.sparsifier.remove()


def test_a_frozen_layer_that_pruning_left_alone_is_named() -> None:
    run = Run(sf.OneShot(sparsity=0.5, at=2), dense=True)
    run.model.get_parameter("3.weight").requires_grad_(False)
    with pytest.warns(UnfinishedWarning, match=r"pruning ended at step 2 and left 3.weight denser than asked"):
        run.train(3).sparsifier.check()


def test_a_first_update_that_is_yet_to_come_is_named() -> None:
    run = Run(sf.RigL(update_every=100))
    assert run.sparsifier.check().unfinished == ()  # nothing has begun
    with pytest.warns(UnfinishedWarning, match="no mask has changed yet: the first update is at step 100"):
        run.train(1).sparsifier.remove()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (sf.GMP(sparsity={"0.weight": 0.5}, begin=25, end=50), "sparsity has no entry for 3.weight, 5.weight"),
        (sf.GMP(sparsity=0.999, begin=1, end=2), "The largest feasible sparsity is"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_weight_is_changed(method: Any, message: str) -> None:
    model = tiny_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    masks = sf.dense_masks(model)
    with pytest.raises(ValueError, match=message):
        sf.Sparsifier(model, optimizer, masks, method, seed=0)
    assert all(map(torch.equal, before, model.parameters()))
    sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)  # nothing stayed behind


def test_a_method_that_never_changes_a_mask_says_so() -> None:
    with pytest.warns(UnfinishedWarning, match=r"never change: drop_fraction=0.001 of the 144 active weights") as seen:
        Run(sf.SET(drop_fraction=0.001))
    assert seen[0].filename == __file__


def test_a_rate_that_is_a_mere_factor_of_the_scheduler_is_no_silent_static() -> None:
    """The transformer's schedule multiplies a rate of 1 by at most 512 ** -0.5 * 100 ** -0.5 = 0.0044."""
    layer = nn.Linear(30, 30)
    optimizer = optim.Adam(layer.parameters(), lr=1.0)
    noam = optim.lr_scheduler.LambdaLR(optimizer, lambda t: 512**-0.5 * min((t + 1) ** -0.5, (t + 1) * 100**-1.5))
    sf.Sparsifier(layer, optimizer, masked(layer), sf.SET(update_every=2), seed=0)
    optimizer.step()
    noam.step()
    with pytest.warns(UnfinishedWarning, match=r"first update, at step 2, exchanges nothing: .*may be a mere factor"):
        optimizer.step()
    optimizer.step()
    optimizer.step()  # said once


def swaps(make_scheduler: Any, *, scheduler_first: bool, groups: int = 1) -> list[int]:
    """Weights of 1000 that are swapped at steps 50, 100, ... 300."""
    layer = nn.Linear(100, 100)
    optimizer = optim.SGD([layer.weight], lr=0.1)
    found: list[int] = []
    scheduler = make_scheduler(optimizer) if scheduler_first else None
    sparsifier = sf.Sparsifier(
        layer, optimizer, sf.random_masks(layer, 0.9, seed=0), sf.SET(update_every=50, regrow=False), seed=0
    )
    sparsifier.after_update.append(lambda step, changes: found.append(int(changes["weight"].dropped.sum())))
    scheduler = scheduler or make_scheduler(optimizer)
    for _ in range(300):
        optimizer.zero_grad()
        layer.weight.square().mean().backward()
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # A cosine from 1/25 to 1 in 90 steps and down to 4e-6 in 210: at 49, 99, 149, 199, 249 and 299 steps done.
        (lambda o: optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=301), [177, 298, 244, 140, 41, 0]),
        # A tenth, and from step 100 on all.
        (lambda o: optim.lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=99), [163, 300, 300, 300, 300, 300]),
        (lambda o: optim.lr_scheduler.LambdaLR(o, lambda step: 1 - step / 300), [250, 201, 150, 101, 50, 1]),
    ],
    ids=["one cycle", "warm-up", "linear"],
)
def test_the_share_of_swaps_follows_the_rate_whatever_was_made_first(make: Any, expected: list[int]) -> None:
    one, other = (swaps(make, scheduler_first=first) for first in (True, False))
    assert one == other
    assert one == pytest.approx(expected, abs=1)  # truncation of a rate that was multiplied up


def test_a_group_that_is_added_late_has_a_peak_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(40, 50, bias=False), nn.Linear(50, 40, bias=False))
    optimizer = optim.SGD([model[0].weight], lr=0.1)
    model[1].weight.requires_grad_(False)
    method = sf.SET(update_every=2, update_until=2, drop_fraction=0.5, regrow=False)
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.9, seed=0), method, seed=0)
    found: dict[str, int] = {}
    sparsifier.after_update.append(lambda _, changes: found.update({n: int(c.grown.sum()) for n, c in changes.items()}))
    optimizer.step()
    model[1].weight.requires_grad_(True)
    optimizer.add_param_group({"params": [model[1].weight], "lr": 0.4})
    optimizer.param_groups[0]["lr"] = 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert found == {"0.weight": 50, "1.weight": 100}  # half of half of 200, half of 200
