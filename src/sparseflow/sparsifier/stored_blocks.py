"""The blocks of a weight that is stored as its active values alone: their scores, and the way between them and values.

The values of a row of blocks lie in the order of the flattened weight: those of the first output for all of the row's
blocks, then those of the second, and so on. Where a block's values are follows from the number of blocks in its row.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from sparseflow.masks.blocks import BlockGrid


class StoredBlocks:
    """The active blocks of stored positions that are made of blocks.

    Args:
        grid: Of a weight whose first axis are its outputs.
        positions: int64, ascending: places of the active weights in the flattened weight.

    >>> from sparseflow.masks.blocks import Block
    >>> grid = BlockGrid(Block(2, 1), (4, 3))
    >>> blocks = StoredBlocks(grid, torch.tensor([1, 2, 4, 5, 6, 9]))
    >>> blocks.numbers, blocks.sums(torch.tensor([1.0, 2.0, 10.0, 20.0, 5.0, 6.0]))
    (tensor([1, 2, 3]), tensor([11., 22., 11.]))
    """

    def __init__(self, grid: BlockGrid, positions: Tensor) -> None:
        self.grid = grid
        rows, columns = row_and_column_count(grid)
        outputs, inputs = grid.block
        row_size = columns * inputs
        in_row = torch.bincount(positions // (outputs * row_size), minlength=rows) // grid.size
        self._rows, self._first, self._stride = _places(in_row, grid)
        self.numbers = self._rows * columns + positions[self._first] % row_size // inputs
        """int64, ascending: places of the active blocks in the flattened grid."""

    def sums(self, scores: Tensor) -> Tensor:
        """The score of each block, of its values' scores; in the order of :meth:`BlockGrid.sums`."""
        scores = scores if scores.dtype.itemsize > 2 else scores.float()
        outputs, inputs = self.grid.block
        columns = []
        for j in range(inputs):
            columns.append(scores[self._first + j])
            for i in range(1, outputs):
                columns[j] += scores[self._first + (i * self._stride + j)]
        for column in columns[1:]:
            columns[0] += column
        return columns[0]


def positions_of(grid: BlockGrid, numbers: Tensor) -> Tensor:
    """The positions, int64 and ascending, of the weights of these blocks; the inverse of :class:`StoredBlocks`.

    Args:
        numbers: int64, ascending: places in the flattened grid.

    >>> from sparseflow.masks.blocks import Block
    >>> positions_of(BlockGrid(Block(2, 1), (4, 3)), torch.tensor([1, 2, 3]))
    tensor([1, 2, 4, 5, 6, 9])
    """
    row_count, columns = row_and_column_count(grid)
    outputs, inputs = grid.block
    row = numbers // columns
    rows, first, stride = _places(torch.bincount(row, minlength=row_count), grid)
    begin = rows * outputs * columns * inputs + numbers % columns * inputs
    positions = torch.empty(numbers.numel() * grid.size, dtype=torch.int64)
    for i, j in product(range(outputs), range(inputs)):
        positions[first + i * stride + j] = begin + i * columns * inputs + j
    return positions


def row_and_column_count(grid: BlockGrid) -> tuple[int, int]:
    """Rows of blocks, of all groups, and columns of blocks."""
    matrices, rows, columns = grid.grid_shape
    return matrices * rows, columns


def _places(in_row: Tensor, grid: BlockGrid) -> tuple[Tensor, Tensor, Tensor]:
    """The row of each block, where its first value is stored, and how far from one output's values to the next's."""
    rows = torch.arange(len(in_row)).repeat_interleave(in_row)
    begins = in_row.cumsum(0) - in_row
    inputs = grid.block.inputs
    first = begins[rows] * grid.size + (torch.arange(len(rows)) - begins[rows]) * inputs
    return rows, first, in_row[rows] * inputs
