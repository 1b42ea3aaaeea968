"""Exact orthogonal initialisation: sparse weights whose singular values are all equal, and their masks with them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.boundary import checked
from sparseflow.init.model import biases_of
from sparseflow.masks.fans import PLAIN, Layout, matrices
from sparseflow.masks.select import maskable
from sparseflow.ranges import Range
from sparseflow.rng import stream
from sparseflow.sharded import is_sharded
from sparseflow.types import Masks

#: Draws of a pair of columns that would fill no place or too many, in a row, before all pairs are looked at.
_TRIES = 64
#: Columns among which all pairs are looked at.
_COLUMNS = 512


class SparseMatrix(NamedTuple):
    """A matrix with its active entries."""

    values: Tensor
    """float64, zero where inactive."""
    active: Tensor
    """bool, of the same shape."""


@checked(rows=Range(1), columns=Range(1), count=Range(0))
def sparse_orthogonal(rows: int, columns: int, count: int, *, generator: torch.Generator) -> SparseMatrix:
    r"""A matrix with orthonormal rows (or columns, if these are fewer) and a given number of active entries.

    It starts as the rectangular identity and is turned by Givens rotations of two random columns by angles from
    :math:`\mathcal U(0, 2 \pi)`, each of which fills the places that only one of the two has filled, until as many are
    filled as asked for. Not every number can be: a square matrix cannot have one more nonzero than rows, say. Where no
    rotation fits any more, the last few entries, drawn among the others, are active and zero.

    Args:
        rows, columns: Of the matrix.
        count: Active entries, from ``min(rows, columns)`` to all.
        generator: Where pairs, angles and places come from.

    Raises:
        ValueError: if so few or so many entries cannot be.

    Reference: Nowak et al. (2024), *Sparser, Better, Deeper, Stronger*, arXiv 2406.01755. Their code stops within one
    rotation of the density, on the nearer side; here the count is exact.

    >>> matrix = sparse_orthogonal(4, 6, 10, generator=torch.Generator().manual_seed(0))
    >>> int(matrix.active.sum()), bool(torch.allclose(matrix.values @ matrix.values.T, torch.eye(4).double()))
    (10, True)
    """
    few, many = sorted((rows, columns))
    if not few <= count <= rows * columns:
        raise ValueError(
            f"an orthogonal matrix of {rows} x {columns} needs at least {few} active entries, one in each "
            f"{'row' if rows <= columns else 'column'}, and has {rows * columns} at most; got {count}."
        )
    turned = torch.eye(many, few, dtype=torch.float64)  # the columns of the wide matrix, each in one piece of memory
    filled = turned != 0
    left, failed = count - few, 0
    while left:
        if failed < _TRIES:
            first, second = torch.randint(many, (2,), generator=generator).tolist()
            new = int((filled[first] ^ filled[second]).sum()) if first != second else left + 1
        else:
            first, second, new = _pair_that_fits(filled, left, generator)
            if not new:
                break
        if not 0 < new <= left:
            failed += 1
            continue
        _rotate_(turned, first, second, 2 * math.pi * float(torch.rand((), generator=generator)))
        filled[first] |= filled[second]
        filled[second] = filled[first]
        left, failed = left - new, 0 if failed < _TRIES else failed
    if left:
        free = (~filled).flatten().nonzero().flatten()
        filled.view(-1)[free[torch.randperm(len(free), generator=generator)[:left]]] = True
    turned, filled = (turned.T, filled.T) if rows <= columns else (turned, filled)
    return SparseMatrix(turned.contiguous(), filled.contiguous())


@checked(count=Range(0))
def exact_orthogonal_(
    weight: Tensor,
    count: int,
    *,
    gain: float = 1.0,
    more_nonzeros: bool = False,
    generator: torch.Generator,
    layout: Layout = PLAIN,
) -> Tensor:
    r"""Exact orthogonal initialisation of a weight with a given number of active entries, in place.

    A linear weight is ``gain`` times :func:`sparse_orthogonal`. A convolution has such a matrix at the centre of its
    kernel, as dense as the whole weight, and zeros elsewhere, of which as many are active as are left to be: with a
    stride of 1 and a padding of half the kernel it keeps the length of its inputs times ``gain``.

    Args:
        weight: ``(out, in, *kernel)``, or as ``layout`` says; overwritten.
        count: Active entries.
        gain: All singular values; :math:`\sqrt 2` for ReLU, 1 for tanh or linear layers.
        more_nonzeros: Of a convolution: make the centre as dense as the square root of the weight's density, as far as
            there are entries (the authors' option for residual networks).
        generator: Where pairs, angles and places come from.
        layout: Which axes are units and inputs; the matrices of several share the entries evenly.

    Returns: the mask, bool.

    Raises:
        ValueError: if so few entries cannot be orthogonal, or the kernel has no centre.

    Reference: Nowak et al. (2024), arXiv 2406.01755; Xiao et al. (2018) for the kernel.

    >>> weight = torch.empty(8, 16)
    >>> mask = exact_orthogonal_(weight, 40, gain=2.0, generator=torch.Generator().manual_seed(0))
    >>> int(mask.sum()), torch.linalg.svdvals(weight).round(decimals=4).unique()
    (40, tensor([2.]))
    """
    if layout.lookup:
        raise ValueError("an embedding is looked up row by row and has no singular values to keep. Leave it out.")
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    values = torch.zeros(weight.shape, dtype=torch.float64)
    kernel = weight.shape[3:] if layout.stacked else weight.shape[2:]
    if even := [size for size in kernel if size % 2 == 0]:
        raise ValueError(
            f"a kernel of even size has no centre, got {tuple(kernel)} with {even[0]}. Leave the layer out."
        )
    if weight.dim() < 2 or not weight.numel():
        raise ValueError(f"a weight needs at least two axes and one entry, got shape {tuple(weight.shape)}.")
    places = torch.arange(weight.numel()).view(weight.shape)
    found = matrices(places, layout)
    number, outputs, flat_columns = found.shape
    size = math.prod(kernel)
    columns, centre = flat_columns // size, size // 2
    for index in range(number):
        share = count // number + (index < count % number)
        density = share / (outputs * flat_columns)
        central = round(outputs * columns * (math.sqrt(density) if more_nonzeros else density))
        central = share if size == 1 else min(max(central, min(outputs, columns)), share, outputs * columns)
        matrix = sparse_orthogonal(outputs, columns, central, generator=generator)
        at = found[index].reshape(outputs, columns, size)
        values.view(-1)[at[..., centre]] = matrix.values * gain
        mask.view(-1)[at[..., centre]] = matrix.active
        others = torch.cat([at[..., :centre], at[..., centre + 1 :]], dim=-1).flatten()
        chosen = torch.randperm(len(others), generator=generator)[: share - central]
        mask.view(-1)[others[chosen]] = True
    with torch.no_grad():
        weight.copy_(values)
    return mask.to(weight.device)


@checked()
def exact_orthogonal_model_(
    model: nn.Module, masks: Masks, *, gain: float = 1.0, more_nonzeros: bool = False, seed: int
) -> dict[str, Tensor]:
    """Exact orthogonal initialisation of a whole model: new masks with as many entries in each weight, and its weights.

    Only the number of active entries is taken from the masks, however they were made: where they are comes with the
    orthogonal values. The biases of these weights become zero.

    Args:
        model: Dense and whole: before ``sparseflow.engine.convert``, ``fully_shard`` and the optimizer's first step.
        masks: Parameter name -> mask, such as of ``random_masks(model, 0.95, allocation="erk", seed=0)``.
        gain: As :func:`exact_orthogonal_`.
        more_nonzeros: As :func:`exact_orthogonal_`.
        seed: Each weight draws from ``stream(seed, "orthogonal", name)``.

    Returns: parameter name -> mask, for the Sparsifier.

    Raises:
        TypeError, ValueError: naming the weight that has too few active entries, or no matrix to be orthogonal.

    Reference: Nowak et al. (2024), arXiv 2406.01755.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(40, 20), nn.Tanh(), nn.Linear(20, 10))
    >>> masks = exact_orthogonal_model_(model, sf.random_masks(model, 0.9, seed=0), seed=0)
    >>> sf.sparsity_of(masks), torch.linalg.svdvals(model[0].weight).round(decimals=4).unique().tolist()
    (0.9, [1.0])
    """
    weights = maskable(model)
    check_masks(masks, {name: weight.parameter for name, weight in weights.items()})
    if parted := [name for name in masks if is_sharded(weights[name].parameter)]:
        raise ValueError(
            f"{parted[0]!r} is in parts, and orthogonal rows are drawn whole: call this before fully_shard."
        )
    drawn, found = {}, {}
    for name, mask in masks.items():
        layout = weights[name].layout or PLAIN
        drawn[name] = torch.empty_like(weights[name].parameter)
        try:
            found[name] = exact_orthogonal_(
                drawn[name],
                int(mask.sum()),
                gain=gain,
                more_nonzeros=more_nonzeros,
                generator=stream(seed, "orthogonal", name),
                layout=layout,
            )
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
    with torch.no_grad():
        for name, values in drawn.items():
            weights[name].parameter.copy_(values)
            for bias in biases_of(weights[name]).values():
                bias.zero_()
    return found


def _rotate_(turned: Tensor, first: int, second: int, angle: float) -> None:
    cosine, sine = math.cos(angle), math.sin(angle)
    one, other = turned[first].clone(), turned[second].clone()
    turned[first] = cosine * one + sine * other
    turned[second] = cosine * other - sine * one


def _pair_that_fits(filled: Tensor, left: int, generator: torch.Generator) -> tuple[int, int, int]:
    """Two columns whose rotation fills some places, and not more than are left; 0 places if there are none."""
    chosen = torch.randperm(len(filled), generator=generator)[:_COLUMNS]
    own = filled[chosen].double()
    sizes = own.sum(1)
    new = sizes[:, None] + sizes - 2 * own @ own.T
    fitting = ((new > 0) & (new <= left)).nonzero()
    if not len(fitting):
        return 0, 0, 0
    one, other = fitting[int(torch.randint(len(fitting), (), generator=generator))].tolist()
    return int(chosen[one]), int(chosen[other]), int(new[one, other])
