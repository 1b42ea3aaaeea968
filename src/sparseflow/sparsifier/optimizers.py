"""Properties of optimizers that the Sparsifier depends on: zeros that they keep, state, and learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def optimizers_of(
    optimizers: Sequence[torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.optim.Optimizer]:
    """Name of each parameter -> the optimizer that holds it; a frozen one may be held by none.

    Raises:
        ValueError: naming a parameter that requires a gradient and no optimizer holds, or that two of them hold.

    >>> layer = nn.Linear(1, 1)
    >>> list(optimizers_of([torch.optim.SGD(layer.parameters())], {"weight": layer.weight}))
    ['weight']
    """
    holders: dict[int, list[torch.optim.Optimizer]] = {}
    for optimizer in optimizers:
        for parameter in {p for group in optimizer.param_groups for p in group["params"]}:
            holders.setdefault(id(parameter), []).append(optimizer)
    found = {}
    for name, parameter in parameters.items():
        holding = holders.get(id(parameter), [])
        if len(holding) > 1:
            raise ValueError(
                f"{len(holding)} of the optimizers hold {name!r}, so neither's step leaves it as it is. Give each "
                "weight to one of them."
            )
        if parameter.requires_grad and not holding:
            raise ValueError(
                f"the optimizer does not hold {name!r}, so its mask could not be kept. Add it with "
                "optimizer.add_param_group, freeze it with requires_grad_(False), or leave it out with exclude=. Where "
                "several optimizers share the model, give them all: Sparsifier(model, [optimizer, ...], ...)."
            )
        if holding:
            found[name] = holding[0]
    return found


def announced_rate(group: Mapping[str, Any]) -> float:
    """Largest learning rate that a group shows: its own, the one before any schedule, or the peak of a one-cycle one.

    >>> announced_rate({"lr": 0.004, "initial_lr": 0.004, "max_lr": 0.1})
    0.1
    """
    return max(float(group[key]) for key in ("lr", "initial_lr", "max_lr") if group.get(key) is not None)


def is_scheduled(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a scheduler moves a learning rate: torch's and those made after them note the rate before any schedule.

    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    >>> before = is_scheduled(optimizer)
    >>> _ = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    >>> before, is_scheduled(optimizer)
    (False, True)
    """
    return any("initial_lr" in group for group in optimizer.param_groups)


class PeakRates:
    r"""Peaks :math:`\eta_{max}` of the learning rates so far, and the ratios :math:`\eta / \eta_{max}`, at most 1.

    A peak is the largest rate that a group has had or has announced, so that warm-ups and schedules mean the same
    whether they are made before or after this object. Groups that are added later are found when they are first seen.

    >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    >>> peaks = PeakRates([optimizer])
    >>> optimizer.param_groups[0]["lr"] = 0.025
    >>> peaks.see(), [round(ratio, 2) for ratio in peaks.ratios().values()]
    (None, [0.25])
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers
        self._peaks: list[list[float]] = [[] for _ in optimizers]
        self.see(read_device=True)

    def see(self, *, read_device: bool = False) -> None:
        """Take note of the rates; those on an accelerator, where reading waits for it, only if asked."""
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for place, group in enumerate(optimizer.param_groups):
                if place == len(peaks):
                    peaks.append(announced_rate(group))
                elif read_device or not _on_device(group["lr"]):
                    peaks[place] = max(peaks[place], announced_rate(group))

    def ratios(self) -> dict[int, float]:
        """``id`` of each parameter -> the rate of its group over the group's peak; 1 where that is 0."""
        self.see(read_device=True)
        return {
            id(parameter): float(group["lr"]) / peak if peak else 1.0
            for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True)
            for group, peak in zip(optimizer.param_groups, peaks, strict=False)
            for parameter in group["params"]
        }

    def state(self) -> list[float]:
        """The peaks, group by group, optimizer by optimizer."""
        return [peak for peaks in self._peaks for peak in peaks]

    def load(self, state: Iterable[float]) -> None:
        """Restore :meth:`state`; groups that were added since keep what they show."""
        values = iter([float(value) for value in state])
        self._peaks = [[next(values, peak) for peak in peaks] for peaks in self._peaks]


def _on_device(rate: float | Tensor) -> bool:
    return isinstance(rate, Tensor) and rate.device.type != "cpu"
