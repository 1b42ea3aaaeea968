"""The cover of a layer that is nearly dense: blocks of four outputs that hold its weights and, between them, zeros.

The kernels of blocks read one index for four weights and no table of the transposed pattern, so they are faster than
those of single weights although they multiply the zeros too. A cover is for computing only: values, gradients, tables
that are saved, masks and the optimizer's state remain those of the single weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.engine.kernels.compiling import kernel
from sparseflow.engine.layers.geometry import CACHE
from sparseflow.engine.layers.memory import shared_pool
from sparseflow.engine.layers.pattern import BLOCK, Indices, Pattern

Floats = NDArray[Any]
#: Bytes of an activation that are neighbours for a kernel: between the first two, tiles of the kernels of single
#: weights are not the widest; from the third on it does not count that a cover is filled. Elsewhere none is faster.
_FEW, _WIDE, LONG = 64, 512, 1024
#: Weights of a cover for each active weight, at most: in narrow tiles that meet many weights, and in long activations.
#: As measured, see docs/performance.md.
_MOST_NARROW, _MOST = 2.0, 1.25
#: Density below which no cover is looked for.
_LEAST = 0.25


class Cover(NamedTuple):
    """The blocks that hold a pattern's weights.

    >>> cover = cover_of(Pattern.of(torch.tensor([[True, False, True]] * 3 + [[False, False, True]])))
    >>> cover.pattern.mask().sum().item(), cover.places.tolist()
    (8, [0, 1, 2, 3, 4, 5, 7])
    >>> cover.spread(torch.arange(1.0, 8.0)).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 7.0]
    >>> cover.gathered(torch.arange(8.0)).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0]
    """

    pattern: Pattern
    """In blocks."""
    begins: Indices
    """int32 ``(outputs + 1,)``: those of the single weights."""
    places: Indices
    """int32 ``(nonzeros,)``: where each single weight is among the values of the blocks."""

    def spread(self, values: Tensor) -> Tensor:
        """The values of the blocks from those of the single weights, with zeros between."""
        out = shared_pool().empty(self.pattern.num_active, values.dtype)
        _spread(values.detach().numpy(), self.begins, self.places, self.pattern.begins, out.numpy())
        return out

    def gathered(self, gradient: Tensor) -> Tensor:
        """The gradient of the single weights from that of the blocks."""
        out = torch.empty(len(self.places), dtype=gradient.dtype)
        _gather(gradient.numpy(), self.places, out.numpy())
        return out


def cover_of(pattern: Pattern) -> Cover:
    """The blocks that have at least one of a pattern's single weights; four must divide the outputs of a group."""
    size, rows = math.prod(pattern.shape[1:]), pattern.rows
    above, within = np.divmod(rows, BLOCK)
    keys = above.astype(np.int64) * size + pattern.indices
    met = np.zeros(pattern.outputs // BLOCK * size, bool)
    met[keys] = True
    found = np.flatnonzero(met)
    begins = np.searchsorted(found, np.arange(pattern.outputs // BLOCK + 1) * size).astype(np.int32)
    blocks = Pattern(pattern.shape, begins, (found % size).astype(np.int32), pattern.groups, BLOCK)
    # The number of a weight's block among all blocks, and its place by what Pattern says.
    numbers = np.cumsum(met, dtype=np.int32)[keys] - 1
    begin, end = begins[above], begins[above + 1]
    places = (BLOCK - 1) * begin + within * (end - begin) + numbers
    return Cover(blocks, pattern.begins, places.astype(np.int32, copy=False))


#: Those in use: what computes with a pattern, at several sizes of input, has one.
_covers: WeakKeyDictionary[Pattern, Cover] = WeakKeyDictionary()


def cover_if_faster(pattern: Pattern, length: int, itemsize: int) -> Cover | None:
    """The cover of a pattern of single weights, where computing with it is faster.

    Args:
        length: Numbers of an activation that are neighbours for a kernel: the batch, or a row of pixels of a batch.
        itemsize: Bytes of a number.
    """
    has_blocks = pattern.block == 1 and pattern.outputs // pattern.groups % BLOCK == 0
    # Each tile meets the values and their gradients in another order than they lie; that costs where they are many.
    narrow = _FEW <= length * itemsize < _WIDE and 2 * pattern.num_active * itemsize > CACHE
    # Blocks seldom cover a sparse pattern well, and to find out takes memory of the size of the dense weight.
    is_sparse = pattern.num_active < _LEAST * math.prod(pattern.shape)
    if not has_blocks or is_sparse or not (narrow or length * itemsize >= LONG):
        return None
    cover = _covers.get(pattern) or cover_of(pattern)
    if cover.pattern.num_active > (_MOST_NARROW if narrow else _MOST) * pattern.num_active:
        return None
    _covers[pattern] = cover
    return cover


class Covers(NamedTuple):
    """Those of several parameters that one vector holds for computing; ``None`` where there is none, as for biases."""

    covers: tuple[Cover | None, ...]
    sizes: tuple[int, ...]
    """Numbers of each parameter in the vector."""

    @classmethod
    def of(cls, covers: Iterable[Cover | None], sizes: Iterable[int]) -> Covers:
        """``sizes`` are those of the parameters, in the same order."""
        each = tuple(covers)
        pairs = zip(each, sizes, strict=True)
        return cls(each, tuple(size if cover is None else cover.pattern.num_active for cover, size in pairs))

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(cover is not None for cover in self.covers)

    @property
    def begins(self) -> list[int]:
        """Where each parameter begins in the vector, and the vector's end."""
        return list(accumulate(self.sizes, initial=0))

    def spread(self, parameters: Iterable[Tensor]) -> Tensor:
        """The vector."""
        pairs = zip(parameters, self.covers, strict=True)
        return torch.cat([each.detach() if cover is None else cover.spread(each) for each, cover in pairs])

    def gathered(self, gradient: Tensor) -> list[Tensor]:
        """The gradients of the parameters, from that of the vector."""
        pairs = zip(gradient.split(self.sizes), self.covers, strict=True)
        return [each if cover is None else cover.gathered(each) for each, cover in pairs]


@kernel
def _spread(values: Floats, begins: Indices, places: Indices, rows: Indices, out: Floats) -> None:
    for o in range(rows.shape[0] - 1):  # row by row, which the first-level cache holds
        out[BLOCK * rows[o] : BLOCK * rows[o + 1]] = 0
        for k in range(begins[BLOCK * o], begins[BLOCK * (o + 1)]):
            out[places[k]] = values[k]


@kernel
def _gather(gradient: Floats, places: Indices, out: Floats) -> None:
    for k in range(places.shape[0]):
        out[k] = gradient[places[k]]
