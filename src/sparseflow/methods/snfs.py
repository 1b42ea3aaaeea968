"""SNFS: drop by magnitude, grow by the running mean of the dense gradient."""

from __future__ import annotations

from typing import Unpack

from sparseflow.methods.drop_grow import DropGrow, Options
from sparseflow.methods.scores import gradient_magnitude, magnitude


def SNFS(*, decay: float = 0.9, **options: Unpack[Options]) -> DropGrow:  # noqa: N802 - the field's name
    r"""Sparse networks from scratch: the smallest weights go, those with the largest gradient momentum come.

    .. math:: m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad s = |m_t|

    No bias correction and no redistribution across layers, as in the authors' code. It needs the dense gradient at
    every step and one dense tensor of running means per masked weight.

    Args:
        decay: :math:`\beta` of the running mean, per optimizer step.
        options: As :func:`sparseflow.RigL`; the authors' code begins with ``first_update=1``.

    Raises:
        ValueError: as :func:`sparseflow.RigL`.

    Reference: Dettmers and Zettlemoyer (2019), *Sparse networks from scratch*; protocol C.2.

    >>> SNFS().gradient_decay
    0.9
    """
    return DropGrow(
        drop_score=magnitude, grow_score=gradient_magnitude, needs_gradient=True, gradient_decay=decay, **options
    )
