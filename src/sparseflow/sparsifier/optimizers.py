"""Properties of optimizers that the Sparsifier depends on: zeros that they keep, state, and learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: Each weight moves by its own gradient and state alone, so zero gradients and states keep a zero weight at zero.
#: (Rprop and Adamax do too, but they write a smallest step or norm into the state of every weight.)
_ELEMENTWISE = {
    getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")
}


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that really steps; wrappers of training frameworks (accelerate, Lightning) hold it.

    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    >>> innermost(optimizer) is optimizer
    True
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def keeps_zeros(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> bool:
    """Whether a step leaves a zero weight with zero gradient and state at zero; without an ``eps``, 0 / 0 is NaN.

    The dtype of these parameters decides whether ``eps`` is zero.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> [keeps_zeros(torch.optim.Adam([weight], eps=eps), [weight]) for eps in (1e-8, 0.0)]
    [True, False]
    """
    if type(optimizer) not in _ELEMENTWISE:
        return False
    smallest = min(float(group.get("eps", 1.0)) for group in optimizer.param_groups)
    return all(float(torch.tensor(smallest, dtype=parameter.dtype)) > 0 for parameter in parameters)


def leaves_gradients(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> bool:
    """Whether a step leaves these parameters' gradients as they are.

    The foreach version of SGD adds Nesterov's momentum to them in place, unless weight decay or ``maximize`` has made
    a copy before; torch takes that version by itself on GPUs.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> nesterov = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    >>> [leaves_gradients(torch.optim.SGD([weight], weight_decay=decay, **nesterov), [weight]) for decay in (0.0, 0.1)]
    [False, True]
    """
    asked = {id(parameter) for parameter in parameters}
    return not any(
        group.get("nesterov")
        and not (group["weight_decay"] or group.get("maximize") or group.get("fused") or group.get("foreach") is False)
        for group in optimizer.param_groups
        if any(id(parameter) in asked for parameter in group["params"])
    )


def per_weight_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's state tensors that hold one value per weight, recognised by their shape, with their keys.

    >>> layer = nn.Linear(2, 1)
    >>> optimizer = torch.optim.Adam(layer.parameters())
    >>> layer(torch.ones(1, 2)).sum().backward(); optimizer.step()
    >>> [key for key, _ in per_weight_state(optimizer, layer.weight)]
    ['exp_avg', 'exp_avg_sq']
    """
    state = optimizer.state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.shape == parameter.shape:
            yield key, value


def initial_rate(group: Mapping[str, Any]) -> float:
    """Learning rate of a group before any schedule: the one that a scheduler remembers, else the group's own.

    >>> initial_rate({"lr": 0.01, "initial_lr": 0.1})
    0.1
    """
    return float(group.get("initial_lr", group["lr"]))


def learning_rate_ratios(optimizer: torch.optim.Optimizer, initial: Iterable[float]) -> dict[int, float]:
    """``id`` of each parameter -> the learning rate of its group over the group's initial one; 1 where that is 0.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> learning_rate_ratios(torch.optim.SGD([weight], lr=0.1), [0.4])[id(weight)]
    0.25
    """
    return {
        id(parameter): (float(group["lr"]) / before if before else 1.0)
        for group, before in zip(optimizer.param_groups, initial, strict=False)
        for parameter in group["params"]
    }


def check_held(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Check that the optimizer holds every parameter that requires a gradient.

    Raises:
        ValueError: naming the parameter that it does not hold.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in parameters.items():
        if parameter.requires_grad and id(parameter) not in held:
            raise ValueError(
                f"the optimizer does not hold {name!r}, so its mask could not be kept. Add it with "
                "optimizer.add_param_group, freeze it with requires_grad_(False), or leave it out with exclude=."
            )
