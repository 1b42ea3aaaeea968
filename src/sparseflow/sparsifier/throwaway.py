"""An optimizer made a second time, around a stand-in for one weight, so that its behaviour can be tried out."""

from __future__ import annotations

import copy
import inspect
import random
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.sparsifier.kinds import initial_rate
from sparseflow.sparsifier.tensors import chain, inner_optimizers

#: Methods of optimizers that take a step in phases, with a backward pass before each (SAM and its kin).
_PHASES = ("first_step", "second_step", "third_step")

#: Steps to try a wrapper for: Lookahead and its kin do something more every fifth step or so.
STEPS_OF_WRAPPERS = 24

#: Entries of a group that steps and schedulers leave there; all others are taken for settings.
_LEFT_BY_STEPS = {"step", "steps", "counter", "initial_lr"}


class CannotTryError(Exception):
    """An optimizer that cannot be made a second time, or whose step asks for more than a gradient."""


def phases(optimizer: Any) -> list[str]:
    """Names of the methods that make up a step, if it is taken in phases.

    >>> phases(torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    []
    """
    found = [name for name in _PHASES if callable(getattr(type(optimizer), name, None))]
    return found if len(found) > 1 else []


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave all generators as they were, and keep warnings back."""
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy and numpy.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy is not None:
                numpy.random.set_state(numpy_state)


def throwaway(optimizer: Any, parameter: Tensor, stand_in: nn.Parameter) -> Any:
    """An optimizer of the same class and settings that holds a stand-in instead of its parameters, without a state.

    Settings are looked up under the names of the constructor's arguments: in the parameter's group, the optimizer's
    defaults, its attributes. The learning rate is the one before any schedule. One that was given more than it keeps
    is copied without its state; counts among its attributes then go on from where they are.

    Args:
        optimizer: May hold other optimizers; these are made a second time too.
        parameter: Whose group to take the settings from.

    Raises:
        CannotTryError: if the constructor takes more than settings, and the optimizer holds what cannot be copied.

    >>> weight, stand_in = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    >>> trial = throwaway(torch.optim.SGD([weight], lr=0.25), weight, stand_in)
    >>> trial.param_groups[0]["lr"], trial.param_groups[0]["params"] == [stand_in]
    (0.25, True)
    """
    try:
        return _make_or_copy(optimizer, parameter, [stand_in])
    except Exception as error:  # whatever a foreign constructor raises
        raise CannotTryError(f"{type(error).__name__}: {error}") from error


def _make_or_copy(optimizer: Any, parameter: Tensor, params: list[Any]) -> Any:
    """``params`` are parameters, or groups that another optimizer hands on."""
    try:
        return _make(optimizer, parameter, params)
    except Exception as error:  # noqa: BLE001 - as above
        try:
            return _copy(optimizer, parameter, params[0]["params"][0] if isinstance(params[0], dict) else params[0])
        except Exception:  # noqa: BLE001 - what a foreign attribute raises says less than what the constructor did
            raise error from None


def _make(optimizer: Any, parameter: Tensor, params: list[Any]) -> Any:
    names = list(inspect.signature(type(optimizer).__init__).parameters.values())[1:]
    names = [each for each in names if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    accepted = {each.name for each in names}
    group = _group(optimizer, parameter)
    attributes, defaults = vars(optimizer), getattr(optimizer, "defaults", {})
    # The groups of a wrapper may be those of the optimizer inside, which has settings of the same names.
    sources = (attributes, group, defaults) if inner_optimizers(optimizer) else (group, defaults, attributes)
    arguments: dict[str, Any] = {}
    factories: dict[str, Callable[..., Any]] = {}
    for position, each in enumerate(names):
        inner = next((attributes[n] for n in (each.name, f"_{each.name}") if n in attributes), None)
        if isinstance(inner, torch.optim.Optimizer):
            arguments[each.name] = _make_or_copy(inner, parameter, params)
            factories[each.name] = lambda groups, *_, inner=inner, **__: _make_or_copy(inner, parameter, list(groups))
        elif position == 0:
            groups = (
                params if isinstance(params[0], dict) else [{"params": params, **_settings(group, accepted, defaults)}]
            )
            arguments[each.name] = groups
        else:
            known = next((source[each.name] for source in sources if each.name in source), None)
            if known is not None and _is_plain(known):
                arguments[each.name] = copy.deepcopy(initial_rate(group) if each.name == "lr" and group else known)
            elif each.default is each.empty:
                raise TypeError(f"{type(optimizer).__name__} needs {each.name!r}, which it does not keep")
    try:
        made = type(optimizer)(**arguments)
    except TypeError:
        if not factories:
            raise
        made = type(optimizer)(**{**arguments, **factories})  # it makes the optimizer itself, from a class
    for name, value in attributes.items():
        if name in vars(made) and name not in {"state", "param_groups", "defaults"} and _is_settings(value):
            setattr(made, name, copy.deepcopy(value))
    return _ready(made)


def _ready(made: Any) -> Any:
    if callable(train := getattr(made, "train", None)):
        train()  # schedule-free optimizers step in this mode only
    return made


def _copy(optimizer: Any, parameter: Tensor, stand_in: nn.Parameter) -> Any:
    every = chain(optimizer)
    # What copies refer to instead of the original; other parameters are not copied.
    instead: dict[int, Any] = {id(each): object.__new__(type(each)) for each in every}
    for each in every:
        own = vars(each)
        instead |= {id(held): held for group in own.get("param_groups", ()) for held in group["params"]}
        if "param_groups" in own:
            group = {"params": [stand_in], **_settings(_group(each, parameter), set(), {})}
            instead.setdefault(id(own["param_groups"]), [group])  # a wrapper may have the list of the one inside
        if "state" in own:
            instead.setdefault(id(own["state"]), defaultdict(dict))
    instead[id(parameter)] = stand_in
    for each in every:
        own = vars(each)
        # Hooks, and methods that schedulers or a Sparsifier have replaced, would reach the original.
        names = [n for n in own if not n.endswith("_hooks") and not callable(getattr(type(each), n, None))]
        values = {n: dict(own[n]) if n == "defaults" else own[n] for n in names}
        copied = {n: copy.deepcopy(value, instead) for n, value in values.items()}
        made = instead[id(each)]
        if isinstance(each, torch.optim.Optimizer):
            made.__setstate__(copied)
        else:
            vars(made).update(copied)
    return _ready(instead[id(optimizer)])


def _group(optimizer: Any, parameter: Tensor) -> Mapping[str, Any]:
    groups = [group for each in chain(optimizer) for group in vars(each).get("param_groups", [])]
    holding = (group for group in groups if any(held is parameter for held in group["params"]))
    return next(holding, groups[0] if groups else {})


def _settings(group: Mapping[str, Any], accepted: set[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a user may have given for this group; not what steps have left in it, such as counts."""
    found = {}
    for key, value in group.items():
        if key in accepted or (key not in defaults and key not in _LEFT_BY_STEPS):
            found[key] = initial_rate(group) if key == "lr" else value
    return copy.deepcopy({key: value for key, value in found.items() if key != "params" and _is_plain(value)})


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter) and value.numel() == 1
    return value is None or isinstance(value, (bool, int, float, complex, str, torch.dtype, torch.device))


def _is_settings(value: Any) -> bool:
    """Whether an attribute is a setting: a flag or a text, or an object that holds nothing but plain values."""
    if isinstance(value, (bool, str)):
        return True
    held = getattr(value, "__dict__", None)
    return bool(held) and not isinstance(value, (torch.optim.Optimizer, nn.Module, type)) and _is_plain(held)


class Trial:
    """A throwaway optimizer that takes steps on gradients that are handed to it.

    Its step is tried as a loop would call it, then with a closure, then after a backward pass that keeps its graph
    (AdaHessian); what works at the first step is kept to.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> trial = Trial(torch.optim.SGD([weight], lr=0.25), weight, torch.zeros(2))
    >>> trial.step(torch.tensor([1.0, 0.0]))
    >>> trial.weight.tolist()
    [-0.25, 0.0]
    """

    def __init__(self, optimizer: Any, parameter: Tensor, start: Tensor) -> None:
        self._real, self._parameter, self._start = optimizer, parameter, start
        self._curvature = torch.linspace(0.5, 1.5, start.numel()).view(start.shape).to(start.device, start.dtype)
        self._way: Callable[[Tensor], None] | None = None
        self._begin()

    def _begin(self) -> None:
        self.weight = nn.Parameter(self._start.clone())
        self.optimizer = throwaway(self._real, self._parameter, self.weight)

    def step(self, gradient: Tensor) -> None:
        """Step on a gradient.

        Raises:
            CannotTryError: if no way works.
        """
        if self._way is not None:
            self._way(gradient)
            return
        errors = []
        for way in (self._phases,) if phases(self.optimizer) else (self._plainly, self._closure, self._graph):
            try:
                way(gradient)
            except Exception as error:  # noqa: BLE001 - whatever a foreign step raises
                errors.append(f"{type(error).__name__}: {error}")
                self._begin()
            else:
                self._way = way
                return
        raise CannotTryError(errors[0])

    def _plainly(self, gradient: Tensor) -> None:
        self.weight.grad = gradient.clone()
        self.optimizer.step()

    def _phases(self, gradient: Tensor) -> None:
        for phase in phases(self.optimizer):
            self.weight.grad = gradient.clone()
            getattr(self.optimizer, phase)()

    def _closure(self, gradient: Tensor) -> None:
        def closure() -> Tensor:
            self.weight.grad = gradient.clone()
            with torch.enable_grad():
                return (self.weight * gradient).sum()

        closure()
        self.optimizer.step(closure)

    def _graph(self, gradient: Tensor) -> None:
        self.weight.grad = None
        with torch.enable_grad():
            # Zeros have a curvature, too; a gradient that is zero before the step is zero here.
            curved = 0.5 * ((self.weight - self.weight.detach()).square() * self._curvature).sum()
            ((self.weight * gradient).sum() + curved).backward(create_graph=True)
        self.optimizer.step()
        self.weight.grad = None  # it holds the graph, which holds the weight
