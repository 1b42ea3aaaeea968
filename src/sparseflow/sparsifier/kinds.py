"""What is known of an optimizer without trying it out: zeros that it keeps, and the rate that it starts with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

#: Each weight moves by its own gradient and state alone, so zero gradients and states keep a zero weight at zero.
#: (Rprop and Adamax do too, but they write a smallest step or norm into the state of every weight.)
_ELEMENTWISE = {
    getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")
}


def is_elementwise(optimizer: Any) -> bool:
    """Whether each weight moves by its own gradient and state alone, whatever its place and the others do.

    >>> is_elementwise(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
    True
    """
    return type(optimizer) in _ELEMENTWISE


def keeps_zeros(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> bool:
    """Whether a step leaves a zero weight with zero gradient and state at zero; without an ``eps``, 0 / 0 is NaN.

    The dtype of these parameters decides whether ``eps`` is zero.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> [keeps_zeros(torch.optim.Adam([weight], eps=eps), [weight]) for eps in (1e-8, 0.0)]
    [True, False]
    """
    if not is_elementwise(optimizer):
        return False
    smallest = min(float(group.get("eps", 1.0)) for group in optimizer.param_groups)
    return all(float(torch.tensor(smallest, dtype=parameter.dtype)) > 0 for parameter in parameters)


def initial_rate(group: Mapping[str, Any]) -> float:
    """Learning rate of a group before any schedule: the one that a scheduler remembers, else the group's own.

    >>> initial_rate({"lr": 0.01, "initial_lr": 0.1})
    0.1
    """
    return float(group.get("initial_lr", group["lr"]))
