"""Which images a step sees: tables by hand, and one global batch for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparseflow.data import epoch_order, global_batch, rank_slices, uniforms
from sparseflow.data.draws import PURPOSE
from sparseflow.data.order import DatasetOrder, TrainingOrder, _order
from sparseflow.rng import stream


def test_the_order_of_an_epoch_is_its_streams_permutation() -> None:
    expected = torch.randperm(7, generator=stream(3, "data", 2))
    order = epoch_order(7, seed=3, epoch=2)
    assert torch.equal(order, expected)
    order.zero_()  # the caller's copy
    assert torch.equal(epoch_order(7, seed=3, epoch=2), expected)


def test_steps_cut_one_endless_stream() -> None:
    # 5 images, batches of 3: positions 0-2 | 3-5 | 6-8 | 9-11, epochs 00011 11122 2...
    first, second, third = (epoch_order(5, seed=0, epoch=epoch).tolist() for epoch in range(3))
    table = [
        ([0, 0, 0], first[0:3]),
        ([0, 0, 1], [*first[3:5], second[0]]),
        ([1, 1, 1], second[1:4]),
        ([1, 2, 2], [second[4], *third[0:2]]),
    ]
    for step, (epochs, indices) in enumerate(table):
        batch = global_batch(step, size=5, batch_size=3, seed=0)
        assert (batch.epochs.tolist(), batch.indices.tolist()) == (epochs, indices)


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    batch = global_batch(0, size=2, batch_size=5, seed=0)
    assert batch.epochs.tolist() == [0, 0, 1, 1, 2]
    assert sorted(batch.indices[:2].tolist()) == [0, 1]


def _indices(step: int, *, size: int, batch_size: int, seed: int) -> torch.Tensor:
    return global_batch(step, size=size, batch_size=batch_size, seed=seed).indices


def test_25_epochs_of_mnist_are_used_exactly() -> None:
    # 11719 * 128 = 25 * 60000 + 32: the paper's run.
    indices = [_indices(step, size=60000, batch_size=128, seed=3) for step in range(11719)]
    assert {len(batch) for batch in indices} == {128}
    used = torch.cat(indices)
    assert used[: 25 * 60000].bincount(minlength=60000).unique().tolist() == [25]
    assert used[:60000].unique().numel() == 60000


def test_each_epoch_has_its_own_order_and_each_seed_too() -> None:
    first, second = (_indices(step, size=50, batch_size=50, seed=0) for step in (0, 1))
    other = _indices(0, size=50, batch_size=50, seed=1)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(other.tolist()) == list(range(50))


def test_any_step_is_reached_directly() -> None:
    options = {"size": 37, "batch_size": 8, "seed": 5}
    in_order = [_indices(step, **options) for step in range(60)]
    _order.cache_clear()
    for step in (59, 4, 31, 5):
        assert torch.equal(_indices(step, **options), in_order[step])


def test_a_batch_may_span_several_epochs() -> None:
    batch = _indices(1, size=3, batch_size=7, seed=0)
    assert batch.bincount(minlength=3).sum() == 7
    both = torch.cat([_indices(0, size=3, batch_size=7, seed=0), batch])
    for epoch in range(4):
        assert sorted(both[3 * epoch : 3 * epoch + 3].tolist()) == [0, 1, 2]


def test_changing_a_batch_does_not_change_the_epoch() -> None:
    options = {"size": 10, "batch_size": 4, "seed": 0}
    before = _indices(0, **options).clone()
    _indices(0, **options).zero_()
    assert torch.equal(_indices(0, **options), before)


@pytest.mark.parametrize("wrong", [{"step": -1}, {"size": 0}, {"batch_size": 0}])
def test_impossible_batches_are_refused(wrong: dict[str, int]) -> None:
    options = {"step": 0, "size": 10, "batch_size": 2, "seed": 0} | wrong
    with pytest.raises(ValueError, match="must be at least 1; got"):
        _indices(options.pop("step"), **options)


def test_the_papers_epochs_are_the_papers_steps() -> None:
    # Protocol G.6: epoch 30 begins at step 9384, 70 at 21895, 90 at 28151 (batch 4096), rounded to whole steps.
    for epochs, step in ((5, 1564), (30, 9384), (70, 21895), (90, 28151)):
        position = step * 4096
        assert abs(position - epochs * 1_281_167) <= 4096


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_are_the_global_batch(world: int, accumulation: int) -> None:
    whole = global_batch(7, size=50, batch_size=8, seed=1)
    parts = [
        positions.indices
        for rank in range(world)
        for positions in TrainingOrder(
            50, 8, 1, 7, 8, rank_slices(8, rank=rank, world=world, accumulation=accumulation)
        )
    ]
    assert len(parts) == world * accumulation
    assert torch.equal(torch.cat(parts), whole.indices)


def test_every_image_once_in_the_order_of_the_dataset() -> None:
    assert [batch.indices.tolist() for batch in DatasetOrder(0, 5, 2)] == [[0, 1], [2, 3], [4]]
    assert list(DatasetOrder(3, 3, 2)) == []
    assert len(DatasetOrder(0, 5, 2)) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: global_batch(-1, size=5, batch_size=2, seed=0), "step must not be negative"),
        (lambda: global_batch(0, size=0, batch_size=2, seed=0), "got 0, 0 and 2"),
        (lambda: rank_slices(8, rank=2, world=2), r"rank must be in \[0, world\).*rank=2, world=2"),
        (lambda: rank_slices(8, rank=0, world=1, accumulation=0), "accumulation=0"),
        (lambda: rank_slices(8, rank=0, world=3), "batch_size=8 does not divide into 3 .* batch_size=6 does"),
    ],
)
def test_wrong_numbers(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("seed", [0, 5, -1, 2**70 + 3])
def test_draws_are_numpys_philox(seed: int) -> None:
    fresh = np.random.Philox(key=np.array([seed % 2**64, PURPOSE], dtype=np.uint64), counter=[0, 12, 4, 0])
    assert uniforms(seed, 4, 12, 23).tolist() == np.random.Generator(fresh).random(23).tolist()


def test_draws_look_uniform_and_independent_of_each_other() -> None:
    # 4000 images, 3 numbers each. False alarms: each of 6 z-scores beyond 5 with probability 6e-7.
    draws = np.array([uniforms(0, 0, index, 3) for index in range(4000)])
    z_mean = (draws.mean(axis=0) - 0.5) / np.sqrt(1 / 12 / 4000)
    centred = draws - 0.5
    neighbours = (centred[1:] * centred[:-1]).mean(axis=0) * 12 * np.sqrt(3999)
    assert np.abs(z_mean).max() < 5
    assert np.abs(neighbours).max() < 5
