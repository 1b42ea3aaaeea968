"""The best-scored weights of one layer or of all, one by one or in blocks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparseflow.masks.blocks import BlockGrid
from sparseflow.masks.topk import active_count, topk_mask, topk_masks


def best_of(
    scores: Tensor,
    count: int,
    *,
    grid: BlockGrid | None = None,
    among: Tensor | None = None,
    magnitude: bool = False,
    ties: torch.Generator | None = None,
) -> Tensor:
    """The mask of a layer's weights of largest score, or of its blocks of largest score.

    Args:
        scores: Of the weight's shape.
        count: Weights to keep, of whole blocks.
        grid: The blocks; ``None`` for single weights.
        among, magnitude, ties: As :func:`sparseflow.masks.topk.topk_mask`.

    >>> best_of(torch.tensor([1.0, -3.0, 2.0]), 2, magnitude=True)
    tensor([False,  True,  True])
    """
    if grid is None:
        return topk_mask(scores, count, among=among, magnitude=magnitude, ties=ties)
    candidates = None if among is None else grid.of(among)
    sums = grid.sums(scores, magnitude=magnitude)
    return grid.spread(topk_mask(sums, count // grid.size, among=candidates, ties=ties))


def best_of_all(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    grids: Mapping[str, BlockGrid],
    among: Mapping[str, Tensor] | None = None,
    at_most: int | None = None,
    magnitude: bool = False,
    ties: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The masks of the weights of largest score over all layers together; none but candidates are kept.

    Blocks compete with the mean score of their weights where layers have blocks of different sizes. Their number is
    then the largest that fits, else the nearest.

    Args:
        scores: Parameter name -> scores.
        sparsity: Fraction of zeros over all layers.
        grids: Parameter name -> its blocks, for those that have some.
        at_most: Weights to keep at most, such as the number of candidates.
        among, magnitude, ties: As :func:`sparseflow.masks.topk.topk_masks`.

    >>> best_of_all({"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([4.0, 3.0])}, 0.5, grids={})
    {'a': tensor([False,  True]), 'b': tensor([ True, False])}
    """
    total, size = sum(score.numel() for score in scores.values()), common_size(grids, scores)
    count = active_count(total, sparsity, block_size=size)
    count = count if at_most is None else min(count, at_most)
    if not grids:
        return topk_masks(scores, count, among=among, magnitude=magnitude, ties=ties)
    reduced = {name: grids[name].sums(score, magnitude=magnitude) for name, score in scores.items() if name in grids}
    single = {name: score.abs() if magnitude else score for name, score in scores.items() if name not in grids}
    if among is not None:
        among = {name: grids[name].of(mask) if name in grids else mask for name, mask in among.items()}
    sizes = {name: grids[name].size if name in grids else 1 for name in scores}
    ordered = {name: (reduced | single)[name] for name in scores}
    found = topk_masks(ordered, count, among=among, ties=ties, sizes=sizes)
    return {name: grids[name].spread(mask) if name in grids else mask for name, mask in found.items()}


def common_size(grids: Mapping[str, BlockGrid], names: Mapping[str, object]) -> int:
    """Weights of a block, if all layers have blocks of one size; else 1.

    >>> common_size({}, {"weight": None})
    1
    """
    sizes = {grids[name].size if name in grids else 1 for name in names}
    return sizes.pop() if len(sizes) == 1 else 1
