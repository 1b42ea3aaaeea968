"""SNFS: drop by magnitude, grow by the running mean of the dense gradient."""

from __future__ import annotations

from collections.abc import Callable

from sparseflow.methods.base import DropGrow
from sparseflow.methods.scores import gradient_magnitude, magnitude


def SNFS(  # noqa: N802 - the field's name
    *,
    drop_fraction: float = 0.3,
    update_every: int = 100,
    update_until: int | None = None,
    first_update: int | None = None,
    schedule: str | Callable[..., float] = "learning_rate",
    regrow: bool = True,
    decay: float = 0.9,
) -> DropGrow:
    r"""Sparse networks from scratch: the smallest weights go, those with the largest gradient momentum come.

    .. math:: m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad s = |m_t|

    No bias correction and no redistribution across layers, as in the authors' code. It needs the dense gradient at
    every step and one dense tensor of running means per masked weight.

    Args:
        drop_fraction: As :func:`sparseflow.RigL`.
        update_every: As :func:`sparseflow.RigL`.
        update_until: As :func:`sparseflow.RigL`.
        first_update: As :func:`sparseflow.RigL`; the authors' code begins at 1.
        schedule: As :func:`sparseflow.RigL`.
        regrow: As :func:`sparseflow.RigL`.
        decay: :math:`\beta` of the running mean, per optimizer step.

    Reference: Dettmers and Zettlemoyer (2019), *Sparse networks from scratch*; protocol C.2.

    >>> SNFS().gradient_decay
    0.9
    """
    return DropGrow(
        drop_score=magnitude,
        grow_score=gradient_magnitude,
        drop_fraction=drop_fraction,
        update_every=update_every,
        update_until=update_until,
        first_update=first_update,
        schedule=schedule,
        regrow=regrow,
        needs_gradient=True,
        gradient_decay=decay,
    )
