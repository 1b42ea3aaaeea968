"""The table of methods against the table of promises, under every elementwise optimizer with weight decay.

A method with a row in ``sparseflow.training.names`` is held to the promises of the library by everything here.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import sparseflow as sf
from makers import CASES, MAKERS, MOVING, PRUNING, SETTINGS, SINGLE, block_of, block_size, masks_of, method_of
from sparseflow.methods import UpdateSchedule
from sparseflow.rng import stream
from sparseflow.testing import PROMISES, Trial
from tiny import FRESH, OPTIMIZERS, assert_same_bits, snapshot, tiny_model, train_step

STEPS = 13
#: Active weights at sparsity 0.7: 27 * 0.3 = 8.1, 480 * 0.3 and 40 * 0.3.
ACTIVE = {"0.weight": 8, "3.weight": 144, "5.weight": 12}
#: The same in blocks of 3, 8 and 4 weights: 9 * 0.3 = 2.7, 60 * 0.3 and 10 * 0.3 of them.
ACTIVE_IN_BLOCKS = {"0.weight": 9, "3.weight": 144, "5.weight": 12}

#: The same with one fan-in for all units: 2.7 of 9 columns, 14.4 of 48 and 3 of 10.
ACTIVE_OF_UNITS = {"0.weight": 3 * 3, "3.weight": 10 * 14, "5.weight": 4 * 3}

every_method = pytest.mark.parametrize("method", CASES)
every_optimizer = pytest.mark.parametrize("optimizer_name", OPTIMIZERS)


class Run:
    """A model, its optimizer and its Sparsifier, at step 0."""

    def __init__(
        self, method: str, optimizer_name: str, *, seed: int = 0, begins_as: str | None = None, **changed: Any
    ) -> None:
        self.model = tiny_model()
        self.optimizer = OPTIMIZERS[optimizer_name](self.model.parameters())
        masks = masks_of(begins_as or method, self.model)
        self.sparsifier = sf.Sparsifier(self.model, self.optimizer, masks, method_of(method, **changed), seed=seed)

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
    if method.startswith("top_kast"):
        together = block_size(method, name)
        return together * round(size // together * (Fraction(1, 2) if step < 12 else Fraction(3, 10)))
    if method == "sr_ste":
        return size if step < 9 else expected_n_of_m(size, Fraction(0))
    is_dense = method.startswith("acdc") and step in (0, 1, 4, 5, 8)
    if method not in PRUNING or (method.startswith("acdc") and not is_dense):
        held = (ACTIVE if block_of(method) == (1, 1) else ACTIVE_IN_BLOCKS)[name]
        if method == "srigl":
            return ACTIVE_OF_UNITS[name]
        if method.startswith("mest_soft") and 3 <= step < 12:  # 0.3 of them grow first, from three quarters on half
            more = int(held * Fraction(3, 10) / (1 if step < 9 else 2))
            held += more - more % block_size(method, name)
        return held
    if is_dense:
        return size
    updates = [4] if method.startswith("one_shot") else [2, 5, 8, 10]
    if step < updates[0]:
        return size
    last = max(update for update in updates if update <= step)
    if method == "n_of_m":
        return expected_n_of_m(size, Fraction(10 - last, 8))
    remaining = Fraction(10 - last, 8) if method.startswith(("prune", "granet")) else Fraction(0)
    together = block_size(method, name)
    return together * max(1, round(size // together * (1 - Fraction(7, 10) * (1 - remaining**3))))


def expected_n_of_m(size: int, remaining: Fraction) -> int:
    """3 of the 9 columns of 3 units (2.7), 3 of every 10 of 4 units, 14 of the 48 of 10 units (14.4), by the cubic."""
    units, groups, n, m = {27: (3, 1, 3, 9), 480: (10, 1, 14, 48), 40: (4, 1, 3, 10)}[size]
    return units * groups * max(n, round(m * (1 - (1 - Fraction(n, m)) * (1 - remaining**3))))


#: Promises that do not depend on the optimizer.
ONCE = {
    "counts are exact",
    "masks stay in their places",
    "inputs stay unchanged",
    "same seed, same masks",
    "blocks are kept",
}


def trial_of(method: str, optimizer_name: str) -> Trial:
    return Trial(
        make=lambda: method_of(method),
        optimizer=OPTIMIZERS[optimizer_name],
        fresh=FRESH.get(optimizer_name, 0.0),
        starts_dense=method in PRUNING,
        masks=(lambda model: masks_of(method, model)) if method in SINGLE else None,
        active=lambda name, size, step: expected_active(method, size, name, step),
        moves=not method.startswith("static"),
        block=block_of(method),
    )


@every_method
@pytest.mark.parametrize(
    ("promise", "optimizer_name"),
    [(promise, name) for promise in PROMISES for name in (["momentum"] if promise in ONCE else OPTIMIZERS)],
)
@pytest.mark.status("masked")
def test_every_method_keeps_every_promise(method: str, promise: str, optimizer_name: str) -> None:
    PROMISES[promise](trial_of(method, optimizer_name))


@every_method
def test_only_methods_that_draw_depend_on_the_seed(method: str) -> None:
    """Another seed changes the bits of those methods, and only those, that draw."""
    ends = []
    for seed in (0, 1):
        run = Run(method, "momentum", seed=seed)
        for step in range(1, STEPS + 1):
            run.step(step)
        ends.append(run)
    one, other = (run.snapshot() for run in ends)
    draws = not torch.equal(ends[0].sparsifier.state_dict()["generator"], stream(0, "grow").get_state())
    assert all(map(torch.equal, one, other)) == (not draws)
    if method.startswith(("set", "rigl")):
        assert draws == method.startswith("set")


@pytest.mark.parametrize("method", MOVING)
def test_drop_fraction_zero_moves_nothing(method: str) -> None:
    still = "static" if block_of(method) == (1, 1) else "static in blocks"
    run, static = Run(method, "momentum", drop_fraction=0.0), Run(still, "momentum", begins_as=method)
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


def test_settings_are_read_as_the_rows_say() -> None:
    """Guard of this file: rows that exchange weights have a learning-rate schedule, constant here."""
    for method in MOVING:
        made = method_of(method)
        assert [step for step in range(STEPS) if made.due(step)] == [3, 6, 9, 12]
        assert isinstance(made, UpdateSchedule)
        assert made.num_drop(144, step=3, learning_rate_ratio=1.0) == 43
