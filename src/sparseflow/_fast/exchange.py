"""Choices of entries and exchanges of connections in large CPU tensors, compiled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from sparseflow._fast.bits import StagedMask, stage
from sparseflow._fast.memory import as_integers, count_true, in_memory_order, is_compiled, map_threads

_Key = TypeVar("_Key")
_Other = TypeVar("_Other")


class Magnitude(NamedTuple):
    """Scores that are the absolute values of a tensor: they are compared without being written to memory."""

    of: Tensor


class Exchange(NamedTuple):
    """The arguments of :func:`sparseflow.drop_and_grow` for one layer."""

    mask: Tensor
    num_active: int
    """Number of ``True`` entries of the mask."""
    drop_score: Tensor | Magnitude
    grow_score: Tensor | Magnitude
    num_drop: int
    num_grow: int
    regrow: bool

    def scores(self) -> tuple[Tensor, Tensor]:
        """Scores for dropping and for growing, written to memory."""
        return _written(self.drop_score), _written(self.grow_score)


def topk(flat: Tensor, k: int, among: Tensor | None, *, magnitude: bool) -> Tensor | None:
    """Mark the ``k`` largest scores on one axis, as :func:`sparseflow.masks.topk.topk_mask` does.

    Returns: the mask; ``None`` where the plain way must choose, or raise the error.
    """
    if flat.dtype != torch.float32 or not is_compiled(flat):
        return None
    n = flat.numel()
    num_candidates = n if among is None else count_true(among)
    if not 0 <= k <= num_candidates:
        return None
    import numpy

    from sparseflow._fast.choose import choose

    members = numpy.ones(n, numpy.uint8) if among is None else as_integers(among)
    mask = torch.empty(n, dtype=torch.bool)
    made = choose(as_integers(flat), k, members, numpy.uint8(0), num_candidates, magnitude, as_integers(mask))
    return mask if made else None


def row_sums(matrix: Tensor, together: int, *, magnitude: bool) -> Tensor | None:
    """Sums of neighbouring rows, as :meth:`sparseflow.masks.blocks.BlockGrid.sums` adds them up.

    Args:
        matrix: ``(matrices, rows, columns)``.
        together: Rows of one sum; it divides their number.
        magnitude: Add absolute values.

    Returns: ``(matrices, rows / together, columns)``; ``None`` where the plain way must add up.
    """
    if matrix.dtype != torch.float32 or not is_compiled(matrix):
        return None
    from sparseflow._fast.blocks import sum_rows

    count, rows, columns = matrix.shape
    sums = torch.empty(count, rows // together, columns)
    sum_rows(matrix.detach().view(-1, columns).numpy(), together, magnitude, sums.flatten(0, 1).numpy())
    return sums


def exchange(
    layers: Iterable[tuple[_Key, Exchange | _Other]],
) -> Iterator[tuple[_Key, Exchange | _Other, StagedMask | None]]:
    """Exchange connections of many layers, several at a time where torch has several threads.

    Layers are taken one after the other, in order. Neither scores nor masks of layers that are done stay in memory
    while others are worked on.

    Args:
        layers: Anything that names a layer, and what is to be done in it; what is no :class:`Exchange` passes through.

    Returns: in the same order, the given pair and the new mask; ``None`` for it where the plain way must choose, or
    raise the error.

    >>> mask, score = torch.tensor([True, False]), torch.tensor([0.0, 1.0])
    >>> [(key, new) for key, _, new in exchange([("small", Exchange(mask, 1, score, score, 1, 1, True))])]
    [('small', None)]
    """
    return map_threads(lambda layer: (*layer, _exchanged(layer[1]) if isinstance(layer[1], Exchange) else None), layers)


def _exchanged(layer: Exchange) -> StagedMask | None:
    mask = layer.mask
    scores = (layer.drop_score, layer.grow_score)
    given = (mask, *(score.of if isinstance(score, Magnitude) else score for score in scores))
    # Ties go by the logical order: where some matter, another order of memory is read in a copy.
    if not mask.is_contiguous():
        new = torch.empty_like(mask)
        if _choose(layer, *in_memory_order(new, *given), ordered=False):
            return stage(new)
    new = torch.empty_like(mask, memory_format=torch.contiguous_format)
    made = mask.is_cpu and _choose(layer, new, *(tensor.contiguous() for tensor in given))
    return stage(new) if made else None


def _choose(
    layer: Exchange, new: Tensor, mask: Tensor, drop_score: Tensor, grow_score: Tensor, *, ordered: bool = True
) -> bool:
    """Write the new mask, unless the arguments are out of order or the plain way must choose."""
    active, num_drop, num_grow, regrow = layer.num_active, layer.num_drop, layer.num_grow, layer.regrow
    free = mask.numel() - active + (num_drop if regrow else 0)
    if not (0 <= num_drop <= active and 0 <= num_grow <= free and is_compiled(mask, drop_score, grow_score)):
        return False
    from sparseflow._fast.choose import exchange as compiled

    tensors = as_integers(mask), as_integers(drop_score), as_integers(grow_score)
    magnitudes = isinstance(layer.drop_score, Magnitude), isinstance(layer.grow_score, Magnitude)
    return bool(compiled(*tensors, active, num_drop, num_grow, regrow, *magnitudes, as_integers(new), ordered))


def _written(score: Tensor | Magnitude) -> Tensor:
    return score.of.abs() if isinstance(score, Magnitude) else score
