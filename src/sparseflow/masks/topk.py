"""One rounding rule and one tie rule: every count and every choice of entries in the library is made here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparseflow._checks import check_finite, check_sparsity
from sparseflow._fast import topk
from sparseflow.warn import warn


def active_count(numel: int, sparsity: float, *, block_size: int = 1) -> int:
    r"""Number of active weights of a tensor: the one place where a fraction becomes a count.

    .. math:: k = b \max(1,\ \mathrm{round}((1 - S)\, n / b))

    Halves round to the even neighbour, after removing float noise (``10 * (1 - 0.9)`` is 1, not 0.99...). At least one
    weight or block stays: a layer without weights would cut the network.

    Args:
        numel: Number of weights ``n``; 0 gives 0.
        sparsity: Fraction ``S`` of zeros, in [0, 1).
        block_size: Weights ``b`` that are active together; it divides ``n``.

    Raises:
        ValueError: if ``sparsity`` is outside [0, 1).

    Reference: rounding as protocol D.2 (TensorFlow Model Optimization).

    >>> [active_count(n, 0.95) for n in (150, 2400, 30720, 10080, 840)]  # LeNet5
    [8, 120, 1536, 504, 42]
    >>> active_count(2400, 0.95, block_size=16)  # 7.5 blocks
    128
    """
    check_sparsity(sparsity)
    if numel == 0:
        return 0
    return block_size * max(1, round(round(numel // block_size * (1 - sparsity), 6)))


def topk_mask(
    scores: Tensor,
    k: int,
    *,
    among: Tensor | None = None,
    magnitude: bool = False,
    ties: torch.Generator | None = None,
) -> Tensor:
    """Mark exactly the ``k`` largest scores; ties go to the lowest flat index, or to those that are drawn.

    Args:
        scores: Any shape and float dtype, finite.
        k: How many to mark, in [0, number of candidates].
        among: bool, same shape: the candidates. Default: every entry.
        magnitude: Compare absolute values, without a pass that writes them.
        ties: A CPU generator. Which of the entries that equal the smallest marked score are marked is then drawn from
            it, without replacement; where not some of them have to go, nothing is drawn. Networks of few different
            magnitudes (ternary, quantised) would otherwise keep their first rows whole and lose their last.

    Returns: bool, same shape, with exactly ``k`` entries ``True``.

    Raises:
        ValueError: if ``k`` is out of range or a candidate's score is NaN or infinite.

    >>> topk_mask(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    """
    flat = scores.reshape(-1)
    candidates = None if among is None else among.reshape(-1)
    mask = topk(flat, k, candidates, magnitude=magnitude)
    if mask is None:
        mask = _topk_plain(flat, k, candidates, magnitude=magnitude)
    if ties is not None and k:
        _draw_ties_(mask, flat.abs() if magnitude else flat, candidates, ties)
    return mask.view(scores.shape)


def topk_masks(
    scores: Mapping[str, Tensor],
    k: int,
    *,
    among: Mapping[str, Tensor] | None = None,
    magnitude: bool = False,
    ties: torch.Generator | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Mark the ``k`` largest scores of all layers together; a layer that loses everything is named in a warning.

    Args:
        scores: Layer name -> scores.
        k: How many to mark over all layers.
        among: Layer name -> bool, the candidates; a layer without candidates is not warned of. Default: all entries.
        magnitude, ties: As :func:`topk_mask`.
        sizes: Layer name -> number of weights that each of its scores is the sum of. ``k`` then counts weights, and
            scores are compared by their means; as many weights are marked as fit.

    Raises:
        ValueError: as :func:`topk_mask`.

    >>> topk_masks({"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([4.0, 3.0])}, 2)
    {'a': tensor([False,  True]), 'b': tensor([ True, False])}
    """
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    candidates = None if among is None else torch.cat([among[name].reshape(-1) for name in scores])
    sizes = sizes or dict.fromkeys(scores, 1)
    if len(set(sizes.values())) == 1:
        size = next(iter(sizes.values()))
        chosen = topk_mask(flat, k // size, among=candidates, magnitude=magnitude, ties=ties)
    else:
        counts = [scores[name].numel() for name in scores]
        each = torch.tensor([sizes[name] for name in scores]).repeat_interleave(torch.tensor(counts)).to(flat.device)
        chosen = _fill(flat.abs() / each if magnitude else flat / each, each, k, candidates, ties)
    parts = torch.split(chosen, [score.numel() for score in scores.values()])
    masks = {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}
    had = {name: score.numel() > 0 if among is None else bool(among[name].any()) for name, score in scores.items()}
    if emptied := [name for name, mask in masks.items() if had[name] and not mask.any()]:
        warn(
            f"the global ranking keeps {k} of {sum(sizes[name] * score.numel() for name, score in scores.items())} "
            f"weights and none of {', '.join(map(repr, emptied))}: "
            "nothing passes a layer without weights. Give each layer its share with scope='layer', lower the sparsity, "
            "or leave such layers dense with exclude=.",
            EmptiedLayerWarning,
        )
    return masks


class EmptiedLayerWarning(UserWarning):
    """A global ranking took every weight of a layer."""


def _fill(means: Tensor, sizes: Tensor, k: int, among: Tensor | None, ties: torch.Generator | None) -> Tensor:
    """Mark the entries of largest mean until the next does not fit into ``k`` weights, then smaller ones that do."""
    check_finite(means, name="scores")
    start = torch.arange(means.numel()) if ties is None else torch.randperm(means.numel(), generator=ties)
    start = start.to(means.device)
    order = start[means[start].sort(descending=True, stable=True).indices]
    order = order if among is None else order[among[order]]
    filled = sizes[order].cumsum(0)
    fitting = int((filled <= k).sum())
    mask = torch.zeros(means.numel(), dtype=torch.bool, device=means.device)
    mask[order[:fitting]] = True
    left = k - (int(filled[fitting - 1]) if fitting else 0)
    rest = order[fitting:]
    for size in sizes.unique().flip(0).tolist():
        more = rest[sizes[rest] == size][: left // size]
        mask[more] = True
        left -= size * more.numel()
    return mask


def _draw_ties_(mask: Tensor, flat: Tensor, among: Tensor | None, generator: torch.Generator) -> None:
    """Draw anew which of the entries that equal the smallest marked score are marked; as many stay marked."""
    equal = flat == flat[mask].min()
    tied = (equal if among is None else equal & among).nonzero().squeeze(1)
    kept = int(mask[tied].sum())
    if kept < tied.numel():
        order = torch.randperm(tied.numel(), generator=generator).to(tied.device)
        mask[tied] = False
        mask[tied[order[:kept]]] = True


def _topk_plain(flat: Tensor, k: int, among: Tensor | None, *, magnitude: bool) -> Tensor:
    if among is None:
        return _topk_flat(flat.abs() if magnitude else flat, k)
    index = among.nonzero().squeeze(1)
    found = flat.index_select(0, index)
    chosen = _topk_flat(found.abs_() if magnitude else found, k)
    return torch.zeros_like(among).index_fill_(0, index[chosen], True)


def _topk_flat(flat: Tensor, k: int) -> Tensor:
    n = flat.numel()
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}], the number of candidates, got {k}.")
    check_finite(flat, name="scores")
    if k == 0:
        return torch.zeros(n, dtype=torch.bool, device=flat.device)
    threshold = flat.kthvalue(n - k + 1).values
    mask = flat >= threshold
    surplus = int(mask.sum()) - k
    if surplus:
        tied = (flat == threshold).nonzero().squeeze(1)
        mask[tied[tied.numel() - surplus :]] = False
    return mask
