"""Prove that a sparse network is what its masks say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.attached import check_held_masks, elsewhere
from sparseflow.masks.select import maskable
from sparseflow.sharded import num_true, shard_like
from sparseflow.sparsifier.optimizers import weight_states
from sparseflow.sparsifier.weights import MaskedWeights
from sparseflow.sparsifier.wrappers import stepping
from sparseflow.types import BrokenPromiseError, Masks


class Checked(NamedTuple):
    """What a check looked at, and found to hold."""

    weights: int
    """Masked weights (tensors)."""
    state_tensors: int
    """Tensors of optimizer state with one value per weight."""
    ranks: int
    """Processes that were found to agree, when masks were given and at each update since."""
    unfinished: tuple[str, ...] = ()
    """What the method, or its latest update, would leave undone if training ended now."""

    def __str__(self) -> str:
        """One line to print, and one for each thing unfinished."""
        held = f"{self.weights} weights, {self.state_tensors} optimizer state tensors, {self.ranks} rank(s): all hold"
        return "\n".join((held, *self.unfinished))


def check(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
    masks: Masks,
    *,
    active_counts: Mapping[str, int] | None = None,
) -> Checked:
    """Raise where a promise is broken; say what was looked at where all hold.

    Every mask fits its weight and is the one that a Sparsifier of the model holds now; every inactive weight is exactly
    0.0, and per-weight optimizer state there is what the optimizer gives a new weight; the active counts are as given.
    ``Sparsifier.check`` passes the counts it started from.

    Args:
        model: The sparse model.
        optimizer: Its optimizer, or several, or ``None`` to look at the weights alone.
        masks: Parameter name -> mask.
        active_counts: Parameter name -> the number of active weights it must have.

    Raises:
        BrokenPromiseError: naming the weight, how many entries are wrong, and what to call.
        TypeError, ValueError: if a mask does not fit the model at all, or is of an earlier time.

    >>> layer = nn.Linear(2, 1)
    >>> check(layer, None, {"weight": torch.tensor([[True, False]])})
    Traceback (most recent call last):
    sparseflow.types.BrokenPromiseError: 1 inactive weight of 'weight' is not zero. Something wrote to it ...
    """
    parameters = {name: weight.parameter for name, weight in maskable(model).items()}
    check_masks(masks, parameters)
    check_held_masks(masks, parameters)
    given: Sequence[Any] = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
    optimizers = [stepping(each) for each in given if each is not None]
    state_tensors = 0
    for name, mask in masks.items():
        inactive = ~shard_like(mask.to(parameters[name].device), parameters[name])
        if count := _num_nonzero(parameters[name], inactive):
            raise BrokenPromiseError(nonzero_message(name, parameters[name], mask, count))
        for each in optimizers:
            for state in weight_states(each, parameters[name]):
                state_tensors += 1
                if count := state.num_stale(inactive):
                    raise BrokenPromiseError(
                        f"the optimizer's {state.key!r} of {name!r} has {count} inactive entries that are not "
                        f"{state.fresh:g}, its value for a new weight: it was written past the Sparsifier, or loaded "
                        "after it; the next optimizer.step() clears what was loaded. Where no step has followed yet, "
                        "check after it; else load the optimizer's state that was saved together with these masks."
                    )
        if active_counts is not None and (active := num_true(mask)) != active_counts[name]:
            raise BrokenPromiseError(f"{name!r} has {active} active weights, it must have {active_counts[name]}.")
    return Checked(len(masks), state_tensors, 1)


def check_weights(model: nn.Module, weights: MaskedWeights) -> Checked:
    """Prove every promise about the weights that a Sparsifier holds, see :func:`check`, and of those stored alone.

    Raises:
        BrokenPromiseError: naming the first that is broken.
    """
    optimizers = list({id(optimizer): optimizer for optimizer in weights.optimizer_of.values()}.values())
    found = check(model, optimizers, weights.dense, active_counts=weights.counts)
    for name, weight in weights.stored.items():
        if (count := weight.values.numel()) != weights.counts[name]:
            raise BrokenPromiseError(f"{name!r} has {count} active weights, it must have {weights.counts[name]}.")
    return found._replace(weights=found.weights + len(weights.stored))


def nonzero_message(name: str, parameter: Tensor, mask: Tensor, count: int) -> str:
    """What is wrong with a weight that is not zero off its mask in ``count`` places, and what to type."""
    wrong = f"{count} inactive weight{'s' * (count > 1)} of {name!r} {'are' if count > 1 else 'is'} not zero. "
    if elsewhere(parameter, mask):
        return wrong + (
            "The weight is sparse, but not where its mask is: it was trained with other masks. Load the Sparsifier's "
            "state that was saved with it (sparsifier.load_state_dict, or state= where the Sparsifier is made), or cut "
            "it on purpose with sparseflow.apply_masks_(model, sparsifier.masks)."
        )
    return wrong + (
        "Something wrote to it past the optimizer; call sparseflow.apply_masks_(model, sparsifier.masks) after it does."
    )


def _num_nonzero(tensor: Tensor, where: Tensor) -> int:
    # NaN counts as nonzero: NaN != 0 is true.
    return num_true((tensor.detach() != 0) & where)
