"""What is checked once, at the boundary; the inside trusts it.

Errors call the argument, tensor or weight ``name``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sparseflow.ranges import SPARSITIES, Range
from sparseflow.sharded import full, local, shard_like
from sparseflow.suggest import did_you_mean
from sparseflow.types import NotFiniteError


def check_sparsity(sparsity: float, *, name: str = "sparsity") -> None:
    """Check that a sparsity is a fraction in [0, 1).

    Raises:
        TypeError: if it is no number.
        ValueError: if it is outside.
    """
    SPARSITIES.check(sparsity, name=name)


def check_fraction(value: float, *, name: str) -> None:
    """Check that a value is in [0, 1].

    Raises:
        TypeError: if it is no number.
        ValueError: if it is outside.
    """
    Range(0, 1).check(value, name=name)


def check_choice(value: str, choices: Iterable[str], *, name: str) -> None:
    """Check that a value is one of the choices.

    Raises:
        ValueError: listing the choices, if it is none of them.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.{did_you_mean(value, choices)}"
        )


def check_names(given: Iterable[str], needed: Iterable[str], *, name: str) -> None:
    """Check that a table has an entry for each of the weights and for nothing else.

    Raises:
        ValueError: with the names that are missing, and those that are no weight.
    """
    given, needed = list(given), list(needed)
    missing, unknown = ([n for n in a if n not in b] for a, b in ((needed, given), (given, needed)))
    if missing or unknown:
        faults = [f"has no entry for {', '.join(missing)}"] * bool(missing)
        faults += [f"has {', '.join(map(repr, unknown))}, which is no masked weight"] * bool(unknown)
        raise ValueError(
            f"{name} {' and '.join(faults)}; it needs one entry per masked weight. They are: {', '.join(needed)}."
        )


def check_steps(value: float, *, name: str, least: int) -> None:
    """Check that a number of optimizer steps is whole and large enough.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not whole, or too small.
    """
    Range(least, hint="It counts optimizer steps.").check(value, name=name, whole=True)


def check_finite(scores: Tensor, *, name: str) -> None:
    """Check that no score is NaN or infinite: either would silently win or lose every comparison.

    The sum of finite float32 scores overflows only beyond 1e30; then the slow test decides.

    Raises:
        NotFiniteError: with the number of bad entries.
    """
    if scores.numel() and not torch.isfinite(scores.sum()) and not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise NotFiniteError(
            f"{name} has {bad} of {scores.numel()} entries that are NaN or infinite. Lower the learning rate, clip the "
            "gradients, or look for the first layer whose output is not finite with sparseflow.analysis.signal()."
        )


def check_like(values: Tensor, other: Tensor, *, name: str) -> None:
    """Check that a tensor has the shape of another one.

    Raises:
        ValueError: if it has not.
    """
    if values.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(values.shape)} and must have {tuple(other.shape)}.")


def check_mask(mask: Tensor, *, name: str = "mask", like: Tensor | None = None) -> None:
    """Check that a mask is a bool tensor, of the shape of another tensor if that is given.

    Raises:
        TypeError: if it is not bool.
        ValueError: if its shape is another.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool tensor, got {mask.dtype}. Write mask.bool() or mask != 0.")
    if like is not None:
        check_like(mask, like, name=name)


def check_zero_off_mask(name: str, parameter: Tensor, mask: Tensor) -> None:
    """Check that every inactive weight is zero: otherwise another network would be measured.

    The mask is whole or in the parameter's parts.

    Raises:
        ValueError: if one is not.
    """
    mask = shard_like(mask.to(parameter.device), parameter)
    if bool(full(((parameter.detach() != 0) & ~mask).any())):
        raise ValueError(f"{name!r} is not zero off its mask; call sparseflow.apply_masks_(model, masks) first.")


def check_masks(masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Check that every mask is a bool tensor that fits a parameter of the model, with bytes that are 0 or 1.

    Raises:
        TypeError: a mask is not a bool tensor, or they are no mapping.
        ValueError: a name is unknown, a shape differs, or a byte is another.
    """
    if not isinstance(masks, Mapping):
        raise TypeError(f"masks must be a mapping of names, such as a dict, got {type(masks).__name__}.")
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(
                f"masks has {name!r}, which is no weight of the model. Weights: {', '.join(parameters)}. "
                "See sparseflow.prunable(model). After torch.nn.utils.prune call sparseflow.remove_pruning_(model)."
            )
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"the mask of {name!r} must be a bool tensor, got {kind}. Write mask.bool() or mask != 0.")
        if mask.shape != parameters[name].shape:
            raise ValueError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, its weight {tuple(parameters[name].shape)}. "
                "Make masks for this model, for instance with sparseflow.random_masks(model, 0.95)."
            )
        if not is_binary(mask):
            raise ValueError(
                f"the mask of {name!r} has bytes that are neither 0 nor 1, so that sums and products would count it "
                "wrong; its file or its memory is damaged. Load or make the masks again."
            )


def is_binary(mask: Tensor) -> bool:
    """Whether every byte of a bool tensor is 0 or 1: torch keeps others, and counts and multiplies with them.

    >>> is_binary(torch.tensor([True, False])), is_binary(torch.tensor([1, 2], dtype=torch.uint8).view(torch.bool))
    (True, False)
    """
    held = local(mask.detach())
    return held.is_meta or not held.numel() or int(held.view(torch.uint8).max()) <= 1


def check_values(parameters: Mapping[str, Tensor]) -> None:
    """Check that parameters have values: on the meta device they have a shape only, and writing them does nothing.

    Raises:
        ValueError: naming the first that has none.
    """
    if meta := [name for name, parameter in parameters.items() if parameter.is_meta]:
        raise ValueError(
            f"{meta[0]!r} is on the meta device and has no values. Give the model memory first, with "
            "model.to_empty(device=...) and its checkpoint, or build it outside torch.device('meta')."
        )
