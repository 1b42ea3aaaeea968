"""The flat vectors of a plan, and their exchange with a torch model and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.plans.optimizer import adam, sgd

#: Per-weight state of each optimizer, in the order of the kernels' arguments.
_STATES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
}
#: Options that the formulas of the kernels leave out.
_OFF = ("dampening", "maximize", "amsgrad")


class Part:
    """One parameter in the flat vector: the active entries of a weight, or all of a bias."""

    def __init__(self, name: str, parameter: nn.Parameter, begin: int, pattern: Pattern | None) -> None:
        size = parameter.numel() if pattern is None else pattern.num_active
        self.name = name
        self.parameter = parameter
        self.pattern = pattern
        self.where = slice(begin, begin + size)

    def gather(self, dense: Tensor) -> Tensor:
        """The entries of a tensor of the parameter's shape."""
        return dense.detach().reshape(-1) if self.pattern is None else self.pattern.gather(dense.detach())

    def scatter(self, values: Tensor) -> Tensor:
        """A tensor of the parameter's shape, zero where inactive."""
        return values.detach().clone() if self.pattern is None else self.pattern.scatter(values)


class State:
    """Values, gradient and optimizer state of all parameters as flat vectors.

    Without an optimizer nothing is trained.

    Raises:
        TypeError, ValueError: if the optimizer or one of its options is not supported.
    """

    def __init__(self, parts: Sequence[Part], optimizer: torch.optim.Optimizer | None, dtype: torch.dtype) -> None:
        self.parts = parts
        self.optimizer = optimizer
        self.values = torch.zeros(parts[-1].where.stop, dtype=dtype)
        self.names = () if optimizer is None else _supported(optimizer)
        self.moments = [torch.zeros_like(self.values) for _ in self.names]
        self.steps = 0
        self._edges = np.array([0, *(part.where.stop for part in parts)], np.int64)
        self._groups: list[Mapping[str, Any]] = []
        self._started = [False] * len(parts)

    def read(self) -> None:
        """Take everything from the model and the optimizer."""
        for part in self.parts:
            self.values[part.where] = part.gather(part.parameter)
        if self.optimizer is None:
            return
        # torch makes new groups when it loads a state.
        self._groups = [_group_of(part, self.optimizer) for part in self.parts]
        steps = set()
        for i, part in enumerate(self.parts):
            state = self.optimizer.state.get(part.parameter, {})
            for name, moment in zip(self.names, self.moments, strict=True):
                found = state.get(name)
                moment[part.where] = 0 if found is None else part.gather(found)
                self._started[i] = found is not None
            steps.add(int(state.get("step", 0)))
        if len(steps) > 1:
            raise ValueError(
                f"the parameters must have taken equally many steps, got {sorted(steps)}. Use the modules."
            )
        self.steps = steps.pop()

    @torch.no_grad()
    def write(self) -> None:
        """Give everything back to the model and the optimizer; inactive entries become exactly zero."""
        for i, part in enumerate(self.parts):
            part.parameter.copy_(part.scatter(self.values[part.where]))
            if self.optimizer is None or not self._started[i]:
                continue
            state = self.optimizer.state[part.parameter]
            for name, moment in zip(self.names, self.moments, strict=True):
                dense = part.scatter(moment[part.where])
                if state.get(name) is None:
                    state[name] = torch.empty_like(part.parameter)
                state[name].copy_(dense)
            if len(self.names) == 2:
                state["step"] = torch.tensor(float(self.steps))

    def step(self, gradient: NDArray[Any]) -> None:
        """One optimizer step by the optimizer's present settings."""
        if self.optimizer is None:
            raise ValueError("the plan was made without an optimizer. Write engine.plan(model, masks, optimizer).")
        settings = np.array([_settings(group) for group in self._groups])
        moments = [moment.numpy() for moment in self.moments]
        self.steps += 1
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # else torch's schedulers warn
        if len(moments) == 2:
            adam(self.values.numpy(), gradient, *moments, self._edges, settings, self.steps)
            self._started = [True] * len(self.parts)
        else:
            sgd(self.values.numpy(), gradient, *moments, self._edges, settings)
            self._started = [was or row[1] != 0 for was, row in zip(self._started, settings, strict=True)]


def _supported(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    if type(optimizer) not in _STATES:
        raise TypeError(
            f"a plan steps like SGD, Adam or AdamW, got {type(optimizer).__name__}. Use the modules: "
            "sparseflow.engine.convert(model, masks)."
        )
    for group in optimizer.param_groups:
        for option in _OFF:
            if group.get(option):
                raise ValueError(f"a plan has no {option}={group[option]!r}; leave it out, or use the modules.")
    return _STATES[type(optimizer)]


def _group_of(part: Part, optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
    for group in optimizer.param_groups:
        if any(parameter is part.parameter for parameter in group["params"]):
            return group
    raise ValueError(f"the optimizer does not hold {part.name!r}. Add it with optimizer.add_param_group.")


def _settings(group: Mapping[str, Any]) -> tuple[float, ...]:
    rate, decay = float(group["lr"]), float(group["weight_decay"])
    if "betas" not in group:
        return rate, float(group["momentum"]), decay, float(group["nesterov"])
    first, second = group["betas"]
    return rate, float(first), float(second), float(group["eps"]), decay, float(group["decoupled_weight_decay"])
