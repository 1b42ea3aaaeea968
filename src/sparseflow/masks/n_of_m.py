"""N:M masks: exactly N of every M neighbouring inputs of a unit are active."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn

from sparseflow._checks import check_finite, check_values
from sparseflow.boundary import checked
from sparseflow.masks.fans import PLAIN, Layout, matrices, matrices_shape, weight_of
from sparseflow.masks.make import mask_like
from sparseflow.masks.select import Rule, maskable, prunable
from sparseflow.masks.topk import active_count
from sparseflow.sharded import full
from sparseflow.types import BrokenPromiseError, Masks

#: N and M, or name pattern -> N and M, of which the first that matches counts; what none matches is left alone.
PatternLike = tuple[int, int] | Mapping[str, tuple[int, int]]


def in_groups(tensor: Tensor, m: int, layout: Layout = PLAIN) -> Tensor:
    """The entries of a weight in groups of M, in the last axis: ``(matrices, units, groups, M)``; a view or a copy.

    A unit's inputs lie side by side, at one kernel position after the other: the order in which hardware and the
    authors of SR-STE read a convolution. Where M divides the inputs, a group is M input channels at one position.

    >>> in_groups(torch.arange(8).view(1, 4, 1, 2), 2)  # four channels at two positions
    tensor([[[[0, 2],
              [4, 6],
              [1, 3],
              [5, 7]]]])
    """
    groups: Tensor = _turned(matrices(tensor, layout), _num_positions(tensor.shape, layout)).unflatten(2, (-1, m))
    return groups


def best_in_groups(scores: Tensor, n: int, m: int, layout: Layout = PLAIN, *, among: Tensor | None = None) -> Tensor:
    """The mask of the N entries of largest score in each group of M; among equals the lower place in the group wins.

    Args:
        scores: Of the weight's shape.
        n: Active entries of a group.
        m: Entries of a group; divides the columns.
        layout: The weight's axes.
        among: bool, the candidates; the others stay inactive. Default: every entry.

    >>> best_in_groups(torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0, 4.0, 0.0, 0.0]]), 2, 4)
    tensor([[ True, False,  True, False,  True,  True, False, False]])
    """
    check_finite(scores, name="scores")
    candidates = scores if among is None else torch.where(among, scores, -torch.inf)
    places = in_groups(candidates, m, layout).sort(dim=-1, descending=True, stable=True).indices
    groups = torch.zeros(places.shape, dtype=torch.bool, device=scores.device)
    groups.scatter_(-1, places[..., :n], True)
    positions = _num_positions(scores.shape, layout)
    columns = groups.flatten(2)
    mask = weight_of(_turned(columns, columns.shape[2] // positions), tuple(scores.shape), layout)
    return mask if among is None else mask & among


def pattern_at(shape: tuple[int, ...], layout: Layout = PLAIN, *, sparsity: float) -> tuple[int, int]:
    """The N:M of a weight at a sparsity: in lowest terms where that M divides the columns, else N of all columns.

    >>> pattern_at((300, 784), sparsity=0.75), pattern_at((120, 150), sparsity=0.9), pattern_at((84, 99), sparsity=0.9)
    ((1, 4), (1, 10), (10, 99))
    """
    columns = matrices_shape(shape, layout)[2]
    share = Fraction(1 - sparsity).limit_denominator(max(1, columns))
    if share and columns % share.denominator == 0 and abs(share - Fraction(1 - sparsity)) < Fraction(1, 10**9):
        return share.numerator, share.denominator
    return active_count(columns, sparsity), columns


def checked_pattern(pattern: PatternLike) -> PatternLike:
    """Check a pattern, or those of a mapping.

    Raises:
        TypeError: if one is no pair of whole numbers.
        ValueError: unless 1 <= N <= M.

    >>> checked_pattern((4, 2))
    Traceback (most recent call last):
    ValueError: an N:M pattern needs 1 <= N <= M, such as (2, 4), got (4, 2).
    """
    for pair in pattern.values() if isinstance(pattern, Mapping) else [pattern]:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(each, int) and not isinstance(each, bool) for each in pair):
            raise TypeError(f"an N:M pattern is two whole numbers, such as (2, 4), got {pair!r}.")
        if not 1 <= pair[0] <= pair[1]:
            raise ValueError(f"an N:M pattern needs 1 <= N <= M, such as (2, 4), got {pair!r}.")
    return pattern


def pattern_of(pattern: PatternLike, name: str) -> tuple[int, int] | None:
    """The N and M of one weight; ``None`` where no name pattern matches.

    >>> pattern_of({"head.*": (1, 2), "*": (2, 4)}, "head.weight"), pattern_of({"head.*": (1, 2)}, "body.weight")
    ((1, 2), None)
    """
    if not isinstance(pattern, Mapping):
        return pattern
    return next((pair for key, pair in pattern.items() if fnmatch.fnmatchcase(name, key)), None)


def patterns(
    pattern: PatternLike, shapes: Mapping[str, tuple[int, ...]], layouts: Mapping[str, Layout]
) -> dict[str, tuple[int, int]]:
    """Parameter name -> its N and M, of those that have some.

    Raises:
        TypeError, ValueError: as :func:`checked_pattern`; if a key matches no weight, or an M divides no columns of its
            weights, naming them all.

    >>> patterns((2, 4), {"head": (5, 10)}, {"head": PLAIN})
    Traceback (most recent call last):
    ValueError: 2:4 needs columns (inputs x kernel positions) that 4 divides; 'head' has 10. Leave it out with ...
    """
    checked_pattern(pattern)
    for key in pattern if isinstance(pattern, Mapping) else ():
        if not fnmatch.filter(shapes, key):
            raise ValueError(f"the N:M patterns have {key!r}, which matches no weight. They are: {', '.join(shapes)}.")
    found = {name: pair for name in shapes if (pair := pattern_of(pattern, name)) is not None}
    columns = {name: matrices_shape(tuple(shapes[name]), layouts.get(name, PLAIN))[2] for name in found}
    if unfit := [name for name, (_, m) in found.items() if columns[name] % m]:
        n, m = found[unfit[0]]
        have = ", ".join(f"{name!r} has {columns[name]}" for name in unfit if found[name] == (n, m))
        raise ValueError(
            f"{n}:{m} needs columns (inputs x kernel positions) that {m} divides; {have}. Leave it out with exclude= "
            f"where masks are made, or give it another N and M by name: {{{unfit[0]!r}: (N, M), '*': ({n}, {m})}}."
        )
    return found


@checked()
def n_of_m_masks(
    model: nn.Module, pattern: PatternLike, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = ()
) -> dict[str, Tensor]:
    """Masks that keep the N weights of largest magnitude in every group of M.

    Args:
        model: Its prunable weights get masks; those that no name pattern matches, dense ones.
        pattern: N and M, such as ``(2, 4)``, or name pattern -> N and M.
        include, exclude: As :func:`sparseflow.prunable`.

    Raises:
        TypeError, ValueError: if N and M are none, or M does not divide the columns of a weight, naming it.

    Reference: Mishra et al. (2021), *Accelerating Sparse Deep Neural Networks*.

    >>> layer = nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -3.0, 2.0, 0.5]]))
    >>> n_of_m_masks(layer, (2, 4))
    {'weight': tensor([[False,  True,  True, False]])}
    """
    chosen = prunable(model, include=include, exclude=exclude)
    check_values({name: weight.parameter for name, weight in chosen.items()})
    layouts = {name: weight.layout or PLAIN for name, weight in chosen.items()}
    found = patterns(pattern, {name: tuple(weight.parameter.shape) for name, weight in chosen.items()}, layouts)
    masks = {}
    for name, weight in chosen.items():
        values = full(weight.parameter.detach())
        mask = torch.ones(values.shape, dtype=torch.bool)
        if name in found:
            mask = best_in_groups(values.abs(), *found[name], layouts[name])
        masks[name] = mask_like(mask, weight.parameter)
    return masks


@checked()
def check_n_of_m(masks: Masks, model: nn.Module, pattern: PatternLike) -> int:
    """Prove that masks have exactly N of every M active; the number of groups that were looked at.

    Args:
        masks: Parameter name -> mask.
        model: Whose layers say which axes of a weight are inputs.
        pattern: As :func:`n_of_m_masks`.

    Raises:
        BrokenPromiseError: naming the first weight with another group.
        TypeError, ValueError: as :func:`n_of_m_masks`.

    >>> layer = nn.Linear(8, 2)
    >>> check_n_of_m(n_of_m_masks(layer, (2, 4)), layer, (2, 4))
    4
    """
    known = maskable(model)
    layouts = {name: (known[name].layout or PLAIN) if name in known else PLAIN for name in masks}
    found = patterns(pattern, {name: tuple(mask.shape) for name, mask in masks.items()}, layouts)
    groups = 0
    for name, (n, m) in found.items():
        counts = in_groups(full(masks[name]), m, layouts[name]).sum(-1)
        if wrong := int((counts != n).sum()):
            raise BrokenPromiseError(
                f"{wrong} of {counts.numel()} groups of {m} in the mask of {name!r} have other than {n} active weights."
            )
        groups += counts.numel()
    return groups


def _num_positions(shape: tuple[int, ...], layout: Layout) -> int:
    kernel = shape[3:] if layout.stacked else shape[2:]
    return torch.Size(kernel).numel()


def _turned(matrix: Tensor, inner: int) -> Tensor:
    """Columns that run over their inner axis first, of this size, run over it last: its own inverse, by the other."""
    return matrix if inner in (1, matrix.shape[2]) else matrix.unflatten(2, (-1, inner)).transpose(2, 3).flatten(2)
