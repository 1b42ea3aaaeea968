"""The latest mask update, as long as no optimizer step has followed it: what it left untrained, and how to undo it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._fast import StagedMask, unstaged
from sparseflow.sharded import full, local, num_true
from sparseflow.sparsifier.weights import MaskedWeights


def num_untrained(weights: MaskedWeights) -> int:
    """Number of active weights that are zero, as grown ones are until a step moves them.

    >>> import sparseflow as sf
    >>> model = torch.nn.Linear(4, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    >>> mask = torch.tensor([[True, True, False, False]])
    >>> num_untrained(MaskedWeights(model, [torch.optim.SGD(model.parameters())], {"weight": mask}))
    1
    """
    held = {name: (parameter.detach() == 0) & weights.dense[name] for name, parameter in weights.parameters.items()}
    stored = {name: weight.values.detach() == 0 for name, weight in weights.stored.items()}
    return sum(map(num_true, (held | stored).values()))


def untrained(weights: MaskedWeights, *, step: int) -> str:
    """What an update of this step left untrained, if training ended now; empty where nothing is."""
    if not (count := num_untrained(weights)):
        return ""
    return (
        f"{count} of {sum(weights.counts.values())} active weights are still zero after the mask update of step "
        f"{step}: no step has trained what grew. Where training ends here, end updates earlier with total_steps= or "
        "update_until=, or write `with Sparsifier(...) as sparsifier:`, which takes such an update back."
    )


class Before(NamedTuple):
    """Masks and active weights as they were before an update; they take an eighth of a dense weight and the values."""

    masks: Mapping[str, Tensor | StagedMask]
    """Name -> mask; of weights that are stored as active values alone, their positions."""
    values: Mapping[str, Tensor]
    """Name -> active weights, those of this process."""


def before_update(weights: MaskedWeights) -> Before:
    """Copies of the masks and the active weights; the optimizer's state is not kept."""
    values = {name: weight.values.detach().clone() for name, weight in weights.stored.items()}
    for name, mask in weights.dense.items():
        values[name] = local(weights.parameters[name]).detach()[local(mask)]
    return Before(weights.copies(), values)


@torch.no_grad()
def take_back_(weights: MaskedWeights, before: Before) -> int:
    """Undo an update that grew weights; one that only pruned stays.

    What it dropped returns with the values of before and the optimizer state of a new weight. All processes that share
    weights must call it together.

    Args:
        weights: As the update left them.
        before: What :func:`before_update` kept.

    Returns: the number of weights that the update had grown, all of them untrained.

    >>> import sparseflow as sf
    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, 1.0, 0.0]])
    >>> weights = MaskedWeights(model, [torch.optim.SGD(model.parameters())], {"weight": model.weight != 0})
    >>> before = before_update(weights)
    >>> _ = weights.change_([("weight", torch.tensor([[True, False, True]]))], want_changes=False)
    >>> take_back_(weights, before), model.weight.tolist()
    (1, [[3.0, 1.0, 0.0]])
    """
    grown = sum(_num_grown(weights, name, mask) for name, mask in before.masks.items())
    if not grown:
        return 0
    weights.change_(before.masks.items(), want_changes=False)
    for name, values in before.values.items():
        if name in weights.stored:
            weights.stored[name].values.data.copy_(values)
        else:
            local(weights.parameters[name].data)[local(weights.dense[name])] = values
    return grown


def _num_grown(weights: MaskedWeights, name: str, before: Tensor | StagedMask) -> int:
    if name in weights.stored:
        return int((~torch.isin(weights.stored[name].positions(), unstaged(before))).sum())
    return int(full((weights.dense[name] & ~unstaged(before)).sum()))
