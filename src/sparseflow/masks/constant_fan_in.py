"""Random masks in which every unit of a layer has as many inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparseflow.boundary import checked
from sparseflow.masks.fans import PLAIN, Layout, matrices_shape, weight_of
from sparseflow.masks.make import AllocationLike, mask_like, sparsities_of
from sparseflow.masks.select import Rule, prunable
from sparseflow.masks.topk import active_count
from sparseflow.rng import stream


def fan_in_mask(shape: tuple[int, ...], fan_in: int, *, layout: Layout = PLAIN, generator: torch.Generator) -> Tensor:
    """A mask with this number of active columns in every unit, drawn uniformly without replacement.

    Args:
        shape: Of the weight.
        fan_in: From 0 to the number of columns: inputs at kernel positions.
        layout: Which axes are units and inputs.
        generator: On the CPU.

    Returns: bool, of the shape.

    >>> fan_in_mask((3, 8), 2, generator=torch.Generator().manual_seed(0)).sum(1)
    tensor([2, 2, 2])
    """
    draws = torch.rand(matrices_shape(shape, layout), generator=generator)
    chosen = draws.argsort(dim=2)[..., :fan_in]
    return weight_of(torch.zeros_like(draws, dtype=torch.bool).scatter_(2, chosen, True), shape, layout)


@checked()
def constant_fan_in_masks(
    model: nn.Module,
    sparsity: float,
    *,
    allocation: AllocationLike = "uniform",
    seed: int,
    overrides: Mapping[str, float] | None = None,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
    first_layer_dense: bool = False,
) -> dict[str, Tensor]:
    r"""Random masks with one fan-in for all units of a layer, from which :func:`sparseflow.SRigL` starts.

    .. math:: k_l = \mathrm{round}((1 - S_l)\, c_l)

    of a layer's :math:`c_l` columns: inputs at kernel positions. The sparsity of all layers together is therefore only
    near the one that is asked for. Arguments as :func:`sparseflow.random_masks`.

    Raises:
        ValueError: as :func:`sparseflow.random_masks`; if a layer's sparsity leaves its units less than half a weight.

    Reference: Lasby et al. (2024), *Dynamic Sparse Training with Structured Sparsity* (SRigL), which rounds down.

    >>> masks = constant_fan_in_masks(nn.Linear(100, 10), 0.95, seed=0)
    >>> masks["weight"].sum(1).tolist()
    [5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    """
    chosen = prunable(model, include=include, exclude=exclude, first_layer_dense=first_layer_dense)
    shares = sparsities_of(chosen, sparsity, allocation, overrides)
    masks = {}
    for name, weight in chosen.items():
        layout, shape = weight.layout or PLAIN, tuple(weight.parameter.shape)
        columns = matrices_shape(shape, layout)[2]
        if round(columns * (1 - shares[name]), 6) < 0.5:
            raise ValueError(
                f"sparsity {shares[name]:.6g} leaves {columns * (1 - shares[name]):.3g} of {columns} weights for each "
                f"unit of {name!r}, and a constant fan-in needs one. The largest feasible sparsity there is "
                f"{1 - 1 / columns:.6g}: lower it, or give overrides={{{name!r}: ...}}."
            )
        fan_in = active_count(columns, shares[name])
        mask = fan_in_mask(shape, fan_in, layout=layout, generator=stream(seed, "mask", name))
        masks[name] = mask_like(mask, weight.parameter)
    return masks
