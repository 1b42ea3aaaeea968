"""Optimizers that call a closure in their step (LBFGS, Lightning's): gradients are masked after each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.sparsifier.part import Part
from sparseflow.sparsifier.weights import MaskedWeights


def masked_closure(
    closure: Callable[[], Any],
    part: Part,
    weights: MaskedWeights,
    *,
    dense: Sequence[tuple[nn.Parameter, Tensor]],
    begin_again: Callable[[], None],
    mask: Callable[[bool], None],
) -> Callable[[], Any]:
    """A closure after which gradients are zero off the masks.

    Some optimizers move by the gradients that are there before they call it, so these are masked now. But the closure
    may add to them (Lightning, where it accumulates), or run no backward pass at all (its manual optimization): growth
    reads all of it then.

    Args:
        closure: Runs the backward pass and returns the loss.
        part: The optimizer that will call it, and its weights.
        weights: Masks of the weights.
        dense: Weights and their gradients of now, which growth looks at as the closure finds or leaves them.
        begin_again: Called before each call but the first.
        mask: Called after each call with whether it is the first, to mask its gradients.
    """
    copies = [(weight, gradient, gradient.clone()) for weight, gradient in dense]
    weights.clear_gradients_(part.weights)
    versions = [gradient._version for _, gradient, _ in copies]
    evaluations = 0

    def evaluate() -> Any:
        nonlocal evaluations
        if evaluations == 0:
            with torch.no_grad():
                for (parameter, gradient, copy), version in zip(copies, versions, strict=True):
                    if parameter.grad is gradient and gradient._version == version:
                        gradient.copy_(copy)
            copies.clear()
        if not part.elementwise:
            # LBFGS's directions remember weights that were dropped since.
            weights.clear_(part.weights, steady=False)
        if evaluations:
            begin_again()
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            mask(evaluations == 0)
        evaluations += 1
        return loss

    return evaluate
