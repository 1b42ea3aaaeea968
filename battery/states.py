"""Optimizer state in the trial, found without the library: what a new weight has, and what is off the masks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from battery.network import Training, network
from battery.optimizers import Row
from sparseflow.types import Masks

#: Two runs that differ by less do so by rounding.
ROUNDING = 1e-4
#: The same for quantised state, of the largest number: with 4 bits a second moment is at least a sixteenth of it.
NEAR_ZERO = 0.07


def fresh_states(row: Row, *, steps: int) -> list[dict[str, dict[str, Tensor]]]:
    """State that an optimizer gives weights of zero without a gradient: after one step, and after ``steps``.

    Only what is the same number for every weight: a state that is drawn at random, or NaN, says nothing.
    """
    model = network(0, flat=row.flat)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    training = Training(row, model, objective=lambda model, step: sum_of_zeros(model))
    found = []
    for step in range(1, steps + 1):
        training.step()
        if step in (1, steps):
            found.append(
                {
                    name: {
                        key: value.clone()
                        for optimizer in training.optimizers
                        for key, value in per_weight(optimizer, parameter).items()
                        if value.numel() and bool((value == value.flatten()[0]).all())
                    }
                    for name, parameter in model.named_parameters()
                }
            )
    return found


def sum_of_zeros(model: nn.Module) -> Tensor:
    """A loss of 0 whose gradients are zeros."""
    return torch.stack([(0 * parameter.square()).sum() for parameter in model.parameters()]).sum()


def states_differ(
    ours: Training, by_hand: Training, fresh: list[dict[str, dict[str, Tensor]]], masks: Masks
) -> list[str]:
    """States that are, off the masks, neither those of a weight without a gradient nor those of masking by hand.

    What the optimizer keeps in another basis than the weights' is the same as by hand, and no one's to reset.
    """
    found: set[str] = set()
    for optimizer, other in zip(ours.optimizers, by_hand.optimizers, strict=True):
        for name, mask in masks.items():
            kept = per_weight(other, by_hand.model.get_parameter(name))
            for key, state in per_weight(optimizer, ours.model.get_parameter(name)).items():
                allowed = [states[name][key] for states in fresh if key in states[name]]
                allowed += [kept[key]] if key in kept else []
                off = state.float().masked_fill(mask, 0.0)
                near = (NEAR_ZERO if "quantised" in key else ROUNDING) * float(state.float().abs().max())
                if not any(
                    bool(((off - value.float().masked_fill(mask, 0.0)).abs() <= near).all()) for value in allowed
                ):
                    found.add(key)
    if not found:
        return []
    keys = ", ".join(repr(key) for key in sorted(found))
    return [f"off the masks the state {keys} is not that of a weight which has had no gradient"]


def per_weight(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """State tensors with one number for each weight (or several, along a first dimension), also in lists and dicts.

    Quantised ones are given as the numbers that they stand for.
    """
    found: dict[str, Tensor] = {}

    state = getattr(optimizer, "state", {}).get(parameter, {})

    def walk(key: str, value: Any) -> None:
        if isinstance(value, Tensor) and parameter.shape in (value.shape, value.shape[1:]):
            number = key.removeprefix("state")
            if f"qmap{number}" in state:  # bitsandbytes: codes in a table, and the largest number of each block
                blocks = state[f"qmap{number}"][value.int()].flatten().split(256)
                parts = [
                    block * largest for block, largest in zip(blocks, state[f"absmax{number}"].flatten(), strict=True)
                ]
                found[f"{key} (quantised)"] = torch.cat(parts).view(value.shape)
            elif type(value) in (Tensor, nn.Parameter):
                found[key] = value
            else:
                found[f"{key} (quantised)"] = value.dequantize()
        elif isinstance(value, Mapping):
            for part, inner in value.items():
                walk(f"{key}.{part}" if key else str(part), inner)
        elif isinstance(value, (list, tuple, deque)):
            for index, inner in enumerate(value):
                walk(f"{key}[{index}]", inner)

    walk("", state)
    return found
