"""Where active weights are: against the mask itself, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.engine.layers.geometry import CACHE, Frame, Window, forward_table
from sparseflow.engine.layers.pattern import Pattern, in_blocks, sorted_by, transposed
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


def block_mask(shape: tuple[int, ...], density: float, *, seed: int = 0) -> torch.Tensor:
    """A mask of the shape whose outputs come in equal fours."""
    return random_mask((shape[0] // 4, *shape[1:]), density, seed=seed).repeat_interleave(4, dim=0)


@pytest.mark.parametrize(("shape", "groups"), [((4, 1), 1), ((8, 5), 1), ((12, 2, 3), 1), ((8, 2, 3, 2), 2)])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_a_mask_of_blocks_has_one_index_a_block(shape: tuple[int, ...], groups: int, density: float) -> None:
    mask = block_mask(shape, density)
    weight = torch.randn(shape, generator=stream(0, "weight")) * mask
    for pattern in (Pattern.of(mask, groups=groups), Pattern.at(mask.flatten().nonzero().flatten(), shape)):
        assert pattern.block == 4
        assert len(pattern.begins) == shape[0] // 4 + 1
        assert 4 * len(pattern.indices) == pattern.num_active == int(mask.sum())
        assert torch.equal(pattern.mask(), mask)
        assert torch.equal(pattern.positions(), mask.flatten().nonzero().flatten())
        assert torch.equal(pattern.gather(weight), weight[mask])
        assert torch.equal(pattern.scatter(weight[mask]), weight)
        assert pattern.rows.tolist() == [int(row) for row in mask.reshape(shape[0], -1).nonzero()[:, 0]]
        assert pattern.one_by_one().indices.tolist() == mask.reshape(shape[0], -1).nonzero()[:, 1].tolist()


def test_values_of_a_block_row_are_four_streams() -> None:
    """The order that the kernels rely on: value of block k and row j of block row o, at 4 begins[o] + j m + k."""
    mask = block_mask((8, 6), 0.6)
    weight = torch.arange(48.0).view(8, 6)
    pattern = Pattern.of(mask)
    values = pattern.gather(weight)
    for row, (begin, end) in enumerate(zip(pattern.begins[:-1], pattern.begins[1:], strict=True)):
        for k, column in enumerate(pattern.indices[begin:end]):
            for j in range(4):
                assert values[4 * begin + j * (end - begin) + k] == weight[4 * row + j, column]


@pytest.mark.parametrize("change", ["another column", "one fewer", "outputs that four does not divide", "a group of 2"])
def test_a_mask_that_is_no_blocks_has_one_index_a_nonzero(change: str) -> None:
    mask, groups = block_mask((8, 6), 0.5, seed=1), 1
    if change == "another column":
        mask[2] = mask[2].roll(1)
    elif change == "one fewer":
        mask[5, mask[5].nonzero()[0]] = False
    elif change == "outputs that four does not divide":
        mask = mask[:6]
    else:
        groups = 4  # two outputs each: rows of a four read other inputs
    pattern = Pattern.of(mask, groups=groups)
    assert pattern.block == 1
    assert torch.equal(pattern.mask(), mask)


def test_begins_and_ends_are_views_of_one_array() -> None:
    pattern = Pattern.of(random_mask((6, 9), 0.4))
    table = forward_table(pattern, Window(), Frame((1, 1), 2))
    assert table.columns is pattern.indices
    assert np.shares_memory(table.begins, pattern.begins)
    assert np.shares_memory(table.ends, pattern.begins)
    back = transposed(pattern.rows, pattern.indices, num_inputs=9, num_rows=6, block=2)
    assert np.shares_memory(back.begins, back.ends)


@pytest.mark.parametrize(
    "positions", [[1, 0], [2, 2], [-1, 3], [0, 6]], ids=["unsorted", "repeated", "negative", "beyond"]
)
def test_positions_that_are_none_are_refused(positions: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must ascend without repetition within \[0, 6\).*torch.unique"):
        Pattern.at(torch.tensor(positions), (2, 3))


def test_places_of_blocks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 4 outputs do not divide 6 outputs"):
        Pattern.at(torch.tensor([0]), (6, 3), block=4)


def test_places_of_blocks_across_groups_become_positions_one_by_one() -> None:
    pattern = Pattern.at(torch.tensor([0, 2]), (4, 3), groups=2, block=4)
    assert pattern.block == 1
    assert pattern.positions().tolist() == [0, 2, 3, 5, 6, 8, 9, 11]


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
