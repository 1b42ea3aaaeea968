"""How much of a network moves, and how sparse it is, over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol


class DropSchedule(Protocol):
    """Factor on the drop fraction, in [0, 1]."""

    def __call__(self, step: int, *, until: int | None, learning_rate_ratio: float) -> float:
        """Factor at ``step`` optimizer steps done."""
        ...


def constant(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    """The same share at every update: 1.

    >>> constant(100, until=None, learning_rate_ratio=0.5)
    1.0
    """
    return 1.0


def cosine(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    r"""From 1 at step 0 to 0 at the last update.

    .. math:: f(t) = \frac{1}{2}\left(1 + \cos \frac{\pi \min(t, t_{end})}{t_{end}}\right)

    Raises:
        ValueError: without ``until``.

    Reference: Dettmers and Zettlemoyer (2019); Evci et al. (2020), RigL.

    >>> [cosine(t, until=100, learning_rate_ratio=1.0) for t in (0, 50, 100, 200)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if until is None:
        raise ValueError("the cosine schedule needs its end: give update_until=, in optimizer steps.")
    return (1 + math.cos(math.pi * min(step, until) / until)) / 2


def learning_rate(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    r"""Proportional to the learning rate of the weight's own parameter group: :math:`f(t) = \eta(t) / \eta(0)`.

    Ratios above 1 (warm-up) count as 1. The paper's MNIST default.

    Reference: protocol C.3.

    >>> learning_rate(100, until=None, learning_rate_ratio=0.25)
    0.25
    """
    return min(1.0, learning_rate_ratio)


#: Name -> schedule of the drop fraction.
DROP_SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "learning_rate": learning_rate,
}


def cubic_sparsity(step: int, *, initial: float, final: float, begin: int, end: int) -> float:
    r"""Sparsity of gradual pruning: steep at first, flat towards the end.

    .. math:: s(t) = s_f + (s_i - s_f)\left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3

    clipped to :math:`[t_0, t_1]`; with :math:`t_0 = t_1` everything at once.

    Args:
        step: Optimizer steps done.
        initial: ``s_i`` before ``begin``.
        final: ``s_f`` from ``end`` on.
        begin: ``t_0``, steps.
        end: ``t_1``, steps.

    Reference: Zhu and Gupta (2017), *To prune, or not to prune*.

    >>> [round(cubic_sparsity(t, initial=0, final=0.95, begin=3000, end=7000), 3) for t in (3000, 4000, 5000, 7000)]
    [0.0, 0.549, 0.831, 0.95]
    """
    if step >= end:
        return final
    if step < begin:
        return initial
    progress = (step - begin) / (end - begin)
    return final + (initial - final) * (1 - progress) ** 3
