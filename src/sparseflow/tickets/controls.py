"""Controls for tickets: each destroys one property and keeps the others. Counts, zeros and biases never change."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.boundary import checked
from sparseflow.masks.blocks import SINGLE, BlockLike, check_made_of, grids_for
from sparseflow.masks.select import maskable
from sparseflow.ranges import Range
from sparseflow.rng import stream
from sparseflow.types import Masks


@checked()
def shuffle_masks(
    masks: Masks, *, seed: int, block: BlockLike = SINGLE, model: nn.Module | None = None
) -> dict[str, Tensor]:
    """Masks with the same counts in each layer and other positions, drawn uniformly.

    Tells what the positions are worth beyond the layers' densities.

    Args:
        masks: Parameter name -> mask; left as they are.
        seed: Each layer draws from ``stream(seed, "shuffle_mask", name)``.
        block: Blocks that stay whole, as :func:`sparseflow.random_masks` made them.
        model: What the masks are of; needed for blocks, whose layers say which axis holds the outputs.

    Raises:
        TypeError: if a mask is not a bool tensor.
        ValueError: if one is not made of blocks.

    Reference: Frankle et al. (2021), *Pruning Neural Networks at Initialization: Why Are We Missing the Mark?*

    >>> mask = torch.arange(1000) < 50
    >>> shuffled = shuffle_masks({"weight": mask}, seed=0)["weight"]
    >>> int(shuffled.sum()), int((shuffled & mask).sum()) < 15
    (50, True)
    """
    check_masks(masks, masks)
    grids = grids_for(block, model, masks)
    check_made_of(grids, masks)
    shuffled = {}
    for name, mask in masks.items():
        grid = grids.get(name)
        entries = mask if grid is None else grid.of(mask)
        order = torch.randperm(entries.numel(), generator=stream(seed, "shuffle_mask", name))
        moved = entries.reshape(-1)[order.to(mask.device)].view(entries.shape)
        moved = moved if grid is None else grid.spread(moved)
        shuffled[name] = torch.empty_like(mask).copy_(moved)  # in the mask's memory format
    return shuffled


@checked()
def shuffle_weights_(model: nn.Module, masks: Masks, *, seed: int) -> nn.Module:
    r"""Permute the active weights within each layer, in place: same mask, same values, other connections.

    .. math:: w_{p_i} \leftarrow w_{p_{\pi(i)}}, \quad p = \text{active positions}

    Args:
        model: Its masked weights are overwritten.
        masks: Parameter name -> mask.
        seed: Each layer draws from ``stream(seed, "shuffle_weight", name)``.

    Returns: ``model``.

    Raises:
        TypeError, ValueError: if a mask does not fit.

    Reference: Frankle et al. (2020), *The Early Phase of Neural Network Training*.

    >>> layer = nn.Linear(1000, 1)
    >>> before = layer.weight.detach().clone()
    >>> after = shuffle_weights_(layer, {"weight": torch.ones(1, 1000, dtype=torch.bool)}, seed=0).weight
    >>> torch.equal(after.sort().values, before.sort().values), torch.equal(after, before)
    (True, False)
    """
    for name, weight, mask in _masked(model, masks):
        values = weight[mask]
        order = torch.randperm(values.numel(), generator=stream(seed, "shuffle_weight", name))
        weight[mask] = values[order.to(values.device)]
    return model


@checked()
def keep_signs_(model: nn.Module, masks: Masks) -> nn.Module:
    r"""Give all active weights of a layer one magnitude and their own signs, in place; the layer's norm stays.

    .. math:: w_i \leftarrow \mathrm{sign}(w_i)\, \sqrt{\tfrac{1}{n} \textstyle\sum_j w_j^2}

    over the :math:`n` active weights that are not zero; an active zero has no sign and stays.

    Arguments and errors as :func:`shuffle_weights_`.

    Returns: ``model``.

    Reference: Zhou et al. (2019), *Deconstructing Lottery Tickets*; the root mean square is this library's choice, so
    that the forward signal keeps its scale.

    >>> layer = nn.Linear(3, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[7.0, -1.0, 0.0]]))
    >>> keep_signs_(layer, {"weight": torch.tensor([[True, True, False]])}).weight.data
    tensor([[ 5., -5.,  0.]])
    """
    for _, weight, mask in _masked(model, masks):
        values = weight[mask]
        squares = values.double().square()
        magnitude = (squares.sum() / squares.count_nonzero().clamp(min=1)).sqrt()
        weight[mask] = values.sign() * magnitude.to(values.dtype)
    return model


@checked(relative_std=Range(0, hint="1 is the layer's own std."))
def perturb_(model: nn.Module, masks: Masks, *, relative_std: float, seed: int) -> nn.Module:
    r"""Add Gaussian noise to the active weights, scaled by their own spread in the layer, in place.

    .. math:: w_i \leftarrow w_i + z_i, \quad z_i \sim \mathcal{N}(0,\ \mathrm{std} = r\, \mathrm{std}_j(w_j))

    Args:
        model: Its masked weights are overwritten.
        masks: Parameter name -> mask.
        relative_std: :math:`r`, at least 0: standard deviation of the noise over the population standard deviation of
            the layer's active weights.
        seed: Each layer draws from ``stream(seed, "perturb", name)``: the same noise for every :math:`r`, times
            :math:`r`.

    Returns: ``model``.

    Raises:
        TypeError, ValueError: if a mask does not fit, or ``relative_std`` is negative or not finite.

    Reference: Frankle et al. (2020), *The Early Phase of Neural Network Training*; protocol B.7.

    >>> layer = nn.Linear(10_000, 1)
    >>> before = layer.weight.detach().clone()
    >>> after = perturb_(layer, {"weight": before != 0}, relative_std=0.5, seed=0).weight.detach()
    >>> round(float((after - before).std() / before.std()), 1)
    0.5
    """
    for name, weight, mask in _masked(model, masks):
        values = weight[mask]
        if not values.numel():
            continue
        noise = torch.randn(values.shape, generator=stream(seed, "perturb", name), dtype=values.dtype)
        weight[mask] = values + relative_std * values.std(correction=0) * noise.to(values.device)
    return model


def _masked(model: nn.Module, masks: Masks) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, writable weight and mask of each masked layer, all checked before the first is yielded."""
    parameters = {name: weight.parameter for name, weight in maskable(model).items()}
    check_masks(masks, parameters)
    for name, mask in masks.items():
        yield name, parameters[name].detach(), mask.to(parameters[name].device)
