"""A run as it is typed: complete once its start is known, which ``--pruned-mask`` says."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

from sparseflow.training.config import RunConfig, pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun

Kind = TypeVar("Kind", bound=RunConfig)


@dataclass(frozen=True, kw_only=True)
class TypedDigits(DigitRun):
    """A run on digits whose start is not looked at yet."""

    def _check_start(self) -> None:
        """Nothing: a ticket gets its pruning run from :func:`complete`."""


@dataclass(frozen=True, kw_only=True)
class TypedImages(ImageRun):
    """A run on images whose start is not looked at yet."""

    def _check_start(self) -> None:
        """Nothing: a ticket gets its pruning run from :func:`complete`."""


def complete(typed: RunConfig, kind: type[Kind], *, pruned_mask: bool) -> Kind:
    """The run that was typed.

    Args:
        typed: Its fields.
        kind: ``DigitRun`` or ``ImageRun``.
        pruned_mask: Whether it starts from a pruning run's masks.

    Raises:
        ValueError: if the start does not fit the method.

    >>> complete(TypedDigits(method="lottery"), DigitRun, pruned_mask=True).mask_from.method
    'prune'
    """
    values = {field.name: getattr(typed, field.name) for field in fields(kind)}  # type: ignore[arg-type]
    if pruned_mask:
        parent = pruning_parent(typed)
        values["mask_from"] = kind(**{field.name: getattr(parent, field.name) for field in fields(kind)})  # type: ignore[arg-type]
    return kind(**values)
