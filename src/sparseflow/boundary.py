"""Arguments of public functions, checked once by their annotations."""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

import torch
from torch import Tensor, nn

from sparseflow.ranges import Range

P = ParamSpec("P")
R = TypeVar("R")


def _is_optimizer(value: Any) -> bool:
    """Wrappers of training frameworks are no optimizers by class; they hold one."""
    return isinstance(value, torch.optim.Optimizer) or hasattr(value, "param_groups") or hasattr(value, "optimizer")


#: Annotation -> what an argument must be, and its name in an error.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    kind: (lambda value, kind=kind: isinstance(value, kind), words)  # type: ignore[misc]
    for kind, words in {
        nn.Module: "a torch.nn.Module",
        Tensor: "a tensor",
        collections.abc.Mapping: "a mapping of names, such as a dict",
        torch.Generator: "a torch.Generator, such as torch.Generator().manual_seed(0)",
        torch.dtype: "a torch.dtype",
        bool: "True or False",
        str: "text",
        type(None): "None",
    }.items()
}
_KINDS[collections.abc.Callable] = callable, "a function"
_KINDS[torch.optim.Optimizer] = _is_optimizer, "a torch.optim.Optimizer or a wrapper of one"


def checked(**ranges: Range) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the arguments of a function before it is entered, by their annotations.

    Modules, tensors, mappings, generators, optimizers, functions, texts and numbers must be what they are annotated as;
    numbers are finite, those annotated ``int`` whole. What has another annotation is not looked at.

    Args:
        ranges: Name of a number -> its range.

    Raises:
        TypeError, ValueError: by the function, naming the argument.

    >>> @checked(steps=Range(1))
    ... def walk(steps: int) -> int:
    ...     return steps
    >>> walk(0)
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0.
    >>> walk("far")
    Traceback (most recent call last):
    TypeError: steps must be a whole number, got 'far' (str).
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        annotations: dict[str, Any] = {}

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not annotations:
                annotations.update(_annotations(function, signature))
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in annotations:
                    _check(value, annotations[name], name, ranges.get(name, Range()))
            return function(*args, **kwargs)

        return call

    return decorate


def _annotations(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """Name -> annotation, of those that are there when the program runs."""
    found = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        try:
            found[name] = eval(parameter.annotation, function.__globals__)  # as typing.get_type_hints does
        except NameError:  # imported for type checkers alone
            continue
    return found


def _check(value: Any, annotation: Any, name: str, allowed: Range) -> None:
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    wanted = []
    for part in parts:
        if part in (int, float):
            if len(parts) == 1 or (isinstance(value, int | float) and not isinstance(value, bool)):
                allowed.check(value, name=name, whole=part is int)
                return
            wanted.append("a number")
            continue
        known = _KINDS.get(get_origin(part) or part)
        if known is None or known[0](value):
            return
        wanted.append(known[1])
    shown = f"{value!r} ({type(value).__name__})" if isinstance(value, str | int | float) else type(value).__name__
    raise TypeError(f"{name} must be {' or '.join(wanted)}, got {shown}.")
