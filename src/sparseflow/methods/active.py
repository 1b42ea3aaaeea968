"""Exchanging connections of a layer that stores its active weights only, a few rows of scores at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._checks import check_finite
from sparseflow.masks.topk import topk_mask
from sparseflow.methods.scores import ScoreFn

#: A layer is scored in so many parts, or in larger ones of at least so many entries.
_PARTS, _FEWEST = 16, 1 << 12


class ActiveLayer(NamedTuple):
    """What an updater may look at of a layer without inactive weights; it changes nothing of it."""

    name: str
    shape: tuple[int, ...]
    """Of the dense weight."""
    positions: Tensor
    """int64 ``(active,)``, ascending: where the active weights are in the flattened dense weight."""
    values: Tensor
    """``(active,)``."""
    gradient: Tensor | None
    """``(active,)``: gradient of the values, if there is one."""
    gradient_rows: Callable[[int, int], Tensor] | None
    """Dense gradient of the outputs [first, last), if the updater asked for it."""
    learning_rate_ratio: float
    """Learning rate of this weight's group over its initial one."""


def exchange_active(
    layer: ActiveLayer, num_drop: int, num_grow: int, *, drop_score: ScoreFn, grow_score: ScoreFn, regrow: bool,
    generator: torch.Generator, step: int = 0,
) -> Tensor:  # fmt: skip
    """:func:`sparseflow.drop_and_grow` without dense scores: only the best candidates so far are kept.

    Ties and counts as there. The scores of about a sixteenth of the layer are in memory at a time; random ones are
    drawn in the same order as for the whole layer.

    Args:
        layer: Before the update.
        num_drop: At most the active count.
        num_grow: At most the number of candidates.
        drop_score, grow_score: As :class:`sparseflow.methods.DropGrow`.
        regrow: Whether just-dropped weights compete for growth.
        generator: For random scores.
        step: Named in errors.

    Returns: the new positions, int64, ascending.

    Raises:
        ValueError: if a score that matters, or any gradient, is NaN or infinite.

    >>> from sparseflow.methods.scores import gradient_magnitude, magnitude
    >>> w, g = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([[0.0, 0.2, 0.0, 0.1, 0.9]])
    >>> layer = ActiveLayer("w", (1, 5), torch.tensor([0, 1, 2]), w, None, lambda a, b: g[a:b], 1.0)
    >>> exchange_active(layer, 1, 1, drop_score=magnitude, grow_score=gradient_magnitude, regrow=True,
    ...     generator=torch.Generator())
    tensor([0, 2, 4])
    """
    if layer.gradient_rows is not None and layer.gradient is not None:
        check_finite(layer.gradient, name=_gradient_name(layer, step))
    kept = topk_mask(drop_score(layer.values, layer.gradient, generator=generator), len(layer.values) - num_drop)
    survivors = layer.positions[kept]
    excluded = survivors if regrow else layer.positions
    row_size = math.prod(layer.shape[1:])
    best, best_scores = layer.positions[:0], None
    for first, last in row_parts(layer.shape):
        scores = _scores_of_rows(layer, first, last, grow_score, generator=generator, step=step).reshape(-1)
        begin, end = (int(torch.searchsorted(excluded, edge * row_size)) for edge in (first, last))
        candidates = torch.ones(len(scores), dtype=torch.bool)
        candidates[excluded[begin:end] - first * row_size] = False
        count = min(num_grow, len(scores) - (end - begin))
        found = topk_mask(scores, count, among=candidates).nonzero().squeeze(1)
        best = torch.cat([best, found + first * row_size])
        best_scores = scores[found] if best_scores is None else torch.cat([best_scores, scores[found]])
        if len(best) > num_grow:
            # Positions ascend, so ties still go to the lowest.
            winners = topk_mask(best_scores, num_grow)
            best, best_scores = best[winners], best_scores[winners]
    return torch.cat([survivors, best]).sort().values


def _gradient_name(layer: ActiveLayer, step: int) -> str:
    return f"the gradient of {layer.name!r} at the mask update of step {step}"


def row_parts(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Ranges of outputs that together are all, each small enough to be looked at densely.

    >>> list(row_parts((10, 1000)))
    [(0, 5), (5, 10)]
    """
    rows, row_size = shape[0], math.prod(shape[1:])
    step = max(1, -(-max(_FEWEST, rows * row_size // _PARTS) // row_size))
    return ((first, min(first + step, rows)) for first in range(0, rows, step))


def _scores_of_rows(
    layer: ActiveLayer, first: int, last: int, score: ScoreFn, *, generator: torch.Generator, step: int
) -> Tensor:
    shape = (last - first, *layer.shape[1:])
    row_size = math.prod(layer.shape[1:])
    begin, end = (int(torch.searchsorted(layer.positions, edge * row_size)) for edge in (first, last))
    weight = torch.zeros(math.prod(shape), dtype=layer.values.dtype)
    weight[layer.positions[begin:end] - first * row_size] = layer.values[begin:end]
    gradient = None
    if layer.gradient_rows is not None:
        gradient = layer.gradient_rows(first, last)
        check_finite(gradient, name=_gradient_name(layer, step))
    return score(weight.view(shape), gradient, generator=generator)
