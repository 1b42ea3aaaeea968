"""``check_method``: a method of your own against every promise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sparseflow.masks.blocks import BlockLike
from sparseflow.methods.base import Method
from sparseflow.testing.promises import PROMISES
from sparseflow.testing.trial import Trial
from sparseflow.types import BrokenPromiseError, Masks

_OPTIMIZERS = (
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
)


def check_method(
    make: Callable[[], Method],
    *,
    active: Callable[[str, int, int], int] | None = None,
    starts_dense: bool = False,
    masks: Callable[[nn.Module], Masks] | None = None,
    moves: bool = True,
    block: BlockLike = (1, 1),
) -> list[str]:
    """Hold a method to every promise of the library, on a small network under SGD with momentum and under AdamW.

    Args:
        make: Makes the method anew for each run, with updates among the first 13 steps.
        active: Active weights of a layer by its name, size and the step, where their number changes. Default: as many
            as at the start.
        starts_dense: Whether runs start from dense masks, as pruning does. Default: random masks at sparsity 0.7.
        masks: Makes the masks that runs start with, where the method needs some of its own.
        moves: Whether masks change at all.
        block: Blocks that the method keeps; they have to divide weights of ``(3, 1, 3, 3)``, ``(10, 48)`` and
            ``(4, 10)``. Default: single weights.

    Returns: the promises that were kept, all of :data:`sparseflow.testing.PROMISES`.

    Raises:
        BrokenPromiseError: at the first promise that is not kept, which it names.
        TypeError: if ``make`` is no function that returns a method.

    >>> import sparseflow as sf
    >>> len(check_method(lambda: sf.RigL(update_every=3)))
    9
    >>> check_method(lambda: sf.GMP(sparsity=0.9, begin=3, end=9, update_every=3), starts_dense=True)
    Traceback (most recent call last):
    ...
    sparseflow.types.BrokenPromiseError: 'counts are exact' is not kept: '0.weight' has ... it should have 27.
    """
    method = make() if callable(make) else None
    missing = [name for name in ("due", "update", "needs_gradient") if not hasattr(method, name)]
    if missing or method is None:
        raise TypeError(
            "make must be a function without arguments that returns a method, such as "
            f"lambda: MyMethod(update_every=3); what it returned has no {', '.join(missing)}."
        )
    for optimizer in _OPTIMIZERS:
        trial = Trial(
            make=make,
            optimizer=optimizer,
            active=active,
            starts_dense=starts_dense,
            masks=masks,
            moves=moves,
            block=block,
        )
        for name, promise in PROMISES.items():
            try:
                promise(trial)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise BrokenPromiseError(f"{name!r} is not kept: {error}") from error
    return list(PROMISES)
