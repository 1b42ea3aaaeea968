"""Two nested states that must be equal to the last bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def same(a: Any, b: Any, where: str = "") -> None:
    """Fail at the first value of two nested states that is not equal to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}[{key!r}]")
    else:
        assert a == b, where
