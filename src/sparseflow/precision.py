"""The widest dtype that a model runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from sparseflow.masks.select import unwrap
from sparseflow.warn import warn

T = TypeVar("T")


class PrecisionWarning(UserWarning):
    """Warning that a model refuses float64, so that a result is right only to the rounding of another dtype."""


def in_widest_dtype(model: nn.Module, run: Callable[[torch.dtype], T]) -> T:
    """Run in float64; where that fails in float32, and then in the model's own dtype.

    Some models refuse float64, such as those with grouped products of experts.

    Args:
        model: Of whose dtype the last try is, and whom the warning names.
        run: Called with a dtype.

    Warns:
        PrecisionWarning: if float64 failed and another dtype did not; it says why.

    >>> in_widest_dtype(nn.Linear(1, 1), lambda dtype: dtype)
    torch.float64
    """
    own = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    choices = dict.fromkeys([torch.float64, torch.float32, *own[:1]])
    first: Exception | None = None
    for dtype in choices:
        try:
            found = run(dtype)
        except (RuntimeError, NotImplementedError) as error:
            first = first or error
            continue
        if first is not None:
            reason = str(first).splitlines()[0]
            message = f"{type(unwrap(model)).__name__} does not run in float64 ({reason}), so {dtype} is used."
            warn(message, PrecisionWarning)
        return found
    assert first is not None
    raise first
