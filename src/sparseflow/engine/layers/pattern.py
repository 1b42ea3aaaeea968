"""The positions of a layer's active weights, and the tables of them that the kernels read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.engine.kernels.compiling import kernel
from sparseflow.engine.kernels.simd import prefetch

Indices = NDArray[np.int32]
#: Nonzeros and columns are counted in int32.
_LARGEST = 2**31 - 1
#: Outputs of a block: four sums of a column fill a CPU's vector registers.
BLOCK = 4


@dataclass(frozen=True, eq=False)
class Pattern:
    """The positions of a layer's active weights, in the order of the flattened dense weight.

    A mask whose outputs come in equal fours, as ``block=(4, 1)`` makes it, is stored with one index for the four
    weights of a block; :meth:`of` and :meth:`at` find that out by themselves. With m blocks in block row ``o``, the
    value of block ``k`` and row ``j`` is then number ``4 * begins[o] + j * m + k``.

    Args:
        shape: Of the dense weight, ``(out, in / groups, *kernel)``.
        groups: Of a grouped convolution.
        block: Outputs that share an index: 1 or 4.
        begins: int32 ``(out / block + 1,)``: the indices of outputs [block * o, block * (o + 1)) are
            [begins[o], begins[o + 1]).
        indices: int32 ``(nonzeros / block,)``: position within the output's own ``in / groups * kernel`` weights,
            ascending.

    >>> pattern = Pattern.of(torch.tensor([[True, False, True], [False, False, True]]))
    >>> pattern.begins.tolist(), pattern.indices.tolist(), pattern.mask().sum().item()
    ([0, 2, 3], [0, 2, 2], 3)
    >>> blocks = Pattern.of(torch.tensor([[True, False, True]] * 4))
    >>> blocks.block, blocks.begins.tolist(), blocks.indices.tolist(), blocks.num_active
    (4, [0, 2], [0, 2], 8)
    """

    shape: tuple[int, ...]
    begins: Indices
    indices: Indices
    groups: int = 1
    block: int = 1

    @classmethod
    def of(cls, mask: Tensor, *, groups: int = 1) -> Pattern:
        """The pattern of a bool mask of at least two axes."""
        flat = mask.detach().cpu().reshape(mask.shape[0], -1)
        rows, columns = (index.numpy() for index in flat.nonzero(as_tuple=True))
        begins = np.zeros(mask.shape[0] + 1, np.int32)
        np.cumsum(np.bincount(rows, minlength=mask.shape[0]), out=begins[1:])
        return cls(tuple(mask.shape), begins, columns.astype(np.int32), groups)._in_blocks()

    @classmethod
    def at(cls, positions: Tensor, shape: tuple[int, ...], *, groups: int = 1, block: int = 1) -> Pattern:
        """The pattern of flat positions in the dense weight, int64.

        With a ``block`` of 4, positions are those of blocks: :meth:`places`.

        Raises:
            ValueError: if they are not ascending, repeat, or are outside the weight, or if blocks do not divide it.
        """
        if block not in (1, BLOCK) or shape[0] % block:
            raise ValueError(
                f"blocks of {block} outputs do not divide {shape[0]} outputs, or are neither 1 nor {BLOCK}."
            )
        flat, rows, row_size = (
            positions.cpu().numpy().astype(np.int64, copy=False),
            shape[0] // block,
            math.prod(shape[1:]),
        )
        if len(flat) and (flat[0] < 0 or flat[-1] >= rows * row_size or bool((np.diff(flat) <= 0).any())):
            raise ValueError(
                f"positions of active weights must ascend without repetition within [0, {rows * row_size}), the size "
                f"of a weight of shape {(rows, *shape[1:])}. Sort them with torch.unique."
            )
        begins = np.searchsorted(flat, np.arange(rows + 1, dtype=np.int64) * row_size).astype(np.int32)
        found = cls(tuple(shape), begins, (flat % row_size).astype(np.int32), groups, block)
        return found._in_blocks() if block == 1 or shape[0] // groups % block else found

    def __post_init__(self) -> None:
        if self.num_active > _LARGEST or math.prod(self.shape[1:]) > _LARGEST:
            raise ValueError(f"a layer may have at most {_LARGEST} active weights, and as many weights per output.")

    @property
    def num_active(self) -> int:
        """Number of active weights."""
        return len(self.indices) * self.block

    @property
    def outputs(self) -> int:
        """Number of output units or channels."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Number of input units or channels, of all groups."""
        return self.shape[1] * self.groups

    @property
    def block_rows(self) -> Indices:
        """The block row of each index, int32, which is its output where ``block`` is 1; made anew at each call."""
        return np.repeat(np.arange(self.outputs // self.block, dtype=np.int32), np.diff(self.begins))

    @property
    def rows(self) -> Indices:
        """The output of each nonzero, int32; made anew, for it is as large as the indices."""
        return np.repeat(np.arange(self.outputs, dtype=np.int32), np.repeat(np.diff(self.begins), self.block))

    def one_by_one(self) -> Pattern:
        """The same positions with an index for each nonzero; made anew."""
        if self.block == 1:
            return self
        counts = np.repeat(np.diff(self.begins), self.block)
        begins = np.zeros(self.outputs + 1, np.int32)
        np.cumsum(counts, out=begins[1:])
        shift = np.repeat(np.repeat(self.begins[:-1], self.block) - begins[:-1], counts)
        return Pattern(self.shape, begins, self.indices[np.arange(begins[-1]) + shift], self.groups)

    def _in_blocks(self) -> Pattern:
        """This pattern with an index for each block, if it consists of blocks within its groups."""
        flat = self.one_by_one()
        if self.outputs % BLOCK or self.outputs // self.groups % BLOCK:
            return flat
        counts = np.diff(flat.begins).reshape(-1, BLOCK)
        if (counts != counts[:, :1]).any():
            return flat
        begins = np.zeros(len(counts) + 1, np.int32)
        np.cumsum(counts[:, 0], out=begins[1:])
        found = Pattern(self.shape, begins, flat.indices[flat.rows % BLOCK == 0], self.groups, BLOCK)
        return found if np.array_equal(found.one_by_one().indices, flat.indices) else flat

    def places(self) -> Tensor:
        """Flat position of each index, int64, ascending, in a weight that has one row for each row of blocks."""
        return torch.from_numpy(self.block_rows.astype(np.int64) * math.prod(self.shape[1:]) + self.indices)

    def positions(self) -> Tensor:
        """Flat position of each nonzero in the dense weight, int64, ascending."""
        return self.one_by_one().places()

    def mask(self) -> Tensor:
        """bool, of the dense weight's shape."""
        return (
            torch.zeros(math.prod(self.shape), dtype=torch.bool).index_fill_(0, self.positions(), True).view(self.shape)
        )

    def gather(self, dense: Tensor) -> Tensor:
        """The active entries of a dense tensor, ``(nonzeros,)``."""
        return dense.reshape(-1).index_select(0, self.positions())

    def scatter(self, values: Tensor) -> Tensor:
        """The dense tensor with these active entries and zeros."""
        dense = torch.zeros(math.prod(self.shape), dtype=values.dtype)
        return dense.index_copy_(0, self.positions(), values.detach()).view(self.shape)


@dataclass(frozen=True, eq=False)
class Table:
    """A pattern as the kernels read it: the nonzeros of each output, in blocks of columns that fit in the cache.

    Args:
        begins, ends: int32 ``(blocks, outputs)``; views of one array where they can be.
        columns: Per nonzero: where its row of the input begins, over the pitch; int32, or int16 where that is enough.
        order: int32 per nonzero: which of the layer's values it multiplies; ``None`` for their own order.
        height: Columns of a block, if it has several blocks.

    In the table of a pattern in blocks, an output stands for a row of blocks, and a nonzero for a block.
    """

    begins: Indices
    ends: Indices
    columns: NDArray[Any]
    order: Indices | None = None
    height: int = 0

    @property
    def outputs(self) -> int:
        """Number of outputs, or of rows of blocks of them."""
        return int(self.begins.shape[1])

    @property
    def edges(self) -> NDArray[np.int64]:
        """``(outputs + 1,)``: indices of the outputs before each; made anew at each call."""
        counts = (self.ends - self.begins).sum(axis=0, dtype=np.int64)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def cuts(self, ranges: int) -> NDArray[np.int64]:
        """``(ranges + 1,)``: edges of ranges of outputs with about the same number of nonzeros each."""
        if ranges not in self._cuts:
            # An output without nonzeros is work too: it is written.
            load = self.edges + np.arange(self.outputs + 1)
            inner = np.searchsorted(load, load[-1] * np.arange(1, ranges) / ranges)
            self._cuts[ranges] = np.array([0, *inner, self.outputs], np.int64)
        return self._cuts[ranges]

    @cached_property
    def _cuts(self) -> dict[int, NDArray[np.int64]]:
        return {}

    @cached_property
    def short_columns(self) -> NDArray[Any]:
        """The columns in 16 bits where they fit: at batch 1 the time is that of reading them."""
        fits = len(self.columns) == 0 or self.columns.max() < 2**16
        return self.columns.astype(np.uint16) if fits else self.columns

    def values(self, values: NDArray[Any]) -> NDArray[Any]:
        """The layer's values in the order of the table."""
        if self.order is None:
            return values
        ordered = np.empty(len(self.order), values.dtype)
        _take(values, self.order, ordered)
        return ordered


#: Values ahead of which memory is asked for.
_AHEAD = 64


@kernel
def _take(values: NDArray[Any], order: Indices, out: NDArray[Any]) -> None:
    # NumPy would convert the order to 64 bits first, and wait for every line.
    whole = max(0, order.shape[0] - _AHEAD)
    for k in range(whole):
        prefetch(values, np.int64(order[k + _AHEAD]))
        out[k] = values[order[k]]
    for k in range(whole, order.shape[0]):
        out[k] = values[order[k]]


@kernel
def _transpose(key: NDArray[Any], counts: NDArray[np.int64], order: Indices) -> None:
    # A counting sort keeps the order of equal keys, so sums are made in a fixed order.
    for k in range(key.shape[0]):
        order[counts[key[k]]] = k
        counts[key[k]] += 1


def sorted_by(key: NDArray[Any], size: int) -> tuple[Indices, Indices]:
    """Begins ``(size + 1,)`` of each key in [0, size) in sorted order, and the stable order that sorts by key."""
    begins = np.zeros(size + 1, np.int64)
    np.cumsum(np.bincount(key, minlength=size), out=begins[1:])
    order = np.empty(len(key), np.int32)
    _transpose(key, begins[:-1].copy(), order)
    return begins.astype(np.int32), order


def transposed(rows: Indices, inputs: Indices, *, num_inputs: int, num_rows: int, block: int) -> Table:
    """The table of the transposed pattern: for each input, the outputs that it feeds.

    It is stored block after block of outputs, so that a pass over one reads and orders the values of few rows.

    Args:
        rows, inputs: int32, per nonzero: its output and its input.
        block: Outputs of a block.
    """
    blocks = -(-num_rows // block) if num_rows > 2 * block else 1
    key = inputs if blocks == 1 else (rows // block).astype(np.int64) * num_inputs + inputs
    begins, order = sorted_by(key, blocks * num_inputs)
    starts, stops = begins[:-1].reshape(blocks, num_inputs), begins[1:].reshape(blocks, num_inputs)
    columns = rows[order].astype(np.int16 if num_rows < 2**15 else np.int32)
    return Table(starts, stops, columns, order, block if blocks > 1 else 0)


def in_blocks(begins: Indices, columns: Indices, order: Indices | None, *, num_columns: int, block: int) -> Table:
    """A table whose columns ascend within an output, cut into blocks of ``block`` columns."""
    edges = np.arange(0, num_columns, block) if num_columns > 2 * block else np.zeros(1, np.int64)
    if len(edges) == 1:
        return Table(begins[None, :-1], begins[None, 1:], columns, order)
    cuts = np.empty((len(edges) + 1, len(begins) - 1), np.int32)
    cuts[-1] = begins[1:]
    _cut(begins, columns, edges.astype(np.int32), cuts)
    return Table(cuts[:-1], cuts[1:], columns, order)


@kernel
def _cut(begins: Indices, columns: Indices, edges: Indices, cuts: NDArray[np.int32]) -> None:
    for row in range(begins.shape[0] - 1):
        k = begins[row]
        for b in range(edges.shape[0]):
            while k < begins[row + 1] and columns[k] < edges[b]:
                k += 1
            cuts[b, row] = k
