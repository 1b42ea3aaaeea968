"""Distances between solutions in weight space."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._checks import check_masks
from sparseflow.boundary import checked
from sparseflow.types import Masks


def named_parameters(state: Mapping[str, Tensor], names: Iterable[str] | None) -> dict[str, Tensor]:
    """The chosen entries of a state dict, in alphabetical order.

    Args:
        state: Name -> tensor.
        names: The entries to take; ``None`` takes all.

    Raises:
        ValueError: if a name is missing, none is left, or an entry is an integer: the step counter of a batch norm,
            whose running statistics would then count as weights too.

    >>> list(named_parameters({"b": torch.ones(1), "a": torch.ones(1), "c": torch.ones(1)}, ["b", "a"]))
    ['a', 'b']
    """
    chosen = sorted(state if names is None else names)
    for name in chosen:
        if name not in state:
            raise ValueError(f"names has {name!r}, which the state has not. Entries: {', '.join(state)}.")
        if not state[name].is_floating_point():
            raise ValueError(
                f"{name!r} is {state[name].dtype}, no parameter: a state dict holds buffers too, such as batch norm's "
                "running statistics. Give names=list(sparseflow.gradients.trainable(model))."
            )
    if not chosen:
        raise ValueError("there is no parameter to take; give a state dict with at least one.")
    return {name: state[name].detach() for name in chosen}


@checked()
def parameter_vector(
    state: Mapping[str, Tensor], masks: Masks | None = None, *, names: Iterable[str] | None = None
) -> Tensor:
    """All active weights and all unmasked parameters in one vector.

    Values at inactive positions do not count, zero or not. Entries come in alphabetical order of names. Vectors
    may be compared if they were made with the same masks and names; leave out ``masks`` to compare solutions on
    different masks, whose inactive weights are zero.

    Args:
        state: Parameter name -> tensor, such as a state dict.
        masks: Parameter name -> mask; ``None`` takes every weight.
        names: The entries that count; all by default. A state dict with batch norm needs
            ``names=list(sparseflow.gradients.trainable(model))``, with or without the norms' own parameters.

    Returns: float64, one dimension.

    Raises:
        TypeError, ValueError: if a mask does not fit, a name is missing, or an entry is no parameter.

    Reference: Evci et al. (2022), Figure 5 b, e; protocol I.1.

    >>> state = {"weight": torch.tensor([[1.0, 7.0]]), "bias": torch.tensor([3.0])}
    >>> parameter_vector(state, {"weight": torch.tensor([[True, False]])})
    tensor([3., 1.], dtype=torch.float64)
    """
    masks = masks or {}
    check_masks(masks, state)
    chosen = named_parameters(state, names)
    parts = [value[masks[n].to(value.device)] if n in masks else value.flatten() for n, value in chosen.items()]
    return torch.cat([part.double() for part in parts])


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.dim() != 1 or a.shape != b.shape:
        raise ValueError(
            f"vectors must be of one length, got shapes {tuple(a.shape)} and {tuple(b.shape)}. Make both with "
            "parameter_vector(), the same masks and the same names."
        )


@checked()
def l2_distance(a: Tensor, b: Tensor) -> float:
    r"""Euclidean distance :math:`\|a - b\|_2`, in float64.

    Args:
        a: ``(n,)``, from :func:`parameter_vector`.
        b: Likewise, made with the same masks and names.

    Raises:
        ValueError: if the shapes differ.

    >>> l2_distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))
    5.0
    """
    _check_pair(a, b)
    return float((a.double() - b.double()).norm())


@checked()
def cosine_similarity(a: Tensor, b: Tensor) -> float:
    r"""Cosine of the angle between two vectors, :math:`\langle a, b \rangle / (\|a\| \|b\|)` in [-1, 1].

    Args:
        a: ``(n,)``, not zero.
        b: Likewise.

    Raises:
        ValueError: if the shapes differ or a vector is zero.

    >>> cosine_similarity(torch.tensor([1.0, 1.0]), torch.tensor([0.0, -2.0]))
    -0.707...
    """
    _check_pair(a, b)
    a, b = a.double(), b.double()
    norms = float(a.norm()) * float(b.norm())
    if norms == 0:
        raise ValueError("the cosine of a zero vector is not defined; compare l2_distance() instead.")
    return max(-1.0, min(1.0, float(a @ b) / norms))  # Cauchy-Schwarz: anything beyond is rounding


class NormMatched(NamedTuple):
    """The distance of a random vector of the same norm from the reference."""

    expected: float
    r""":math:`\sqrt{\|a\|^2 + \|b\|^2}`: that of orthogonal vectors, and the root mean square over directions."""
    measured: float
    """That of the vector drawn."""


@checked()
def norm_matched_distance(vector: Tensor, reference: Tensor, *, generator: torch.Generator) -> NormMatched:
    r"""Distance to the reference of a random direction with the vector's norm: what the norms alone explain.

    .. math:: \mathrm{E} \left\| \tfrac{\|a\|}{\|z\|} z - b \right\|^2 = \|a\|^2 + \|b\|^2,
              \qquad z \sim \mathcal{N}(0, I)

    A short vector is close to everything, so a start may be near a solution without pointing there. In n dimensions the
    cosine of a random direction has a standard deviation of :math:`1 / \sqrt{n}`, so one draw is enough.

    Args:
        vector: ``(n,)``, such as a start; made with masks, so the random vector lives on the same mask.
        reference: ``(n,)``, such as the pruning solution.
        generator: Draws the direction; CPU.

    Raises:
        ValueError: if the shapes differ.

    >>> a, b = torch.full((10_000,), 0.03), torch.full((10_000,), 0.04)
    >>> found = norm_matched_distance(a, b, generator=torch.Generator().manual_seed(0))
    >>> round(found.expected, 5), abs(found.measured - 5) < 0.1, round(l2_distance(a, b), 5)
    (5.0, True, 1.0)
    """
    _check_pair(vector, reference)
    direction = torch.randn(len(vector), generator=generator, dtype=torch.float64).to(vector.device)
    length = float(vector.double().norm())
    drawn = direction * (length / float(direction.norm()))
    return NormMatched(math.hypot(length, float(reference.double().norm())), l2_distance(drawn, reference))


@checked()
def distance_matrix(vectors: Sequence[Tensor]) -> Tensor:
    """Euclidean distances between all vectors, ``(m, m)`` in float64 with a zero diagonal.

    Args:
        vectors: From :func:`parameter_vector`, made with the same masks and names.

    Raises:
        ValueError: if the shapes differ or there is no vector.

    >>> distance_matrix([torch.zeros(2), torch.tensor([3.0, 4.0])])
    tensor([[0., 5.],
            [5., 0.]], dtype=torch.float64)
    """
    if not vectors:
        raise ValueError("vectors is empty; give at least one, from parameter_vector().")
    for vector in vectors:
        _check_pair(vectors[0], vector)
    stacked = torch.stack(list(vectors)).double()
    # The faster way, by products, loses half of the digits of a short distance.
    return torch.cdist(stacked, stacked, compute_mode="donot_use_mm_for_euclid_dist")
