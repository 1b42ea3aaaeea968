"""The values that a number may have, declared beside it: for fields of configs and options of commands."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """The values of a number, as a mark in ``Annotated``; NaN and infinities are in none.

    >>> Range(0, 1, with_high=False).check(2, name="momentum")
    Traceback (most recent call last):
    ValueError: momentum must be in [0, 1), got 2.
    """

    low: float = -math.inf
    high: float = math.inf
    with_low: bool = True
    """Whether the lowest value is one of them."""
    with_high: bool = True
    hint: str = ""
    """What to type instead; ends the error."""

    def check(self, value: Any, *, name: str, whole: bool = False) -> None:
        """Check a number.

        Args:
            value: What was given.
            name: Of the argument, field or option.
            whole: Whether it must be an integer; ``3.0`` is one.

        Raises:
            TypeError: if it is no number, such as ``True`` or a tensor.
            ValueError: if it is out of the range, or not whole.
        """
        if isinstance(value, bool) or not isinstance(value, Real):
            kind = "a whole number" if whole else "a number"
            raise TypeError(f"{name} must be {kind}, got {value!r} ({type(value).__name__}).{self._hint}")
        number: Any = value  # Real has no order of its own
        if not (
            (self.low < number or (self.with_low and number == self.low))
            and (number < self.high or (self.with_high and number == self.high))
            and math.isfinite(number)
        ):
            raise ValueError(f"{name} must be {self}, got {value!r}.{self._hint}")
        if whole and not isinstance(value, Integral) and not float(value).is_integer():
            raise ValueError(f"{name} must be a whole number, got {value!r}.{self._hint}")

    def __str__(self) -> str:
        if math.isinf(self.high):
            if math.isinf(self.low):
                return "finite"
            if self.with_low:
                return f"at least {self.low:g}"
            return "positive" if self.low == 0 else f"above {self.low:g}"
        return f"in {'[' if self.with_low else '('}{self.low:g}, {self.high:g}{']' if self.with_high else ')'}"

    @property
    def _hint(self) -> str:
        return f" {self.hint}" if self.hint else ""


#: A number of things of which there is at least one.
Count = Annotated[int, Range(1)]
#: A number of things of which there may be none, or a step.
WholeNumber = Annotated[int, Range(0)]
#: Whose streams are drawn from its digits, so that any will do.
Seed = Annotated[int, Range(-(2**63), 2**63 - 1)]
Fraction = Annotated[float, Range(0, 1)]
FractionBelowOne = Annotated[float, Range(0, 1, with_high=False)]
SPARSITIES = Range(0, 1, with_high=False, hint="For 95% zeros write 0.95, not 95.")
#: A share of zeros.
Sparsity = Annotated[float, SPARSITIES]
Positive = Annotated[float, Range(0, with_low=False)]
NotNegative = Annotated[float, Range(0)]


def checked_fields(values: Any) -> dict[str, Any]:
    """The fields of a dataclass, checked by their annotations, each number of the type that it is annotated with.

    Numbers lie in the :class:`Range` of their annotation; ``bool``, ``str`` and tuples of numbers are checked too, and
    of ``X | None`` both.

    Args:
        values: An instance.

    Raises:
        TypeError, ValueError: naming the field.

    >>> @dataclass
    ... class Run:
    ...     steps: Count = 10
    >>> checked_fields(Run(3.0))
    {'steps': 3}
    >>> checked_fields(Run(0))
    Traceback (most recent call last):
    ValueError: steps must be at least 1, got 0.
    """
    hints = hints_of(type(values))  # type: ignore[arg-type]
    return {each.name: _checked(getattr(values, each.name), hints[each.name], each.name) for each in fields(values)}


@cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """Name -> annotation of a class, with its marks."""
    return get_type_hints(kind, include_extras=True)


def range_of(annotation: Any) -> tuple[type | None, Range | None]:
    """The kind of number of an annotation and its range; None for what is no number, or has no range.

    >>> range_of(Annotated[int, Range(1)] | None)
    (<class 'int'>, Range(low=1, high=inf, with_low=True, with_high=True, hint=''))
    """
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        kind, found = range_of(inner)
        return kind, found or next((mark for mark in marks if isinstance(mark, Range)), None)
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        parts = [range_of(part) for part in get_args(annotation) if part is not Ellipsis]
        return next((part for part in parts if part[0] is not None), (None, None))
    return (annotation, None) if annotation in (int, float) else (None, None)


def _checked(value: Any, annotation: Any, name: str, range_: Range | None = None) -> Any:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = next((mark for mark in parts[1:] if isinstance(mark, Range)), range_)
        return _checked(value, parts[0], name, inner)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        (other, *_) = (part for part in parts if part is not type(None))
        return _checked(value, other, name, range_)
    if origin is tuple and range_of(annotation)[0] is not None:
        return _checked_tuple(value, parts, name, range_)
    if annotation in (int, float):
        (range_ or Range()).check(value, name=name, whole=annotation is int)
        return annotation(value) + 0  # -0.0 + 0 is 0.0: equal configs must not have two names
    if annotation in (bool, str) and not isinstance(value, annotation):
        kinds = {bool: "True or False", str: "text"}
        raise TypeError(f"{name} must be {kinds[annotation]}, got {value!r}.")
    return value


def _checked_tuple(value: Any, parts: tuple[Any, ...], name: str, range_: Range | None) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a tuple of numbers, got {value!r}.")
    of = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
    if len(of) != len(value):
        raise ValueError(f"{name} must be {len(of)} numbers, got {value!r}.")
    return tuple(_checked(one, part, name, range_) for one, part in zip(value, of, strict=True))
