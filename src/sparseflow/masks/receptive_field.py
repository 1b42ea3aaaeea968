"""Random masks whose connections stay near the diagonal: each unit sees the columns across from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_fraction
from sparseflow.boundary import checked
from sparseflow.masks.fans import PLAIN, Layout, matrices_shape, weight_of
from sparseflow.masks.make import AllocationLike, mask_like, sparsities_of
from sparseflow.masks.select import Rule, prunable
from sparseflow.masks.topk import active_count
from sparseflow.rng import stream

#: How many columns units see: as near to each other as can be, or drawn uniformly.
DEGREES = ("fixed", "uniform")


def receptive_field_mask(
    shape: tuple[int, ...],
    count: int,
    *,
    randomness: float,
    degrees: str = "fixed",
    layout: Layout = PLAIN,
    generator: torch.Generator,
) -> Tensor:
    r"""A mask of one layer with this number of active weights, drawn without replacement in each unit.

    .. math:: p_{ij} \propto (1 + d_{ij})^{-(1 - r) / r}

    for the distance :math:`d_{ij}` in columns from column :math:`j` to the one across from unit :math:`i`, on a ring.

    Args:
        shape: Of the weight.
        count: Active weights; at least one for each unit.
        randomness: :math:`r` in [0, 1]: 0 takes the nearest columns, 1 any.
        degrees: ``"fixed"``: units differ by one weight at most; ``"uniform"``: each weight beyond the first of a unit
            goes to one that is drawn.
        layout: Which axes are units and inputs.
        generator: On the CPU.

    Returns: bool, of the shape.

    >>> receptive_field_mask((4, 8), 8, randomness=0.0, generator=torch.Generator().manual_seed(0)).int()
    tensor([[1, 1, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 0, 1, 1, 0]], dtype=torch.int32)
    """
    matrices, outputs, columns = matrices_shape(shape, layout)
    units = matrices * outputs
    per_unit = _degrees(units, columns, count, degrees, generator)
    across = torch.arange(outputs) * columns // outputs
    away = (torch.arange(columns) - across[:, None]).abs()
    away = torch.minimum(away, columns - away).repeat(matrices, 1).double()
    draws = torch.rand(away.shape, generator=generator, dtype=torch.float64).clamp_min_(1e-300)
    # The largest of log p + a Gumbel draw are a sample without replacement.
    power = (1 - randomness) / randomness if randomness else 0.0
    keys = -power * (1 + away).log() - (-draws.log()).log() if randomness else -away
    order = keys.sort(dim=1, descending=True, stable=True).indices
    wanted = torch.arange(columns) < per_unit[:, None]
    mask = torch.zeros(units, columns, dtype=torch.bool).scatter_(1, order, wanted)
    return weight_of(mask.view(matrices, outputs, columns), shape, layout)


def _degrees(units: int, columns: int, count: int, degrees: str, generator: torch.Generator) -> Tensor:
    """Active columns of each unit, between 1 and all of them; ``count`` together."""
    if degrees == "fixed":
        found = torch.full((units,), count // units)
        found[torch.randperm(units, generator=generator)[: count % units]] += 1
        return found
    found = torch.ones(units, dtype=torch.int64)
    while (left := count - int(found.sum())) > 0:
        found += torch.bincount(torch.randint(units, (left,), generator=generator), minlength=units)
        found.clamp_(max=columns)  # what a full unit was given is drawn again
    return found


@checked()
def receptive_field_masks(
    model: nn.Module,
    sparsity: float,
    *,
    randomness: float = 0.25,
    degrees: str = "fixed",
    allocation: AllocationLike = "uniform",
    seed: int,
    overrides: Mapping[str, float] | None = None,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
    first_layer_dense: bool = False,
) -> dict[str, Tensor]:
    r"""The bipartite receptive field (BRF), from which :func:`sparseflow.CHTs` may start: units see what is across.

    Counts are those of :func:`sparseflow.random_masks`; positions see :func:`receptive_field_mask`. A column is an
    input at a kernel position.

    Args:
        randomness: :math:`r` in [0, 1]; 1 is uniformly random. Default 0.25, of the authors' range of 0 to 0.3.
        degrees: ``"fixed"`` or ``"uniform"``.

    The others as :func:`sparseflow.random_masks`.

    Raises:
        ValueError: as :func:`sparseflow.random_masks`; if a sparsity leaves less than one weight for each unit.

    Note:
        Paper and code differ. The paper gives degrees to the output units, as here, and the code to the smaller side.

    Reference: Zhang et al. (2025), *Brain network science modelling of sparse neural networks enables Transformers and
    LLMs to perform as fully connected*, appendix D.

    >>> masks = receptive_field_masks(nn.Linear(8, 4), 0.75, randomness=0.0, seed=0)
    >>> masks["weight"].sum(1).tolist()
    [2, 2, 2, 2]
    """
    check_fraction(randomness, name="randomness")
    check_choice(degrees, DEGREES, name="degrees")
    chosen = prunable(model, include=include, exclude=exclude, first_layer_dense=first_layer_dense)
    shares = sparsities_of(chosen, sparsity, allocation, overrides)
    masks = {}
    for name, weight in chosen.items():
        layout, shape = weight.layout or PLAIN, tuple(weight.parameter.shape)
        matrices, outputs, columns = matrices_shape(shape, layout)
        count = active_count(weight.parameter.numel(), shares[name])
        if count < matrices * outputs:
            raise ValueError(
                f"sparsity {shares[name]:.6g} leaves {count} weights for the {matrices * outputs} units of {name!r}, "
                f"and each needs one. The largest feasible sparsity there is {1 - 1 / columns:.6g}: lower it, or give "
                f"overrides={{{name!r}: ...}}."
            )
        generator = stream(seed, "mask", name)
        mask = receptive_field_mask(
            shape, count, randomness=randomness, degrees=degrees, layout=layout, generator=generator
        )
        masks[name] = mask_like(mask, weight.parameter)
    return masks
