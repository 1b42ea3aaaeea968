"""Make, compare and apply masks. A mask is a bool tensor of its weight's shape; ``True`` is active."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_masks, check_names, check_sparsity, check_values
from sparseflow._fast import zero_inactive_
from sparseflow.boundary import checked
from sparseflow.masks.allocation import ALLOCATIONS
from sparseflow.masks.blocks import SINGLE, BlockGrid, BlockLike, check_one_each, grids_for, grids_of
from sparseflow.masks.ranking import best_of, best_of_all
from sparseflow.masks.select import Rule, Weight, left_out, maskable, prunable, weights
from sparseflow.masks.topk import active_count
from sparseflow.rng import stream
from sparseflow.sharded import full, local, num_true, shard_like
from sparseflow.types import Masks
from sparseflow.warn import warn

#: Key of ``ALLOCATIONS``, or a function such as ``functools.partial(sparseflow.masks.allocation.erk, power=0.5)``.
AllocationLike = str | Callable[..., Mapping[str, float]]


def _sparsities(
    shapes: Mapping[str, torch.Size], sparsity: float, allocation: AllocationLike, overrides: Mapping[str, float] | None
) -> Mapping[str, float]:
    if isinstance(allocation, str):
        check_choice(allocation, ALLOCATIONS, name="allocation")
        allocation = ALLOCATIONS[allocation]
    shares = allocation(shapes, sparsity, overrides=overrides)
    check_names(shares, shapes, name="what allocation= returned")
    for name, share in shares.items():
        check_sparsity(share, name=f"the sparsity that allocation= gives {name!r}")
    return shares


def sparsities_of(
    chosen: Mapping[str, Weight], sparsity: float, allocation: AllocationLike, overrides: Mapping[str, float] | None
) -> dict[str, float]:
    """Each weight's sparsity. To an allocation every expert of a stack is a layer; all of one stack get the same."""
    parts = {name: [name] for name in chosen}
    shapes = {name: weight.parameter.shape for name, weight in chosen.items()}
    for name, weight in chosen.items():
        if weight.layout is not None and weight.layout.stacked:
            count, *shape = shapes.pop(name)
            parts[name] = [f"{name}[{number}]" for number in range(count)]
            shapes |= dict.fromkeys(parts[name], torch.Size(shape))
    each = {part: value for name, value in (overrides or {}).items() for part in parts.get(name, [name])}
    shares = _sparsities(shapes, sparsity, allocation, each or None)
    return {name: shares[parts[name][0]] for name in chosen}


def _counts(
    sizes: Mapping[str, int], sparsities: Mapping[str, float], grids: Mapping[str, BlockGrid]
) -> dict[str, int]:
    """Active weights of each layer, of whole blocks.

    Raises:
        ValueError: if the layers' least, one block each, are more than their sparsities leave.
    """
    block_sizes = {name: grids[name].size if name in grids else 1 for name in sizes}
    check_one_each(sizes, sparsities, block_sizes)
    return {name: active_count(size, sparsities[name], block_size=block_sizes[name]) for name, size in sizes.items()}


@checked()
def dense_masks(
    model: nn.Module, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = (), first_layer_dense: bool = False
) -> dict[str, Tensor]:
    """Masks with every weight active, from which gradual pruning starts.

    Arguments as :func:`sparseflow.prunable`.

    >>> dense_masks(nn.Linear(2, 1))
    {'weight': tensor([[True, True]])}
    """
    chosen = prunable(model, include=include, exclude=exclude, first_layer_dense=first_layer_dense)
    return {name: _empty_like(weight.parameter).fill_(True) for name, weight in chosen.items()}


@checked()
def random_masks(
    model: nn.Module,
    sparsity: float,
    *,
    allocation: AllocationLike = "uniform",
    seed: int,
    overrides: Mapping[str, float] | None = None,
    block: BlockLike = SINGLE,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
    first_layer_dense: bool = False,
) -> dict[str, Tensor]:
    """Masks with exact counts and positions drawn uniformly without replacement.

    Args:
        model: Its prunable weights get masks (see :func:`sparseflow.masks.select.weights` for the three rules).
        sparsity: Fraction of zeros over the prunable weights, in [0, 1).
        allocation: How the layers share it: ``"uniform"``, ``"er"``, ``"erk"`` or a function.
        seed: Each layer draws from ``stream(seed, "mask", name)``, so no layer shifts another.
        overrides: Parameter name -> its own sparsity.
        block: Outputs and inputs of the blocks whose weights are active together, such as ``(4, 1)``, or name pattern
            -> block, of which the first that matches counts: ``{"fc.weight": (1, 1), "*": (4, 1)}``. Each layer keeps
            the number of whole blocks that is nearest to its share (halves: the even one), and one at least. Default:
            single weights.
        include, exclude, first_layer_dense: Which weights are prunable.

    Raises:
        ValueError: if the sparsity is outside [0, 1) or infeasible, or a block does not divide its layer.

    >>> masks = random_masks(nn.Linear(100, 10), 0.95, seed=0)
    >>> int(masks["weight"].sum())
    50
    >>> masks = random_masks(nn.Linear(100, 8), 0.95, seed=0, block=(4, 1))
    >>> masks["weight"].view(2, 4, 100).all(1).sum().item()  # of 200 blocks
    10
    """
    chosen = prunable(model, include=include, exclude=exclude, first_layer_dense=first_layer_dense)
    grids = grids_of(model, block, chosen)
    sizes = {name: weight.parameter.numel() for name, weight in chosen.items()}
    counts = _counts(sizes, sparsities_of(chosen, sparsity, allocation, overrides), grids)
    masks = {}
    for name, weight in chosen.items():
        grid, shape = grids.get(name), weight.parameter.shape
        mask = torch.zeros(shape if grid is None else grid.grid_shape, dtype=torch.bool)
        order = torch.randperm(mask.numel(), generator=stream(seed, "mask", name))
        mask.view(-1)[order[: counts[name] * mask.numel() // max(1, sizes[name])]] = True
        masks[name] = mask_like(mask if grid is None else grid.spread(mask), weight.parameter)
    return masks


@checked()
def magnitude_masks(
    model: nn.Module,
    sparsity: float,
    *,
    scope: str = "layer",
    allocation: AllocationLike = "uniform",
    seed: int = 0,
    overrides: Mapping[str, float] | None = None,
    block: BlockLike = SINGLE,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
    first_layer_dense: bool = False,
) -> dict[str, Tensor]:
    """Masks that keep the weights of largest magnitude, per layer or over all layers at once.

    Args:
        sparsity: Fraction of zeros over all masks, in [0, 1).
        scope: ``"layer"`` or ``"global"``, see :func:`score_masks`.
        seed: Decides between equal magnitudes, see :func:`score_masks`.
        block: As :func:`random_masks`; a block's magnitude is the sum of its weights' magnitudes.

    The others as :func:`random_masks`.

    Raises:
        ValueError: as :func:`random_masks` and :func:`score_masks`.

    >>> layer = nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -3.0, 2.0, 0.5]]))
    >>> magnitude_masks(layer, 0.5)
    {'weight': tensor([[False,  True,  True, False]])}
    """
    chosen = prunable(model, include=include, exclude=exclude, first_layer_dense=first_layer_dense)
    check_values({name: weight.parameter for name, weight in chosen.items()})
    scores = {name: full(weight.parameter.detach()).abs() for name, weight in chosen.items()}
    grids = grids_of(model, block, chosen)
    if scope == "layer":
        shares = sparsities_of(chosen, sparsity, allocation, overrides)
        return masks_by_score(scores, sparsity, grids, scope=scope, allocation=lambda *_, **__: shares, seed=seed)
    return masks_by_score(scores, sparsity, grids, scope=scope, allocation=allocation, seed=seed, overrides=overrides)


@checked()
def score_masks(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: str = "global",
    allocation: AllocationLike = "uniform",
    seed: int = 0,
    overrides: Mapping[str, float] | None = None,
    block: BlockLike = SINGLE,
    model: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Masks that keep the entries of largest score; where equal scores compete, a seeded draw decides.

    Scores of few different values (signs, ternary or quantised weights) are thus cut evenly over layers and units.
    Where no equal scores compete nothing is drawn.

    Args:
        scores: Parameter name -> score of each weight, finite.
        sparsity: Fraction of zeros, in [0, 1).
        scope: ``"global"`` compares over all layers, and warns by name of a layer that loses everything; ``"layer"``
            gives each its share.
        allocation, overrides: The shares, for ``scope="layer"``.
        seed: Ties draw from ``stream(seed, "ties")``, per layer from ``stream(seed, "ties", name)``.
        block: As :func:`random_masks`; a block's score is the sum of its weights' scores. Where a global ranking meets
            blocks of different sizes, it compares means, and keeps as many weights as fit.
        model: What the scores are of; needed for blocks, whose layers say which axis holds the outputs.

    Raises:
        ValueError: if a score is NaN or infinite, the sparsity infeasible, or a block does not divide its layer.

    >>> score_masks({"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([4.0, 3.0])}, 0.5)
    {'a': tensor([False,  True]), 'b': tensor([ True, False])}
    """
    grids = grids_for(block, model, scores)
    return masks_by_score(scores, sparsity, grids, scope=scope, allocation=allocation, seed=seed, overrides=overrides)


def masks_by_score(
    scores: Mapping[str, Tensor],
    sparsity: float,
    grids: Mapping[str, BlockGrid],
    *,
    scope: str,
    allocation: AllocationLike = "uniform",
    seed: int = 0,
    overrides: Mapping[str, float] | None = None,
    among: Masks | None = None,
) -> dict[str, Tensor]:
    """As :func:`score_masks`, with the blocks of each layer that has some.

    ``among`` are the weights that may be kept, more than the sparsity leaves; by default all.
    """
    check_choice(scope, ("global", "layer"), name="scope")
    if odd := [name for name, score in scores.items() if not isinstance(score, Tensor) or score.dtype == torch.bool]:
        raise TypeError(f"scores must be tensors of numbers, {odd[0]!r} is not.")
    if scope == "layer":
        sparsities = _sparsities({n: s.shape for n, s in scores.items()}, sparsity, allocation, overrides)
        counts = _counts({name: score.numel() for name, score in scores.items()}, sparsities, grids)
        ties = {name: stream(seed, "ties", name) for name in scores}
        candidates = among or {}
        return {
            name: best_of(score, counts[name], grid=grids.get(name), among=candidates.get(name), ties=ties[name])
            for name, score in scores.items()
        }
    if overrides or allocation != "uniform":
        raise ValueError(
            "overrides= and allocation= need scope='layer': a global ranking gives no layer a share of its own."
        )
    return best_of_all(scores, sparsity, grids=grids, among=among, ties=stream(seed, "ties"))


@checked()
def apply_masks_(model: nn.Module, masks: Masks) -> nn.Module:
    """Set every inactive weight of the model to exactly zero, in place; also for copies such as an EMA.

    Args:
        model: Overwritten.
        masks: Parameter name -> mask.

    Raises:
        TypeError, ValueError: if a mask does not fit.

    >>> layer = nn.Linear(2, 1)
    >>> apply_masks_(layer, {"weight": torch.tensor([[False, True]])}).weight[0, 0].item()
    0.0
    """
    parameters = {name: weight.parameter for name, weight in maskable(model).items()}
    check_masks(masks, parameters)
    check_values({name: parameters[name] for name in masks})
    with torch.no_grad():
        for name, mask in masks.items():
            weight = parameters[name].data
            zero_inactive_(local(weight), local(shard_like(mask.to(weight.device), weight)))
    torch.clear_autocast_cache()  # a block of autocast that is under way would compute with its copies of before
    return model


def mask_like(mask: Tensor, parameter: Tensor) -> Tensor:
    """The mask on the parameter's device, in its memory format and parts, so that the two are read in step."""
    made = _empty_like(parameter)
    local(made).copy_(local(shard_like(mask.to(made.device), parameter)))
    return made


def _empty_like(parameter: Tensor) -> Tensor:
    """A mask without values yet. A weight on the meta device has none itself; its mask is made on the CPU."""
    device = "cpu" if parameter.is_meta else parameter.device
    return torch.empty_like(parameter, dtype=torch.bool, device=device, requires_grad=False)


@checked()
def sparsity_of(masks: Masks, model: nn.Module | None = None) -> float:
    """Fraction of zeros over all masks together; weights without a mask do not count.

    Args:
        masks: Parameter name -> mask.
        model: The model that they are of, to be warned of matrices of it that have none.

    Raises:
        TypeError, ValueError: if there are no masks, or one does not fit the model.

    Warns:
        UserWarning: with the share of the model's matrices that stay dense, as :func:`sparseflow.prunable` does.

    >>> sparsity_of({"a": torch.tensor([True, False, False, False])})
    0.75
    """
    if not masks:
        raise ValueError("there are no masks; make some, for instance with sparseflow.random_masks(model, 0.95).")
    if model is not None:
        found = weights(model)
        check_masks(masks, {weight.name: weight.parameter for weight in found})
        if missing := left_out(found, masked=masks):
            warn(missing)
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(map(num_true, masks.values())) / total


@checked()
def overlap(a: Masks, b: Masks) -> dict[str, float]:
    r"""Share of the active weights of ``a`` that are active in ``b`` too, per layer: :math:`|a \cap b| / |a|`.

    Two random masks of density D overlap by D on average.

    Args:
        a: Parameter name -> mask.
        b: Masks of the same weights.

    Raises:
        ValueError: if the two name different weights or shapes.

    >>> overlap({"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, False])})
    {'w': 0.5}
    """
    if set(a) != set(b) or any(a[name].shape != b[name].shape for name in a):
        raise ValueError(
            f"the masks are of different weights: {', '.join(sorted(set(a) ^ set(b))) or 'shapes differ'}."
        )
    return {name: int((a[name] & b[name]).sum()) / max(1, int(a[name].sum())) for name in a}
