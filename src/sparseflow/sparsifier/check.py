"""Prove that a sparse network is what its masks say."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.masks.select import maskable
from sparseflow.sharded import num_true, shard_like
from sparseflow.sparsifier.optimizers import per_weight_state
from sparseflow.types import BrokenPromiseError, Masks


def check(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    masks: Masks,
    *,
    active_counts: Mapping[str, int] | None = None,
) -> None:
    """Raise where a promise is broken; return in silence where all hold.

    Every mask fits its weight; every inactive weight and every per-weight optimizer state tensor there is exactly 0.0;
    the active counts are as given. ``Sparsifier.check`` passes the counts it started from.

    Args:
        model: The sparse model.
        optimizer: Its optimizer, or ``None`` to look at the weights alone.
        masks: Parameter name -> mask.
        active_counts: Parameter name -> the number of active weights it must have.

    Raises:
        BrokenPromiseError: naming the weight, how many entries are wrong, and what to call.
        TypeError, ValueError: if a mask does not fit the model at all.

    >>> layer = nn.Linear(2, 1)
    >>> check(layer, None, {"weight": torch.tensor([[True, False]])})
    Traceback (most recent call last):
    sparseflow.types.BrokenPromiseError: 1 inactive weight of 'weight' is not zero. Something wrote to it ...
    """
    parameters = {name: weight.parameter for name, weight in maskable(model).items()}
    check_masks(masks, parameters)
    for name, mask in masks.items():
        inactive = ~shard_like(mask.to(parameters[name].device), parameters[name])
        if count := _num_nonzero(parameters[name], inactive):
            raise BrokenPromiseError(
                f"{count} inactive weight{'s' * (count > 1)} of {name!r} {'are' if count > 1 else 'is'} not zero. "
                "Something wrote to it past the optimizer; call sparseflow.apply_masks_(model, masks) after it does."
            )
        if optimizer is not None:
            for key, state in per_weight_state(optimizer, parameters[name]):
                if count := _num_nonzero(state, inactive):
                    raise BrokenPromiseError(
                        f"the optimizer's {key!r} of {name!r} has {count} nonzero entries at inactive weights. Make "
                        "the Sparsifier before the first optimizer step, and load its state_dict with the optimizer's."
                    )
        if active_counts is not None and (active := num_true(mask)) != active_counts[name]:
            raise BrokenPromiseError(f"{name!r} has {active} active weights, it must have {active_counts[name]}.")


def _num_nonzero(tensor: Tensor, where: Tensor) -> int:
    # NaN counts as nonzero: NaN != 0 is true.
    return num_true((tensor.detach() != 0) & where)
