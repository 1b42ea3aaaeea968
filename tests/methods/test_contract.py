"""The table of methods against one table of checks, under every elementwise optimizer with weight decay.

A method with a row in ``sparseflow.training.names`` is held to the promises of the library by everything here.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import sparseflow as sf
from makers import BLOCKS, CASES, MAKERS, MOVING, PRUNING, SETTINGS, block_of, block_size, method_of
from sparseflow.masks.blocks import grids_of
from sparseflow.methods import DropGrow, Swap
from sparseflow.rng import stream
from sparseflow.sparsifier.update import WholeLayer
from tiny import (
    FRESH,
    OPTIMIZERS,
    SIZES,
    assert_same_bits,
    loss_of,
    masked,
    snapshot,
    states,
    tiny_model,
    train_step,
)

STEPS = 13
#: Active weights at sparsity 0.7: 27 * 0.3 = 8.1, 480 * 0.3 and 40 * 0.3.
ACTIVE = {"0.weight": 8, "3.weight": 144, "5.weight": 12}
#: The same in blocks of 3, 8 and 4 weights: 9 * 0.3 = 2.7, 60 * 0.3 and 10 * 0.3 of them.
ACTIVE_IN_BLOCKS = {"0.weight": 9, "3.weight": 144, "5.weight": 12}

every_method = pytest.mark.parametrize("method", CASES)
every_optimizer = pytest.mark.parametrize("optimizer_name", OPTIMIZERS)


class Run:
    """A model, its optimizer and its Sparsifier, at step 0."""

    def __init__(self, method: str, optimizer_name: str, *, seed: int = 0, **changed: Any) -> None:
        self.model = tiny_model()
        self.optimizer = OPTIMIZERS[optimizer_name](self.model.parameters())
        masks = sf.dense_masks(self.model) if method in PRUNING else masked(self.model, block=block_of(method))
        self.sparsifier = sf.Sparsifier(self.model, self.optimizer, masks, method_of(method, **changed), seed=seed)
        self.weights = {name: self.model.get_parameter(name) for name in masks}

    def step(self, number: int) -> None:
        train_step(self.model, self.optimizer, number)

    def masks(self) -> dict[str, Tensor]:
        return {name: mask.clone() for name, mask in self.sparsifier.masks.items()}

    def snapshot(self) -> list[Tensor]:
        return snapshot(self.model, self.optimizer) + list(self.masks().values())


def test_every_method_has_settings() -> None:
    assert set(SETTINGS) == set(MAKERS)


def expected_active(method: str, size: int, name: str, step: int) -> int:
    """Constant, or in exact rational arithmetic the count at the last update of the pruning schedule."""
    if method not in PRUNING:
        return (ACTIVE if block_of(method) == (1, 1) else ACTIVE_IN_BLOCKS)[name]
    updates = [4] if method.startswith("one_shot") else [2, 5, 8, 10]
    if step < updates[0]:
        return size
    last = max(update for update in updates if update <= step)
    remaining = Fraction(10 - last, 8) if method.startswith("prune") else Fraction(0)
    together = block_size(method, name)
    return together * max(1, round(size // together * (1 - Fraction(7, 10) * (1 - remaining**3))))


def is_made_of_blocks(name: str, mask: Tensor) -> bool:
    """Rows are equal in groups, and columns: by slices, without the library."""
    outputs, inputs = BLOCKS[name]
    rows = mask.flatten(1)
    down = rows[::outputs].repeat_interleave(outputs, 0)
    return torch.equal(down, rows) and torch.equal(rows[:, ::inputs].repeat_interleave(inputs, 1), rows)


@every_method
@every_optimizer
def test_active_counts_are_exact_and_everything_else_is_zero_at_every_step(method: str, optimizer_name: str) -> None:
    run = Run(method, optimizer_name)
    for step in range(1, STEPS + 1):
        run.step(step)
        run.sparsifier.check()
        for name, mask in run.sparsifier.masks.items():
            assert int(mask.sum()) == expected_active(method, SIZES[name], name, step)
            assert block_of(method) == (1, 1) or is_made_of_blocks(name, mask)
            weight, fresh = run.weights[name], FRESH.get(optimizer_name, 0)
            for tensor, value in ((weight, 0), *((state, fresh) for state in states(run.optimizer, weight))):
                assert (tensor[~mask] == value).all()
                assert (tensor[mask] != value).any()
    assert run.sparsifier.step_count == STEPS


@every_method
@every_optimizer
def test_an_update_is_its_grown_and_dropped_weights_and_growth_starts_at_zero(method: str, optimizer_name: str) -> None:
    run = Run(method, optimizer_name)
    before: dict[str, Tensor] = {}
    moved = 0

    def after(step: int, changes: Any) -> None:
        nonlocal moved
        assert set(changes) == set(SIZES)
        for name, change in changes.items():
            old, new, weight = before[name], run.sparsifier.masks[name], run.weights[name]
            assert torch.equal(change.mask, new)
            assert torch.equal(new, (old | change.grown) & ~change.dropped)
            assert not (change.grown & old).any()
            assert not (change.dropped & ~old).any()
            fresh = FRESH.get(optimizer_name, 0)
            for tensor, value in ((weight, 0), *((state, fresh) for state in states(run.optimizer, weight))):
                assert (tensor[change.grown] == value).all()
                # Those that stay keep value and state: after a step with a gradient most are not as at first.
                assert (tensor[old & new] != value).any()
            moved += int(change.grown.sum()) if method in MOVING else int(change.dropped.sum())

    run.sparsifier.before_update.append(lambda step: before.update(run.masks()))
    run.sparsifier.after_update.append(after)
    for step in range(1, STEPS + 1):
        run.step(step)
    assert (moved > 0) == (not method.startswith("static"))


@every_method
def test_update_leaves_its_inputs_unchanged(method: str) -> None:
    made = method_of(method)
    model = tiny_model()
    layers = []
    block = block_of(method)
    for name, mask in masked(model, block=block).items():
        gradient = torch.randn(mask.shape, generator=stream(0, "gradient", name))
        weight = model.get_parameter(name).detach() * mask
        grid = grids_of(model, block, SIZES).get(name)
        layers.append(WholeLayer(name, weight, mask, gradient, 1.0, int(mask.sum()), grid))
    copies = [(layer.weight.clone(), layer.mask.clone(), layer.gradient.clone()) for layer in layers]
    generator = stream(0, "grow")
    requests = list(made.update(layers, step=10, generator=generator))
    for layer, copy, (name, request) in zip(layers, copies, requests, strict=True):
        assert name == layer.name
        if isinstance(request, Swap):
            scores = [score(layer.weight, layer.gradient, generator=generator) for score in request[2:4]]
            of, counts = layer.mask, request[:2]
            if layer.grid is not None:
                of, scores = layer.grid.of(of), [layer.grid.sums(score) for score in scores]
                counts = [count // layer.grid.size for count in counts]
            request = sf.drop_and_grow(of, *scores, *counts, regrow=request.regrow).mask
            request = request if layer.grid is None else layer.grid.spread(request)
        assert_same_bits([layer.weight, layer.mask, layer.gradient], list(copy))
        request.logical_not_()  # the answer is the caller's: no alias of the input
        assert torch.equal(layer.mask, copy[1])


@every_method
def test_same_seed_same_masks(method: str) -> None:
    """Another seed changes the bits of those methods, and only those, that draw."""
    ends = []
    for seed in (0, 0, 1):
        run = Run(method, "momentum", seed=seed)
        for step in range(1, STEPS + 1):
            run.step(step)
        ends.append(run)
    one, same, other = (run.snapshot() for run in ends)
    assert_same_bits(one, same)
    draws = not torch.equal(ends[0].sparsifier.state_dict()["generator"], stream(0, "grow").get_state())
    assert all(map(torch.equal, one, other)) == (not draws)
    if method.startswith(("set", "rigl")):
        assert draws == method.startswith("set")


@every_method
@every_optimizer
def test_save_load_and_go_on_is_never_having_stopped(method: str, optimizer_name: str) -> None:
    """Stopped at 5: past updates that moved masks, and one step before the next one for SNFS's running mean."""
    through = Run(method, optimizer_name)
    for step in range(1, 6):
        through.step(step)
    file = io.BytesIO()
    parts = {"model": through.model, "optimizer": through.optimizer, "sparsifier": through.sparsifier}
    torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    for step in range(6, STEPS + 1):
        through.step(step)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Run(method, optimizer_name, seed=1)
    for name in ("model", "optimizer", "sparsifier"):
        getattr(resumed, name).load_state_dict(saved[name])
    resumed.sparsifier.check()
    for step in range(6, STEPS + 1):
        resumed.step(step)
    assert_same_bits(through.snapshot(), resumed.snapshot())
    assert resumed.sparsifier.step_count == STEPS


@pytest.mark.parametrize("method", MOVING)
def test_drop_fraction_zero_moves_nothing(method: str) -> None:
    still = "static" if block_of(method) == (1, 1) else "static in blocks"
    run, static = Run(method, "momentum", drop_fraction=0.0), Run(still, "momentum")
    updates = []
    run.sparsifier.after_update.append(lambda step, changes: updates.append(step))
    for step in range(1, STEPS + 1):
        run.step(step)
        static.step(step)
    assert updates == [3, 6, 9, 12]
    assert_same_bits(run.snapshot(), static.snapshot())


@every_optimizer
def test_density_one_is_dense_training_bit_for_bit(optimizer_name: str) -> None:
    dense, sparse = tiny_model(), tiny_model()
    optimizers = [OPTIMIZERS[optimizer_name](model.parameters()) for model in (dense, sparse)]
    sf.Sparsifier(sparse, optimizers[1], sf.dense_masks(sparse), sf.Static(), seed=0)
    for step in range(1, STEPS + 1):
        train_step(dense, optimizers[0], step)
        train_step(sparse, optimizers[1], step)
    assert_same_bits(snapshot(dense, optimizers[0]), snapshot(sparse, optimizers[1]))


@every_method
@every_optimizer
def test_a_masked_step_is_mask_gradient_step_mask_weight_and_state(method: str, optimizer_name: str) -> None:
    """Oracle: a loop that masks by hand before and after each step; only *which* weights move is given."""
    run = Run(method, optimizer_name)
    oracle = tiny_model()
    optimizer = OPTIMIZERS[optimizer_name](oracle.parameters())
    weights = {name: oracle.get_parameter(name) for name in SIZES}

    def mask_all(masks: dict[str, Tensor]) -> None:
        for name, mask in masks.items():
            weights[name].data.mul_(mask)
            for state in states(optimizer, weights[name]):
                state[~mask] = FRESH.get(optimizer_name, 0)

    masks = run.masks()
    mask_all(masks)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss_of(oracle, step).backward()
        for name, mask in masks.items():
            weights[name].grad.mul_(mask)
        optimizer.step()
        mask_all(masks)
        run.step(step)
        masks = run.masks()
        mask_all(masks)
        assert_same_bits(snapshot(run.model, run.optimizer), snapshot(oracle, optimizer))


def test_settings_are_read_as_the_rows_say() -> None:
    """Guard of this file: drop-and-grow rows are ``DropGrow`` with a learning-rate schedule, constant here."""
    for method in MOVING:
        made = method_of(method)
        assert isinstance(made, DropGrow)
        assert [step for step in range(STEPS) if made.due(step)] == [3, 6, 9, 12]
        assert made.num_drop(144, step=3, learning_rate_ratio=1.0) == 43
