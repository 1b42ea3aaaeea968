"""Links of a layer seen as a network of units and columns: their importance, those likely to grow, and dead ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sparseflow.masks.topk import topk_mask


def relative_importance(weight: Tensor) -> Tensor:
    r"""Each weight's share of its column and of its row.

    .. math:: s_{ij} = \frac{|w_{ij}|}{\sum_i |w_{ij}|} + \frac{|w_{ij}|}{\sum_j |w_{ij}|}

    Args:
        weight: ``(units, columns)``.

    Reference: Zhang et al. (2024), *Plug-and-Play: An Efficient Post-training Pruning Method for LLMs*; CHTs, Eq. 1.

    >>> relative_importance(torch.tensor([[1.0, -3.0], [1.0, 0.0]]))
    tensor([[0.7500, 1.7500],
            [1.5000, 0.0000]])
    """
    size = weight.abs()
    rows, columns = (size.sum(axis, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny) for axis in (1, 0))
    return size / columns + size / rows


def link_scores(mask: Tensor, predictor: str = "CH2-L3n") -> Tensor:
    r"""How likely each pair of a unit and a column is to be connected, by the paths of three links between them.

    .. math:: S = E_D M + M E_T^T, \quad
        E_D = \frac{D + [D > 0]}{e_D + 1}, \quad D = M M^T, \quad e_D = \max(d - D, 1) - 1 \text{ where } D > 0

    for the 0/1 mask :math:`M` and the degrees :math:`d_z` of units; :math:`E_T` likewise with :math:`T = M^T M` of
    columns. :math:`D_{uz}` counts the links of unit :math:`z` inside the local community of :math:`u`, and
    :math:`d_z - D_{uz}` those to outside of it. ``CH3-L3n`` has :math:`[D > 0]` alone above the line.

    Args:
        mask: bool, ``(units, columns)``.
        predictor: ``"CH2-L3n"`` or ``"CH3-L3n"``.

    Returns: float64 of the mask's shape, from 0 on. Time grows with units times columns times both.

    Reference: Zhang et al. (2025), CHTs, Eq. 3.

    >>> link_scores(torch.tensor([[True, True, False], [False, True, True]]))
    tensor([[ 7., 10.,  4.],
            [ 4., 10.,  7.]], dtype=torch.float64)
    """
    links = mask.double()
    scores = torch.zeros_like(links)
    for of, other in ((links, "rows"), (links.T, "columns")):
        shared = of @ of.T
        linked = (shared > 0).double()
        outside = ((of.sum(1) - shared) * linked).clamp_min_(1) - 1
        ties = (linked if predictor == "CH3-L3n" else shared + linked) / (outside + 1)
        scores += ties @ of if other == "rows" else (ties @ of).T
    return scores


def importances(weight: Tensor, kind: str) -> Tensor:
    """What decides which weights stay: their magnitudes, or :func:`relative_importance` in float64.

    Args:
        weight: ``(matrices, units, columns)``.
        kind: ``"magnitude"`` or ``"relative"``.

    >>> importances(torch.tensor([[[1.0, -3.0]]]), "relative")
    tensor([[[1.2500, 1.7500]]], dtype=torch.float64)
    """
    if kind == "magnitude":
        return weight.abs()
    return torch.stack([relative_importance(each) for each in weight.double().unbind()])


def without_dead_ends(masks: Sequence[Tensor]) -> list[Tensor]:
    """Remove all links of units that have some to one side alone, in layers each of which feeds the next.

    One sweep backward and one forward leave no such unit.

    Args:
        masks: bool, ``(units, columns)``; the columns of each are the units of the one before, or each of them as often
            as there are kernel positions or pixels.

    Returns: new masks. The columns of the first and the units of the last may have links or none.

    Reference: Zhang et al. (2025), CHTs, appendix F ("network percolation"), and their code for MLPs.

    >>> one, other = torch.tensor([[True], [True]]), torch.tensor([[True, False]])
    >>> without_dead_ends([one, other])  # nothing leaves the second unit
    [tensor([[ True],
            [False]]), tensor([[ True, False]])]
    """
    left = [mask.clone() for mask in masks]
    for one, other in reversed(list(pairwise(left))):
        one &= other.unflatten(1, (len(one), -1)).any(2).any(0)[:, None]
    for one, other in pairwise(left):
        other &= one.any(1).repeat_interleave(other.shape[1] // len(one))
    return left


def sampled(scores: Tensor, count: int, among: Tensor, *, power: float = 1.0, generator: torch.Generator) -> Tensor:
    r"""Draw ``count`` entries one after the other without replacement, each with :math:`p \propto s^{power}`.

    Entries with a score of 0 come last. Drawn on the CPU in float64, so that every device draws the same.

    Args:
        scores: From 0 on.
        count: At most the candidates.
        among: bool, the candidates.
        power: From 0 (uniform) on.
        generator: On the CPU.

    Returns: bool, with exactly ``count`` entries ``True``.

    >>> drawn = sampled(torch.tensor([5.0, 0.0, 1.0, 0.0]), 2, torch.ones(4, dtype=torch.bool),
    ...     generator=torch.Generator().manual_seed(0))
    >>> drawn
    tensor([ True, False,  True, False])
    """
    waiting = torch.empty(scores.shape, dtype=torch.float64).exponential_(generator=generator)
    # Of independent exponential times with rates s the first few are such a sample.
    keys = power * scores.double().log().clamp_min_(-1e6) - waiting.clamp_min_(1e-300).log().to(scores.device)
    return topk_mask(keys, count, among=among)
