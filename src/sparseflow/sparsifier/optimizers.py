"""What the Sparsifier reads of optimizers at a step: per-weight state, gradients left alone, and learning rates."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from sparseflow.sparsifier.tensors import WHOLE, Kept, Path, WeightState, chain, name_of

#: The number of a parameter's group, and which of the group's numbers are not zero: momentum, amsgrad, centered.
Switches = tuple[Any, ...]


#: Names of state that is a running mean of gradients.
_MOMENTA = {"momentum_buffer", "exp_avg"}


class _Known(NamedTuple):
    parameter: ReferenceType[Tensor]
    switches: Switches
    kept: Mapping[Path, Kept]
    """Where state of single weights is."""
    left_alone: frozenset[str]
    """Names of state that seemed to be such, and is not."""


#: Optimizer -> ``id`` of a parameter -> what is known of the parameter's state.
_KNOWN: WeakKeyDictionary[Any, dict[int, _Known]] = WeakKeyDictionary()


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


def group_number(optimizer: Any, parameter: Tensor) -> int:
    """The number of the group that holds a parameter; -1 if none does."""
    groups = getattr(optimizer, "param_groups", [])
    holding = (n for n, group in enumerate(groups) if any(held is parameter for held in group["params"]))
    return next(holding, -1)


def switches_of(optimizer: Any, parameter: Tensor) -> Switches:
    """What decides which state an optimizer keeps for a parameter; schedulers may turn momentum on after a while.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> switches_of(torch.optim.SGD([weight], momentum=0.9), weight)
    (torch.float32, 0, 'momentum')
    """
    if (number := group_number(optimizer, parameter)) < 0:
        return parameter.dtype, number
    group, settings = optimizer.param_groups[number], getattr(optimizer, "defaults", {})
    rates = ("lr", "initial_lr", "max_lr", "min_lr")
    names = (name for name in group if name in settings and name not in rates)  # others are counts that steps leave
    return (
        parameter.dtype,
        number,
        *(name for name in names if isinstance(group[name], bool | int | float) and group[name]),
    )


def weight_states(optimizer: Any, parameter: Tensor) -> list[WeightState]:
    """The tensors of the optimizer's state that hold one value for each weight, as far as they exist now.

    Which they are, and what a new weight has there, is found once by trying the optimizer out, see
    :mod:`sparseflow.sparsifier.optimizer_state`.

    >>> layer = nn.Linear(2, 1)
    >>> optimizer = torch.optim.Rprop(layer.parameters(), lr=0.25)
    >>> layer(torch.ones(1, 2)).sum().backward(); optimizer.step()
    >>> [(state.key, state.fresh) for state in weight_states(optimizer, layer.weight)]
    [('prev', 0.0), ('step_size', 0.25)]
    """
    known = _known(optimizer, parameter)
    if known is None or known.switches != switches_of(optimizer, parameter):
        known = leave_alone(optimizer, parameter, () if known is None else known.left_alone)
    states = []
    for path, place in known.kept.items():
        tensor = _at(optimizer, parameter, path)
        per_entry = 1 if place.layout == WHOLE else 2
        # A dtype that a checkpoint or model.half() changed is fine, another format is not.
        if (
            tensor is not None
            and tensor.numel() * per_entry == parameter.numel()
            and (tensor.dtype == place.dtype or (tensor.is_floating_point() and place.dtype.is_floating_point))
        ):
            zeroed = place.fresh == 0 and place.layout == WHOLE and tensor.shape == parameter.shape
            states.append(WeightState(path, tensor, place.layout, place.fresh, place.steady, zeroed))
    return states


def left_alone(optimizer: Any, parameter: Tensor) -> frozenset[str]:
    """Names of state that seemed to belong to single weights and was found not to, see :func:`drop_mistaken`."""
    known = _known(optimizer, parameter)
    return frozenset() if known is None else known.left_alone


def leave_alone(optimizer: Any, parameter: Tensor, keys: Iterable[str]) -> _Known:
    """Take state of these names, and of no others that a trial finds, for state of more than single weights."""
    from sparseflow.sparsifier.optimizer_state import findings  # it tries optimizers out, which few steps need

    left, switches = frozenset(keys), switches_of(optimizer, parameter)
    found = findings(optimizer, parameter, switches).per_weight
    kept = {path: place for path, place in found.items() if name_of(path) not in left}
    known = _KNOWN.setdefault(optimizer, {})[id(parameter)] = _Known(ref(parameter), switches, kept, left)
    return known


def drop_mistaken(optimizer: Any, parameter: Tensor, mask: Tensor, *, everywhere: bool) -> None:
    """Forget state that seemed to belong to single weights but has changed while these were inactive.

    Some optimizers begin to mix entries only after many steps. Their state is then left to them, as the rest is.

    Args:
        everywhere: Whether to look at all entries, or at some thousands.
    """
    if type(optimizer).__module__.startswith("torch."):
        return  # their sources are known
    for state in weight_states(optimizer, parameter):
        if state.steady and state.is_stale(mask, everywhere=everywhere):
            leave_alone(optimizer, parameter, left_alone(optimizer, parameter) | {state.key})
            logging.getLogger("sparseflow").warning(
                "%s changed %r of inactive weights, so it is no state of single weights. It is left alone from now on.",
                type(optimizer).__name__,
                state.key,
            )


def _known(optimizer: Any, parameter: Tensor) -> _Known | None:
    known = _KNOWN.setdefault(optimizer, {}).get(id(parameter))
    return known if known is not None and known.parameter() is parameter else None


def _at(optimizer: Any, parameter: Tensor, path: Path) -> Tensor | None:
    """The tensor at a path, if there is one."""
    number, *keys = path
    holder = optimizer if number == 0 else chain(optimizer)[number]
    value: Any = holder.state.get(parameter)
    named = holder.state.get(keys[0]) if keys else None
    if isinstance(named, Mapping) and parameter in named:  # one name, and under it a tensor for each parameter
        value, keys = named[parameter], keys[1:]
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, (list, tuple, Tensor)) and isinstance(key, int):
            value = value[key] if key < len(value) else None
        else:
            value = getattr(value, str(key), None)
    return value if isinstance(value, Tensor) and value.dim() else None


def reset_momentum_(optimizer: Any) -> None:
    """Zero the running means of gradients that an optimizer, and those it holds, move by, of all their parameters.

    These are ``momentum_buffer`` of SGD and its kin and ``exp_avg`` of Adam and its kin. What scales a step by the size
    of gradients stays: without it the next steps would be too long.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.sum().backward(); optimizer.step(); reset_momentum_(optimizer)
    >>> optimizer.state[weight]["momentum_buffer"]
    tensor([0.])
    """
    for each in chain(optimizer):
        for state in each.state.values():
            for key in _MOMENTA & (state.keys() if isinstance(state, Mapping) else set()):
                if isinstance(state[key], Tensor):
                    state[key].zero_()


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
    return max((float(group[key]) for key in ("lr", "initial_lr", "max_lr") if group.get(key) is not None), default=0.0)


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
        self._scheduled: list[list[bool]] = [[] for _ in optimizers]
        self.see(read_device=True)

    def see(self, *, read_device: bool = False) -> None:
        """Take note of the rates; those on an accelerator, where reading waits for it, only if asked."""
        for optimizer, peaks, scheduled in zip(self._optimizers, self._peaks, self._scheduled, strict=True):
            for place, group in enumerate(optimizer.param_groups):
                has_schedule = "initial_lr" in group
                if place == len(peaks):
                    peaks.append(announced_rate(group))
                    scheduled.append(has_schedule)
                elif has_schedule and not scheduled[place]:  # made since, with rates of its own
                    peaks[place], scheduled[place] = announced_rate(group), True
                elif read_device or not _on_device(group.get("lr")):
                    peaks[place] = max(peaks[place], announced_rate(group))

    def ratios(self) -> dict[int, float]:
        """``id`` of each parameter -> the rate of its group over the group's peak; 1 where that is 0."""
        self.see(read_device=True)
        return {
            id(parameter): float(group["lr"]) / peak if peak and "lr" in group else 1.0
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
        self._scheduled = [[True] * len(peaks) for peaks in self._peaks]


def _on_device(rate: float | Tensor | None) -> bool:
    return isinstance(rate, Tensor) and rate.device.type != "cpu"
