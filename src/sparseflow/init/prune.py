"""Scores for pruning at initialisation: SNIP, GraSP and SynFlow. Turn them into masks with ``score_masks``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_sparsity
from sparseflow.batches import each, forward, loss_of, map_tensors, output_of
from sparseflow.boundary import checked
from sparseflow.gradients import loss_gradient, trainable, twice_differentiable, undisturbed
from sparseflow.masks.blocks import SINGLE, BlockLike, grids_of
from sparseflow.masks.make import apply_masks_, dense_masks, masks_by_score
from sparseflow.masks.select import Rule, prunable, unwrap
from sparseflow.precision import in_widest_dtype
from sparseflow.types import Batches, LossFn


def scored(model: nn.Module, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = ()) -> dict[str, nn.Parameter]:
    """The weights that get masks, by name: those that a gradient can score.

    Raises:
        ValueError: naming one that is frozen.

    >>> list(scored(nn.Linear(2, 1)))
    ['weight']
    """
    found = {name: weight.parameter for name, weight in prunable(model, include=include, exclude=exclude).items()}
    if frozen := [name for name, parameter in found.items() if not parameter.requires_grad]:
        raise ValueError(
            f"{frozen[0]!r} is frozen, so that no gradient scores it. Call requires_grad_(True) on it, or leave it out "
            f"with exclude={frozen!r}."
        )
    return found


@checked()
def snip(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Batches,
    *,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
) -> dict[str, Tensor]:
    r"""Connection sensitivity: how much the loss changes to first order when a weight is cut.

    .. math:: s_{ij} = |w_{ij}\, \partial L / \partial w_{ij}|

    Args:
        model: Dense, as initialised; left as it is.
        loss_fn: Mean loss of a batch; ``None`` for the one that the model returns, see
            :func:`sparseflow.batches.loss_of`.
        batches: Pairs of inputs and targets, or mappings with ``labels``, see :mod:`sparseflow.batches`.
        include: Rules for more weights to score, see :func:`sparseflow.masks.select.weights`.
        exclude: Rules for weights to leave out.

    Returns: parameter name -> score; the highest should stay.

    Raises:
        ValueError: naming a weight that is frozen.

    Reference: Lee et al. (2019), *SNIP: Single-shot network pruning based on connection sensitivity*.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> snip(layer, lambda output, target: output.sum(), [(torch.tensor([[1.0, 4.0]]), torch.zeros(1))])
    {'weight': tensor([[3., 4.]])}
    """
    chosen = scored(model, include=include, exclude=exclude)
    _, gradient = loss_gradient(model, loss_fn, batches)
    return {name: (weight.detach() * gradient[name]).abs() for name, weight in chosen.items()}


@checked()
def grasp(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Batches,
    *,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
) -> dict[str, Tensor]:
    r"""Gradient signal preservation: the weights that the gradient flow after pruning needs most score highest.

    .. math:: s_{ij} = w_{ij}\, (H g)_{ij}

    To first order, cutting a weight changes :math:`g^\top g` by :math:`-2 s_{ij}`; weights of high score are kept. (The
    original prunes the highest of :math:`-w H g`, the same order.)

    No temperature: the loss is used as given.

    Arguments and errors as :func:`snip`.

    Returns: parameter name -> score; the highest should stay.

    Reference: Wang et al. (2020), *Picking winning tickets before training by preserving gradient flow*.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> half_square = lambda output, target: (output**2).sum() / 2
    >>> grasp(layer, half_square, [(torch.tensor([[1.0, 0.0]]), torch.zeros(1))])  # H = diag(1, 0), g = (1, 0)
    {'weight': tensor([[1., 0.]])}
    """
    found = list(each(batches))
    chosen = scored(model, include=include, exclude=exclude)
    _, gradient = loss_gradient(model, loss_fn, found)
    parameters = trainable(model)
    total = sum(batch.size for batch in found)
    product = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    # Without wrappers: torch.compile makes first derivatives only.
    with undisturbed(model), torch.enable_grad(), twice_differentiable():
        for inputs, targets, size in found:
            loss = loss_of(loss_fn, forward(unwrap(model), inputs), targets) * (size / total)
            first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
            terms = [
                (g * gradient[name]).sum()
                for name, g in zip(parameters, first, strict=True)
                if g is not None and g.requires_grad
            ]
            if not terms:  # a linear loss
                continue
            inner = torch.stack(terms).sum()
            second = torch.autograd.grad(inner, list(parameters.values()), allow_unused=True)
            for name, part in zip(parameters, second, strict=True):
                if part is not None:
                    product[name] += part
    return {name: weight.detach() * product[name] for name, weight in chosen.items()}


@checked()
def synflow_masks(
    model: nn.Module,
    sparsity: float,
    example_inputs: Any,
    *,
    rounds: int = 100,
    block: BlockLike = SINGLE,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
) -> dict[str, Tensor]:
    r"""Masks by iterative synaptic flow: no data, no layer collapse.

    .. math:: s_{ij} = w_{ij}\, \partial R / \partial w_{ij}, \qquad R = \mathbf{1}^\top f_{|w|}(\mathbf{1})

    re-scored and re-cut over :math:`k = 1 \ldots n` rounds down to density :math:`(1 - S)^{k/n}`. In float64 if
    the model runs in it: R is a product over layers and overflows float32 in deep networks. Biases count as zero.

    Args:
        model: Dense, as initialised; left as it is.
        sparsity: Fraction of zeros over all prunable weights together, in [0, 1).
        example_inputs: What the model takes, see :mod:`sparseflow.batches`; of floating-point tensors only the shape
            matters.
        rounds: ``n`` (the authors: 100).
        block: As :func:`sparseflow.score_masks`; a block's score is the sum of its weights' scores.
        include: Which weights get masks.
        exclude: Which do not.

    Raises:
        ValueError: if the sparsity is out of range, ``rounds`` below 1, or a block does not divide its layer.

    Warns:
        PrecisionWarning: if the model does not run in float64.

    Reference: Tanaka et al. (2020), *Pruning neural networks without any data by iteratively conserving synaptic flow*.

    >>> masks = synflow_masks(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 0.75, torch.ones(1, 8), rounds=5)
    >>> sum(int(mask.sum()) for mask in masks.values())
    32
    """
    check_sparsity(sparsity)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}.")
    flow = partial(_synflow_masks, model, sparsity, example_inputs, rounds, block, include=include, exclude=exclude)
    return in_widest_dtype(model, flow)


def _synflow_masks(
    model: nn.Module,
    sparsity: float,
    example_inputs: Any,
    rounds: int,
    block: BlockLike,
    dtype: torch.dtype,
    *,
    include: Iterable[Rule],
    exclude: Iterable[Rule],
) -> dict[str, Tensor]:
    probe = copy.deepcopy(unwrap(model)).to(dtype).eval().requires_grad_()
    ones = map_tensors(lambda a: torch.ones_like(a, dtype=dtype) if a.is_floating_point() else a, example_inputs)
    with torch.no_grad():
        for name, parameter in probe.named_parameters():
            # Flow through a bias bypasses the layers before it, which could then lose everything.
            parameter.zero_() if name.endswith("bias") else parameter.abs_()
    masks = dense_masks(probe, include=include, exclude=exclude)
    grids = grids_of(probe, block, masks)
    parameters = {name: probe.get_parameter(name) for name in masks}
    for round_ in range(1, rounds + 1):
        apply_masks_(probe, masks)
        flow = output_of(forward(probe, ones)).sum()
        gradients = torch.autograd.grad(flow, list(parameters.values()), materialize_grads=True)
        scores = {name: p.detach() * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}
        # Among those that are left, so that none comes back.
        masks = masks_by_score(scores, 1 - (1 - sparsity) ** (round_ / rounds), grids, scope="global", among=masks)
    return masks
