"""What a Sparsifier does, in the few lines that its ``repr`` shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from sparseflow.methods.base import Method
from sparseflow.methods.drop_grow import DropGrow
from sparseflow.methods.mest import MEST, MagnitudeAndGradient
from sparseflow.methods.rigl import RigL, RigLInverted
from sparseflow.methods.set import SET
from sparseflow.methods.snfs import SNFS

#: How many steps ahead a method is asked for its next update.
_AHEAD = 10_000


def describe_run(
    method: Method,
    *,
    step: int,
    last_update: int,
    shapes: Mapping[str, tuple[int, ...]],
    counts: Mapping[str, int],
    is_removed: bool,
) -> str:
    """The method with its options, the step, the sparsity over all masks together, and the next update.

    Args:
        step: Optimizer steps done.
        last_update: Step of the last update; -1 before the first.
        shapes: Parameter name -> shape of the weight.
        counts: Parameter name -> number of active weights.
        is_removed: Whether nothing holds the masks any more.

    >>> from sparseflow.methods import SET
    >>> print(describe_run(SET(update_every=50), step=120, last_update=100, shapes={"weight": (10, 4)},
    ...     counts={"weight": 10}, is_removed=False))
    Sparsifier: SET(update_every=50) after step 120
      sparsity 0.75: 10 of 40 weights are active, in 1 tensor
      next update after step 150
    """
    total, active = sum(map(math.prod, shapes.values())), sum(counts.values())
    tensors = f"{len(shapes)} tensor{'s' * (len(shapes) != 1)}"
    share = f"sparsity {1 - active / total:.4g}: " if total else ""
    removed = "removed: nothing keeps the masks any more"
    return "\n  ".join(
        (
            f"Sparsifier: {method_words(method)} after step {step}",
            f"{share}{active:,} of {total:,} weights are active, in {tensors}",
            removed if is_removed else _next_update(method, step, last_update),
        )
    )


def method_words(method: Any) -> str:
    """A method as it is made, with the options that differ from their defaults.

    >>> from sparseflow.methods import GMP, RigL
    >>> method_words(RigL(drop_fraction=0.1, total_steps=600))
    'RigL(drop_fraction=0.1, total_steps=600)'
    >>> method_words(GMP(sparsity=0.95, begin=100, end=500))
    'GMP(sparsity=0.95, begin=100, end=500)'
    """
    if not is_dataclass(method):
        return type(method).__name__
    name, usual = _made_by(method) if isinstance(method, DropGrow) else (type(method).__name__, None)
    options = ", ".join(f"{key}={_shown(value)}" for key, value in _options(method, usual))
    return f"{name}({options})"


def _made_by(method: DropGrow) -> tuple[str, DropGrow | None]:
    """The function that a user made the method by, and what it makes where nothing is said."""
    for make in (RigL, RigLInverted, SET, SNFS, MEST):
        usual = make()
        if _rule(usual) == _rule(method):
            return make.__name__, usual
    return type(method).__name__, None


def _rule(method: DropGrow) -> tuple[Any, ...]:
    drop = MagnitudeAndGradient if isinstance(method.drop_score, MagnitudeAndGradient) else method.drop_score
    return drop, method.grow_score, method.needs_gradient, method.gradient_decay > 0


def _options(method: Any, usual: Any | None) -> Iterator[tuple[str, Any]]:
    for field in fields(method):
        default = field.default if usual is None else getattr(usual, field.name)
        value = getattr(method, field.name)
        if field.name == "reads_active_gradient" or (default is not MISSING and value == default):
            continue
        if isinstance(value, MagnitudeAndGradient):
            yield "gradient_weight", value.gradient_weight
        else:
            yield ("decay" if usual is not None and field.name == "gradient_decay" else field.name), value


def _shown(value: Any) -> str:
    return getattr(value, "__name__", repr(value))


def _next_update(method: Method, step: int, last_update: int) -> str:
    if method.replaces_step and method.due(step) and last_update != step:
        return "next update in place of the coming step"
    until = getattr(method, "until", getattr(method, "end", None))
    ahead = range(step + 1, step + 1 + _AHEAD)
    if (found := next((each for each in ahead if method.due(each)), None)) is not None:
        last = f", none after step {until}" if until is not None else ""
        return f"next update after step {found}{last}"
    if last_update >= 0:
        return "masks stay as they are: the last update is behind"
    return f"masks stay as they are: no update in the next {_AHEAD:,} steps"
