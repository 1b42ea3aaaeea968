"""Memory that layers use again: places, alignment, and how much is kept."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.engine.layers.memory import Pool, shared_pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 1000, 65_537, 1_000_001])
def test_size_type_and_alignment(count: int, dtype: torch.dtype) -> None:
    tensor = Pool().empty(count, dtype)
    assert (tensor.shape, tensor.dtype) == ((count,), dtype)
    assert count * dtype.itemsize < 1 << 18 or tensor.data_ptr() % 64 == 0
    tensor.fill_(1.0)
    assert tensor.sum().item() == count


def test_what_is_in_use_is_never_given_out() -> None:
    pool = Pool()
    held = [pool.empty(100_000, torch.float32).fill_(i) for i in range(5)]
    view = held.pop().view(100, 1000)[3:5]
    del held[::2]
    again = [pool.empty(100_000, torch.float32).fill_(-1.0) for _ in range(5)]
    assert [t[0].item() for t in held] == [1.0, 3.0]
    assert (view == 4.0).all()
    assert len({t.data_ptr() for t in again}) == 5


def test_blocks_of_another_time_are_let_go() -> None:
    """The bytes kept are at most twice those once used, and one block."""
    pool = Pool()
    for size in range(100_000, 140_000, 1000):
        pool.empty(size, torch.float32)
        assert pool._free_bytes == sum(block.nbytes for blocks in pool._free.values() for block in blocks)
        assert pool._free_bytes <= 3 * 4 * 140_000 + 3 * 64


def test_the_pool_goes_with_the_last_model() -> None:
    gc.collect()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh())
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))
    out = sparse(torch.zeros(16, 3, 32, 32))
    pool = weakref.ref(shared_pool())
    assert pool() is not None
    assert pool() is shared_pool()
    del sparse, out
    gc.collect()
    assert pool() is None


def test_a_training_step_takes_no_new_memory_after_the_second() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Tanh())
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))
    x = torch.zeros(16, 3, 32, 32)
    places: list[set[int]] = []
    for _ in range(4):
        sparse(x).sum().backward()
        pool = shared_pool()
        places.append({block.ctypes.data for blocks in pool._free.values() for block in blocks})
    assert places[1]
    assert places[1] == places[2] == places[3]


def test_threads_share_a_pool() -> None:
    pool = Pool()

    def use(number: int) -> bool:
        for _ in range(200):
            tensor = pool.empty(70_000, torch.float32).fill_(number)
            if not (tensor == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(use, range(4)))
