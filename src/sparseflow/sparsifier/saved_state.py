"""A Sparsifier's state, taken from its parts and given back to them; :mod:`sparseflow.sparsifier.state` checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.sharded import shard_like
from sparseflow.sparsifier.listener import Listener
from sparseflow.sparsifier.optimizers import leave_alone, left_alone
from sparseflow.sparsifier.weights import MaskedWeights


def state_of(
    weights: MaskedWeights, listener: Listener, optimizers: Sequence[torch.optim.Optimizer], block: Mapping[str, Any]
) -> dict[str, Any]:
    """Copies of everything that a resumed run needs besides the model's and the optimizers' own state.

    Args:
        weights: Masks and budgets.
        listener: Steps, draws and gradients so far.
        optimizers: In the order in which they were given.
        block: Name -> block, of the weights whose connections move in blocks.

    Raises:
        RuntimeError: between a step and its mask update, which a resumed run would miss.
    """
    reserve = listener.reserve
    if listener.is_updating:
        raise RuntimeError(
            f"step {listener.step_count} is taken and its mask update is not: a run resumed from here would miss it. "
            "Save in after_update, or after optimizer.step()."
        )
    stepped = [place for place, each in enumerate(optimizers) if id(each) in listener.stepped]
    return {
        "masks": _copies(weights.masks),
        "step_count": listener.step_count,
        "last_update": listener.last_update,
        "generator": listener.generator.get_state(),
        "gradient_mean": _copies(listener.kept.mean),
        "budgets": dict(weights.budgets),
        "learning_rates": listener.rates.state(),
        "states_left_alone": _states_left_alone(weights),
        **({"stepped": stepped} if stepped else {}),
        **({"reserve": _copies(reserve.values)} if reserve else {}),
        **({"block": block} if block else {}),
        **({"rules": listener.rules.state()} if listener.rules else {}),
    }


def restore_(
    weights: MaskedWeights,
    listener: Listener,
    optimizers: Sequence[torch.optim.Optimizer],
    state: Mapping[str, Any],
) -> None:
    """Take over a state that was checked; arguments as :func:`state_of`."""
    parameters = weights.parameters
    weights.load_(state["masks"])
    weights.budgets = dict(state.get("budgets", weights.counts))  # earlier versions saved none
    for name, optimizer in weights.optimizer_of.items():
        keys = state.get("states_left_alone", {}).get(name, ())  # earlier versions saved none
        if set(keys) != left_alone(optimizer, weights.tensors[name]):
            leave_alone(optimizer, weights.tensors[name], keys)
    listener.step_count, listener.last_update = int(state["step_count"]), int(state["last_update"])
    listener.generator.set_state(state["generator"].cpu())
    listener.kept.mean = _placed(state["gradient_mean"], parameters)
    if listener.reserve is not None and "reserve" in state:
        listener.reserve.load_(_placed(state["reserve"], parameters))
    listener.rates.load(state["learning_rates"])
    listener.is_untrained = listener.last_update == listener.step_count and listener.reserve is None
    listener.stepped = {id(each) for place, each in enumerate(optimizers) if place in state.get("stepped", ())}
    listener.rules.load(state.get("rules", {}))


def _states_left_alone(weights: MaskedWeights) -> dict[str, list[str]]:
    """Name -> names of the optimizer states that were taken for per-weight state and are none, if there are any."""
    found = {name: sorted(left_alone(o, weights.tensors[name])) for name, o in weights.optimizer_of.items()}
    return {name: keys for name, keys in found.items() if keys}


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _placed(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies on the devices of the weights, and in their parts; of weights that are stored alone as they are."""
    likes = {name: (tensor, parameters.get(name, tensor)) for name, tensor in tensors.items()}
    return {name: shard_like(tensor.to(like.device, copy=True), like) for name, (tensor, like) in likes.items()}
