"""Scores for pruning at initialisation: SNIP, GraSP and SynFlow. Turn them into masks with ``score_masks``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_sparsity
from sparseflow.gradients import loss_gradient, trainable, undisturbed
from sparseflow.masks.make import apply_masks_, dense_masks, score_masks
from sparseflow.masks.select import Rule, prunable, unwrap
from sparseflow.types import Batches, LossFn


def snip(
    model: nn.Module, loss_fn: LossFn, batches: Batches, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = ()
) -> dict[str, Tensor]:
    r"""Connection sensitivity: how much the loss changes to first order when a weight is cut.

    .. math:: s_{ij} = |w_{ij}\, \partial L / \partial w_{ij}|

    Args:
        model: Dense, as initialised; left as it is.
        loss_fn: Mean loss of a batch.
        batches: Pairs of inputs and targets.
        include: Rules for more weights to score, see :func:`sparseflow.masks.select.weights`.
        exclude: Rules for weights to leave out.

    Returns: parameter name -> score; the highest should stay.

    Reference: Lee et al. (2019), *SNIP: Single-shot network pruning based on connection sensitivity*.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> snip(layer, lambda output, target: output.sum(), [(torch.tensor([[1.0, 4.0]]), torch.zeros(1))])
    {'weight': tensor([[3., 4.]])}
    """
    chosen = prunable(model, include=include, exclude=exclude)
    _, gradient = loss_gradient(model, loss_fn, batches)
    return {name: (weight.parameter.detach() * gradient[name]).abs() for name, weight in chosen.items()}


def grasp(
    model: nn.Module, loss_fn: LossFn, batches: Batches, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = ()
) -> dict[str, Tensor]:
    r"""Gradient signal preservation: the weights that the gradient flow after pruning needs most score highest.

    .. math:: s_{ij} = w_{ij}\, (H g)_{ij}

    To first order, cutting a weight changes :math:`g^\top g` by :math:`-2 s_{ij}`; weights of high score are kept. (The
    original prunes the highest of :math:`-w H g`, the same order.)

    No temperature: the loss is used as given.

    Arguments as :func:`snip`.

    Returns: parameter name -> score; the highest should stay.

    Reference: Wang et al. (2020), *Picking winning tickets before training by preserving gradient flow*.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> half_square = lambda output, target: (output**2).sum() / 2
    >>> grasp(layer, half_square, [(torch.tensor([[1.0, 0.0]]), torch.zeros(1))])  # H = diag(1, 0), g = (1, 0)
    {'weight': tensor([[1., 0.]])}
    """
    batches = list(batches)
    chosen = prunable(model, include=include, exclude=exclude)
    _, gradient = loss_gradient(model, loss_fn, batches)
    parameters = trainable(model)
    total = sum(len(targets) for _, targets in batches)
    product = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    with undisturbed(model), torch.enable_grad():
        for inputs, targets in batches:
            loss = loss_fn(model(inputs), targets) * (len(targets) / total)
            first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
            terms = [(g * gradient[name]).sum() for name, g in zip(parameters, first, strict=True) if g is not None]
            inner = torch.stack(terms).sum()
            second = torch.autograd.grad(inner, list(parameters.values()), allow_unused=True)
            for name, part in zip(parameters, second, strict=True):
                if part is not None:
                    product[name] += part
    return {name: weight.parameter.detach() * product[name] for name, weight in chosen.items()}


def synflow_masks(
    model: nn.Module,
    sparsity: float,
    example_inputs: Tensor | tuple[Any, ...],
    *,
    rounds: int = 100,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
) -> dict[str, Tensor]:
    r"""Masks by iterative synaptic flow: no data, no layer collapse.

    .. math:: s_{ij} = w_{ij}\, \partial R / \partial w_{ij}, \qquad R = \mathbf{1}^\top f_{|w|}(\mathbf{1})

    re-scored and re-cut over :math:`k = 1 \ldots n` rounds down to density :math:`(1 - S)^{k/n}`. In float64: R is a
    product over layers and overflows float32 in deep networks. Biases count as zero.

    Args:
        model: Dense, as initialised; left as it is.
        sparsity: Fraction of zeros over all prunable weights together, in [0, 1).
        example_inputs: Only its shape matters; a tuple for several arguments.
        rounds: ``n`` (the authors: 100).
        include: Which weights get masks.
        exclude: Which do not.

    Raises:
        ValueError: if the sparsity is out of range or ``rounds`` below 1.

    Reference: Tanaka et al. (2020), *Pruning neural networks without any data by iteratively conserving synaptic flow*.

    >>> masks = synflow_masks(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 0.75, torch.ones(1, 8), rounds=5)
    >>> sum(int(mask.sum()) for mask in masks.values())
    32
    """
    check_sparsity(sparsity)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}.")
    probe = copy.deepcopy(unwrap(model)).double().eval()
    arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    ones = [torch.ones_like(a, dtype=torch.float64) if a.is_floating_point() else a for a in arguments]
    with torch.no_grad():
        for name, parameter in probe.named_parameters():
            # Flow through a bias bypasses the layers before it, which could then lose everything.
            parameter.zero_() if name.endswith("bias") else parameter.abs_()
    masks = dense_masks(probe, include=include, exclude=exclude)
    parameters = {name: probe.get_parameter(name) for name in masks}
    for round_ in range(1, rounds + 1):
        apply_masks_(probe, masks)
        flow = probe(*ones).sum()
        gradients = torch.autograd.grad(flow, list(parameters.values()))
        # Weights that are cut score below every other, so that none comes back.
        scores = {
            name: (p.detach() * g).masked_fill(~masks[name], -1.0)
            for (name, p), g in zip(parameters.items(), gradients, strict=True)
        }
        masks = score_masks(scores, 1 - (1 - sparsity) ** (round_ / rounds))
    return masks
