"""Optimizers with a caveat for sparse weights: the table of docs/optimizers.md, as data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from sparseflow.doctor.finding import Finding


@cache
def caveats() -> list[dict[str, Any]]:
    """The optimizers of ``docs/optimizers.md`` that are not plain: those with a caveat, and those that are refused.

    Returns: dicts with ``package``, ``name`` of the class, ``cautious`` (timm's ``caution=True``), ``step`` (its length
    where three quarters of a tensor are zeros; ``None`` where it is refused) and ``why``, a list of reasons.

    >>> [row["why"] for row in caveats() if row["package"] == "torch"]
    [['counts zeros: where 3/4 of a tensor are zeros its step is 0.5 times as long']]
    """
    found: list[dict[str, Any]] = json.loads((files("sparseflow.doctor") / "optimizers.json").read_text())
    return found


def caveat_of(optimizer: Any) -> dict[str, Any] | None:
    """The row of an optimizer, or of one that it wraps; ``None`` for those that are plain or not known.

    >>> caveat_of(torch.optim.SGD([torch.zeros(1)], lr=0.1)) is None
    True
    """
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(optimizer).__mro__]
    is_cautious = bool(getattr(optimizer, "defaults", {}).get("caution"))
    for row in caveats():
        if (row["package"], row["name"]) in kinds and row["cautious"] == is_cautious:
            return row
    inner = getattr(optimizer, "optimizer", None)
    return None if inner is None else caveat_of(inner)


def optimizer_caveats(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Finding]:
    """A finding for each optimizer of the table.

    Args:
        optimizers: Those of the run.
    """
    for optimizer in optimizers:
        if (row := caveat_of(optimizer)) is not None:
            name, why = type(optimizer).__name__, " or, by its options, ".join(row["why"])
            yield Finding("optimizer", name, f"{why}.", row["step"], _UNCAUTIOUS if row["cautious"] else _ANOTHER)


_UNCAUTIOUS = "make the optimizer with caution=False"
_ANOTHER = (
    "torch.optim.AdamW(model.parameters(), lr=1e-3), or another that docs/optimizers.md says works; to keep this one, "
    "choose its learning rate on the sparse network"
)
