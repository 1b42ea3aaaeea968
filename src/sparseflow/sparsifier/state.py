"""What a Sparsifier is made from, and its saved state, checked as a whole before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.boundary import checked
from sparseflow.masks.blocks import SINGLE, BlockGrid
from sparseflow.methods.base import Method

_KEYS = {"masks", "step_count", "last_update", "generator", "gradient_mean", "learning_rates"}


@checked()
def check_arguments(model: nn.Module, masks: Mapping[str, Tensor], method: Method, seed: int) -> None:
    """Check the kinds of what a Sparsifier is made from.

    Raises:
        TypeError, ValueError: naming the argument.

    >>> import sparseflow as sf
    >>> check_arguments(nn.Linear(1, 1), {}, sf.Static, 0)
    Traceback (most recent call last):
    TypeError: method must be an object with a rule for masks, got the class Static. Write sparseflow.Static(...).
    """
    if isinstance(method, type) or not hasattr(method, "due"):
        got = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
        example = f"{method.__name__}(...)" if isinstance(method, type) else "Static() or another method"
        raise TypeError(f"method must be an object with a rule for masks, got {got}. Write sparseflow.{example}.")


def check_state(state: Mapping[str, Any], *, shapes: Mapping[str, torch.Size]) -> None:
    """Check everything of a saved state but its masks, which are checked with the weights.

    Args:
        state: From ``Sparsifier.state_dict()``.
        shapes: Name of each masked weight -> its shape.

    Raises:
        TypeError, ValueError: naming the part that does not fit.

    >>> check_state({"masks": {}}, shapes={})
    Traceback (most recent call last):
    ValueError: this is no Sparsifier state: it lacks generator, gradient_mean, ...
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"a Sparsifier state is a dict, got {type(state).__name__}. Load sparsifier.state_dict().")
    if missing := _KEYS - set(state):
        raise ValueError(f"this is no Sparsifier state: it lacks {', '.join(sorted(missing))}.")
    for key in ("masks", "gradient_mean"):
        if not isinstance(state[key], Mapping) or not all(isinstance(name, str) for name in state[key]):
            raise TypeError(f"the state's {key} must be a dict of tensors by name, got {type(state[key]).__name__}.")
    if set(state["masks"]) != set(shapes):
        different = ", ".join(sorted(set(state["masks"]) ^ set(shapes)))
        raise ValueError(f"the state was saved with masks of other weights; they differ in: {different}.")
    for key in ("step_count", "last_update"):
        if not isinstance(state[key], int) or state[key] < (-1 if key == "last_update" else 0):
            raise ValueError(f"the state's {key} must be a number of optimizer steps, got {state[key]!r}.")
    generator = state["generator"]
    try:
        torch.Generator().set_state(generator.cpu())
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"the state's generator is no state of a CPU torch.Generator ({error}). Load a state as "
            "sparsifier.state_dict() gave it."
        ) from error
    for name, mean in state["gradient_mean"].items():
        if name not in shapes or not isinstance(mean, Tensor) or mean.shape != shapes[name]:
            raise ValueError(
                f"the state's gradient_mean of {name!r} does not fit: needed {tuple(shapes.get(name, ()))}, got "
                f"{tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__}."
            )
    for name, value in state.get("reserve", {}).items():
        if name not in shapes or not isinstance(value, Tensor) or value.shape != shapes[name]:
            raise ValueError(f"the state's reserve of {name!r} does not fit a weight of {tuple(shapes.get(name, ()))}.")
    rates = state["learning_rates"]
    if not isinstance(rates, list | tuple) or not all(isinstance(rate, float | int) and rate >= 0 for rate in rates):
        raise ValueError(f"the state's learning_rates must be numbers from 0 on, got {state['learning_rates']!r}.")
    budgets = state.get("budgets", dict.fromkeys(shapes, 0))
    if not isinstance(budgets, Mapping) or set(budgets) != set(shapes) or not all(map(_is_count, budgets.values())):
        raise ValueError(f"the state's budgets must be a number of weights for each mask, got {budgets!r}.")
    left = state.get("states_left_alone", {})
    if not isinstance(left, Mapping) or not all(name in shapes and _are_names(keys) for name, keys in left.items()):
        raise ValueError(f"the state's states_left_alone must be lists of names for each weight, got {left!r}.")


def check_state_blocks(state: Mapping[str, Any], grids: Mapping[str, BlockGrid]) -> None:
    """Check that a state was saved with the blocks that the method moves; states of earlier versions do not say.

    Raises:
        ValueError: naming the first weight with other blocks.
    """
    saved = state.get("block", {})
    if not isinstance(saved, Mapping) or not all(map(_is_pair, saved.values())):
        raise ValueError(f"the state's block must be two whole numbers for each weight, got {saved!r}.")
    for name in {**saved, **(grids if saved else {})}:
        there, here = tuple(saved.get(name, SINGLE)), grids[name].block if name in grids else SINGLE
        if there != here:
            raise ValueError(
                f"the state was saved with block {there} of {name!r}, and the method has {tuple(here)}. Make the "
                f"method with block={ {name: tuple(block) for name, block in saved.items()} }."
            )


def _is_pair(block: Any) -> bool:
    return isinstance(block, list | tuple) and len(block) == 2 and all(isinstance(size, int) for size in block)


def _is_count(count: Any) -> bool:
    return isinstance(count, int) and count >= 0


def _are_names(keys: Any) -> bool:
    return isinstance(keys, list) and all(isinstance(key, str) for key in keys)
