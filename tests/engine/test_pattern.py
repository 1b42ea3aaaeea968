"""Where active weights are: against the mask itself, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.engine.layers.geometry import CACHE, Frame, Window, forward_table
from sparseflow.engine.layers.pattern import Pattern, in_blocks, sorted_by
from sparseflow.rng import stream

SHAPES = [(1, 1), (5, 3), (4, 2, 3), (6, 2, 3, 2), (3, 1, 1, 1)]


def random_mask(shape: tuple[int, ...], density: float, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=stream(seed, "mask")) < density


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_a_pattern_holds_exactly_the_active_entries(shape: tuple[int, ...], density: float) -> None:
    mask = random_mask(shape, density)
    weight = torch.randn(shape, generator=stream(0, "weight")) * mask
    pattern = Pattern.of(mask)
    assert torch.equal(pattern.mask(), mask)
    assert torch.equal(pattern.positions(), mask.flatten().nonzero().flatten())
    assert torch.equal(pattern.gather(weight), weight[mask])
    assert torch.equal(pattern.scatter(weight[mask]), weight)
    assert pattern.rows.tolist() == [int(row) for row in mask.reshape(shape[0], -1).nonzero()[:, 0]]


@pytest.mark.parametrize("shape", SHAPES)
def test_positions_give_the_pattern_back(shape: tuple[int, ...]) -> None:
    pattern = Pattern.of(random_mask(shape, 0.4))
    again = Pattern.at(pattern.positions(), shape)
    assert again.begins.tolist() == pattern.begins.tolist()
    assert again.indices.tolist() == pattern.indices.tolist()


@pytest.mark.parametrize(
    "positions", [[1, 0], [2, 2], [-1, 3], [0, 6]], ids=["unsorted", "repeated", "negative", "beyond"]
)
def test_positions_that_are_none_are_refused(positions: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must ascend without repetition within \[0, 6\).*torch.unique"):
        Pattern.at(torch.tensor(positions), (2, 3))


@given(st.lists(st.integers(0, 5), max_size=40))
def test_sorting_by_key_is_stable(keys: list[int]) -> None:
    begins, order = sorted_by(np.array(keys, np.int32), 6)
    assert order.tolist() == np.argsort(keys, kind="stable").tolist()
    assert begins.tolist() == np.searchsorted(np.sort(keys), np.arange(7)).tolist()


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_blocks_cut_every_output_at_the_same_columns(block: int) -> None:
    pattern = Pattern.of(random_mask((9, 20), 0.4))
    table = in_blocks(pattern.begins, pattern.indices, None, num_columns=20, block=block)
    found = []
    for row in range(9):
        for number, (begin, end) in enumerate(zip(table.begins[:, row], table.ends[:, row], strict=True)):
            columns = table.columns[begin:end].tolist()
            if len(table.begins) > 1:
                assert all(number * block <= column < (number + 1) * block for column in columns)
            found += [(row, column) for column in columns]
    assert found == list(zip(pattern.rows.tolist(), pattern.indices.tolist(), strict=True))
    assert table.edges.tolist() == pattern.begins.tolist()


def test_a_wide_layer_is_cut_into_blocks_that_fit_the_cache() -> None:
    pattern = Pattern.of(random_mask((2, 5000), 0.01))
    table = forward_table(pattern, Window(), Frame((1, 1), 128))
    assert len(table.begins) == -(-5000 // (CACHE // (128 * 4)))


def test_short_columns_are_16_bits_where_they_fit() -> None:
    pattern = Pattern.of(random_mask((2, 30), 0.5))
    table = forward_table(pattern, Window(), Frame((1, 1), 1))
    assert table.short_columns.dtype == np.uint16
    assert table.short_columns.tolist() == table.columns.tolist()
    wide = Pattern.at(torch.tensor([0, 70_000]), (1, 70_001))
    assert forward_table(wide, Window(), Frame((1, 1), 1)).short_columns.dtype == np.int32
