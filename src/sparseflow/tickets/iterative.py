"""Iterative magnitude pruning: train, prune a little, rewind, and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparseflow._checks import check_choice, check_sparsity
from sparseflow.masks.allocation import uniform
from sparseflow.masks.blocks import SINGLE, BlockGrid, BlockLike, check_one_each, grids_of
from sparseflow.masks.make import apply_masks_, dense_masks, masks_by_score, sparsity_of
from sparseflow.masks.select import Rule, unwrap
from sparseflow.sparsifier.check import check
from sparseflow.tickets.rewind import State, rewind_, snapshot
from sparseflow.types import Masks


class Round(NamedTuple):
    """One training of :func:`iterative_pruning`, finished."""

    sparsity: float
    """Sparsity of ``masks``."""
    masks: dict[str, Tensor]
    """Masks during this round's training."""
    state: dict[str, Tensor]
    """State after this round's training, see :func:`sparseflow.tickets.snapshot`."""


def iterative_pruning(
    model: nn.Module,
    train: Callable[[nn.Module, dict[str, Tensor]], Any],
    *,
    sparsity: float,
    rounds: int,
    rewind_to: State | None,
    scope: str = "global",
    block: BlockLike = SINGLE,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
    first_layer_dense: bool = False,
) -> Iterator[Round]:
    r"""Train, prune the smallest active weights, rewind, and so on until the sparsity is reached.

    After round :math:`r` of :math:`R` prunings the density is

    .. math:: D_r = (1 - S)^{r / R}

    so each removes the same share of what is left: a fifth, for instance, with :math:`1 - S = 0.8^R`. The network is
    trained :math:`R + 1` times, first dense, last at the full sparsity, each time when the next item is asked for; to
    stop early, stop iterating. Pruned weights never return.

    Args:
        model: Holds the weights of the latest training after each item.
        train: ``train(model, masks)`` trains the model in place with the masks fixed, each time with a new optimizer
            and the full learning-rate schedule; what it returns is not used. For round 0 the masks are all active.
        sparsity: :math:`S`, fraction of zeros at the end.
        rounds: :math:`R`, how many prunings.
        rewind_to: The state that each pruned network restarts from (Frankle and Carbin: step 0). It is read after the
            first training, so for late rewinding ``train`` may fill a dict with ``snapshot(model)`` at step K.
            ``None`` keeps the weights, and what restarts is the schedule alone: learning-rate rewinding.
        scope: ``"global"`` ranks the weights of all layers together, as the references do for networks deeper than
            LeNet, and warns of a layer that loses everything; ``"layer"`` prunes each layer by the same share.
        block: Blocks that are pruned as a whole, as :func:`sparseflow.magnitude_masks` takes it.
        include, exclude, first_layer_dense: Which weights are pruned, see :func:`sparseflow.masks.select.weights`.

    Yields: a :class:`Round` for each training.

    Raises:
        TypeError, ValueError: before any training, if the rules match nothing, the sparsity is infeasible or a block
            does not divide its layer; after the first, if ``rewind_to`` is of another model.
        BrokenPromiseError: if ``train`` left inactive weights that are not zero.

    Reference: Frankle and Carbin (2019), *The Lottery Ticket Hypothesis*; Renda et al. (2020), *Comparing Rewinding and
    Fine-tuning in Neural Network Pruning*.

    >>> model = nn.Linear(25, 5)
    >>> untrained = iterative_pruning(
    ...     model, lambda model, masks: None, sparsity=1 - 0.8**3, rounds=3, rewind_to=snapshot(model)
    ... )
    >>> [int(masks["weight"].sum()) for _, masks, _ in untrained]  # 125 times 0.8, 0.64, 0.512
    [125, 100, 80, 64]
    """
    check_sparsity(sparsity)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds!r}. One round is one-shot pruning.")
    masks = dense_masks(model, include=include, exclude=exclude, first_layer_dense=first_layer_dense)
    check_choice(scope, ("global", "layer"), name="scope")
    uniform({name: mask.shape for name, mask in masks.items()}, sparsity)  # infeasible is better known before training
    grids = grids_of(model, block, masks)
    block_sizes = {name: grids[name].size if name in grids else 1 for name in masks}
    check_one_each({name: m.numel() for name, m in masks.items()}, dict.fromkeys(masks, sparsity), block_sizes)
    targets = [1 - (1 - sparsity) ** (r / rounds) for r in range(1, rounds + 1)]
    return _rounds(model, train, masks, grids, targets, rewind_to=rewind_to, scope=scope)


def _rounds(
    model: nn.Module,
    train: Callable[[nn.Module, dict[str, Tensor]], Any],
    masks: dict[str, Tensor],
    grids: Mapping[str, BlockGrid],
    targets: Iterable[float],
    *,
    rewind_to: State | None,
    scope: str,
) -> Iterator[Round]:
    yield _trained(model, train, masks)
    for target in targets:
        masks = _prune(model, masks, grids, sparsity=target, scope=scope)
        if rewind_to is None:
            apply_masks_(model, masks)
        else:
            rewind_(model, rewind_to, masks)
        yield _trained(model, train, masks)


def _trained(model: nn.Module, train: Callable[[nn.Module, dict[str, Tensor]], Any], masks: dict[str, Tensor]) -> Round:
    train(model, masks)
    check(model, None, masks)
    return Round(sparsity_of(masks), masks, snapshot(model))


def _prune(
    model: nn.Module, masks: Masks, grids: Mapping[str, BlockGrid], *, sparsity: float, scope: str
) -> dict[str, Tensor]:
    """Keep the largest active weights."""
    inner = unwrap(model)
    scores = {name: inner.get_parameter(name).detach().abs() for name in masks}
    return masks_by_score(scores, sparsity, grids, scope=scope, among=masks)
