"""Deep copies of an optimizer that a Sparsifier listens to: torch copies no hooks, so they would train densely."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch.utils.hooks import RemovableHandle

#: A deep copy -> the hook that stops it.
_STOPPED: WeakKeyDictionary[torch.optim.Optimizer, RemovableHandle] = WeakKeyDictionary()


class _Defaults(dict[str, Any]):
    """An optimizer's ``defaults``, which are all that torch copies of it besides groups and state."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.defaults)
        self._of = id(optimizer)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        if isinstance(copied := memo.get(self._of), torch.optim.Optimizer):
            copied._optimizer_step_pre_hooks = OrderedDict()
            _STOPPED[copied] = copied.register_step_pre_hook(_stop)
        return copy.deepcopy(dict(self), memo)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def _stop(*_: object) -> NoReturn:
    raise RuntimeError(
        "this optimizer is a deep copy of one that a Sparsifier listens to; the copy has no Sparsifier, so it would "
        "train all weights. Copy the three together, copy.deepcopy((model, optimizer, sparsifier)), or make a "
        "Sparsifier(copied_model, copied_optimizer, sparsifier.masks, ..., state=sparsifier.state_dict())."
    )


def copy_of(sparsifier: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of a Sparsifier with its model and optimizers, at the same point of the run.

    Raises:
        TypeError: if it has a ``gradient_fn``, which would read the old model.
    """
    if sparsifier.gradient_fn is not None:
        raise TypeError(
            "a Sparsifier with a gradient_fn cannot be copied: the function reads the old model. Copy model and "
            "optimizer, then make Sparsifier(..., gradient_fn=..., state=sparsifier.state_dict())."
        )
    model, optimizers = copy.deepcopy(sparsifier.model, memo), copy.deepcopy(sparsifier.optimizers, memo)
    method, state = copy.deepcopy(sparsifier.method, memo), sparsifier.state_dict()
    rules = [replace(rule) for rule in sparsifier.rules]
    copied = type(sparsifier)(model, optimizers, sparsifier.masks, method, seed=0, state=state, rules=rules)
    memo[id(sparsifier)] = copied
    copied.before_update.extend(sparsifier.before_update)
    copied.after_update.extend(sparsifier.after_update)
    return copied


def stop_copies(optimizer: torch.optim.Optimizer) -> None:
    """Let deep copies of an optimizer raise when they step, until a Sparsifier is made with them.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> optimizer = torch.optim.SGD([weight])
    >>> stop_copies(optimizer)
    >>> copy.deepcopy(optimizer).step()
    Traceback (most recent call last):
    RuntimeError: this optimizer is a deep copy of one that a Sparsifier listens to; ...
    """
    if handle := _STOPPED.pop(optimizer, None):
        handle.remove()
    optimizer.defaults = _Defaults(optimizer)


def allow_copies(optimizer: torch.optim.Optimizer) -> None:
    """Undo :func:`stop_copies`."""
    optimizer.defaults = dict(optimizer.defaults)
